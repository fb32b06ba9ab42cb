from __future__ import annotations

import pytest
import torch
from refusals import refused
from sklearn.datasets import load_digits

from fsgen.errors import Code
from fsgen.features.classifier import accuracy, fit_classifier, in_top, logits, predictions


def digits(n: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, 8 px, as uint8 [n, 1, 8, 8]."""
    data = load_digits()
    images = torch.tensor(data.images[:n] / 16 * 255).round().to(torch.uint8)[:, None]
    return images, torch.tensor(data.target[:n])


def stripes(n: int = 40, channels: int = 1, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Horizontal stripes (class 0) and vertical ones (class 1) with noise."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    flat = (torch.arange(size) % 4 < 2).float().expand(size, size)
    pictures = torch.where(labels[:, None, None] == 1, flat, flat.T)[:, None].expand(-1, channels, -1, -1)
    noisy = 150 * pictures + 100 * torch.rand(n, channels, size, size, generator=rng)
    return noisy.to(torch.uint8), labels


@pytest.fixture
def _whole(one_thread):
    """Equal seeds are promised on the same machine with the same threads."""


def test_digits_are_classified_and_the_rest_is_used_for_testing():
    images, labels = digits()
    told = []
    found = fit_classifier(
        images[:1200], labels[:1200], steps=150, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(step, 150) for step in range(1, 151)]
    assert found.accuracy > 0.95 and 230 <= len(found.test_indices) <= 250
    unseen = accuracy(found.network, images[1200:], labels[1200:])
    assert 0.9 < unseen < 1
    assert not any(p.requires_grad for p in found.network.parameters()) and not found.network.training


def test_accuracy_is_the_share_of_right_answers():
    images, labels = stripes()
    found = fit_classifier(images, labels, steps=20)
    assert found.accuracy == 1 and len(found.test_indices) == 8
    assert torch.equal(predictions(found.network, images, batch=7), labels)
    assert accuracy(found.network, images, 1 - labels) == 0
    half = torch.cat([labels[:20], 1 - labels[20:]])
    assert accuracy(found.network, images, half) == 0.5
    assert accuracy(found.network, images[found.test_indices], labels[found.test_indices]) == found.accuracy
    assert [int((labels[found.test_indices] == k).sum()) for k in (0, 1)] == [4, 4]


def test_a_label_is_among_the_likeliest_or_not():
    said = torch.tensor([[0.1, 3.0, 2.0], [5.0, 4.0, 1.0], [0.0, 1.0, 2.0]])
    labels = torch.tensor([2, 1, 0])
    for top, right in ((1, [False] * 3), (2, [True, True, False]), (3, [True] * 3), (5, [True] * 3)):
        assert in_top(said, labels, top).tolist() == right
    images, answers = stripes()
    network = fit_classifier(images, answers, steps=5).network
    found = logits(network, images, batch=7)
    assert found.shape == (40, 2)
    assert torch.equal(in_top(found, answers, 1), predictions(network, images) == answers)


def test_labels_at_random_are_not_learned():
    """Accuracy is measured on images not used for training: memorised labels would score high."""
    images, _ = digits(400)
    labels = torch.randint(2, (400,), generator=torch.Generator().manual_seed(0))
    assert fit_classifier(images, labels, steps=150).accuracy < 0.65


@pytest.mark.usefixtures("_whole")
def test_equal_seeds_give_equal_networks_and_leave_the_global_stream_alone():
    images, labels = stripes(channels=3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = fit_classifier(images, labels, steps=5).network.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    two = fit_classifier(images, labels, steps=5).network.state_dict()
    other = fit_classifier(images, labels, steps=5, seed=1).network.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["out.weight"], other["out.weight"])


def test_what_cannot_be_learned_is_refused():
    images, labels = stripes()
    for changed, answers, code, named in (
        (images, labels[:-1], Code.INCOMPATIBLE, ("labels", "40 images", "got 39")),
        (images, labels * 0, Code.TOO_FEW, ("labels", "at least 2 classes")),
        (images, labels * 2, Code.TOO_FEW, ("class 1 has 0",)),
        (images, labels - 1, Code.INCOMPATIBLE, ("labels", "from 0")),
        (images, torch.cat([labels[:-1], torch.tensor([2])]), Code.TOO_FEW, ("class 2 has 1",)),
        (images[:, :, :6, :6], labels, Code.INCOMPATIBLE, ("at least 8 px", "got 6")),
    ):
        with refused(code, *named):
            fit_classifier(changed, answers, steps=1)
    with pytest.raises(ValueError, match="uint8"):
        fit_classifier(images.float(), labels)
