"""A small classifier of labelled pictures, which tells whether a conditional generator draws what it is told.

The one network that is trained outside the training loop: it is a measuring instrument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.errors import FsgenError

WIDTH = 32  # channels of the first block
LEAST = 8  # px: two blocks halve the picture


@dataclass(frozen=True)
class Classifier:
    """A trained network, and how far its answers can be trusted."""

    network: nn.Module  # uint8 [n, C, H, W] -> logits [n, classes]
    accuracy: float  # on pictures it was not trained on
    test_indices: Tensor  # rows of the images it was not trained on, int64 [m]


class ClassifierNetwork(nn.Module):
    """Two blocks of two 3x3 convolutions, each halving the picture, and a linear layer on the mean."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (WIDTH, 2 * WIDTH):
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(16 * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [n, C, H, W] -> logits [n, classes]."""
        x = self.layers(images.float() / 127.5 - 1)
        return self.out(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def fit_classifier(
    images: Tensor, labels: Tensor, *, test_share: float = 0.2, steps: int = 500, batch: int = 64,
    seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Classifier:  # fmt: skip
    """Train a classifier on a part of ``images`` and measure it on the rest.

    Equal seeds give equal networks on the same machine. It sees the pictures moved by up to a pixel each way.

    Args:
        images: uint8 [n, C, H, W] of at least 8 px, on any device; the classifier works where they are.
        labels: [n] whole numbers from 0; each class needs pictures on both sides of the split.
        test_share: share of each class's pictures that is only measured on.
        steps: of Adam, with a learning rate that falls from 0.002 to 0 along a cosine.
        batch: pictures a step.
        seed: of the split, the network and the order of the pictures.
        progress: told the steps done and their number.

    Raises:
        FsgenError: not one label a picture, pictures too small, or a class of too few pictures to split.
    """
    _check(images, labels)
    test = _split(labels.cpu(), test_share, seed)  # on the CPU a mask fits tensors of any device
    shown, answers = images[~test], labels[~test].to(images.device).long()
    network = _untrained(images.shape[1], int(labels.max()) + 1, seed).to(images.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rng = random.generator(seed, "classifier", step)
        rows = torch.randint(len(shown), (batch,), generator=rng).to(images.device)
        loss = nn.functional.cross_entropy(network(_moved(shown[rows], rng)), answers[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        falling.step()
        progress(step + 1, steps)
    network.eval().requires_grad_(False)
    right = accuracy(network, images[test], labels[test])
    return Classifier(network, right, test.nonzero().flatten())


@torch.no_grad()
def logits(network: nn.Module, images: Tensor, *, batch: int = 256) -> Tensor:
    """What the network says of uint8 ``images`` [n, C, H, W]: float32 [n, classes] on the CPU."""
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).cpu() for part in images.split(batch)])


def predictions(network: nn.Module, images: Tensor, *, batch: int = 256) -> Tensor:
    """The likeliest class of each of uint8 ``images`` [n, C, H, W]: int64 [n] on the CPU."""
    return logits(network, images, batch=batch).argmax(dim=1)


def in_top(logits: Tensor, labels: Tensor, top: int) -> Tensor:
    """Whether each label [n] is among the ``top`` likeliest of its logits [n, classes]: bool [n]."""
    likeliest = logits.topk(min(top, logits.shape[1])).indices
    return (likeliest == labels[:, None]).any(dim=1)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 ``images`` [n, C, H, W] whose likeliest class is that of ``labels`` [n]."""
    return (predictions(network, images) == labels.cpu()).double().mean().item()


def _untrained(channels: int, classes: int, seed: int) -> ClassifierNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClassifierNetwork(channels, classes)


def _split(labels: Tensor, test_share: float, seed: int) -> Tensor:
    """Which pictures are held out, bool [n]: the same share of each class, at least one."""
    rng = random.generator(seed, "held out")
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        rows = (labels == label).nonzero().flatten()
        if len(rows) < 2:
            raise FsgenError(
                f"class {label} has {len(rows)} pictures", hint="a classifier needs at least 2 of each class"
            )
        aside = min(len(rows) - 1, max(1, round(test_share * len(rows))))
        test[rows[torch.randperm(len(rows), generator=rng)[:aside]]] = True
    return test


def _moved(images: Tensor, rng: torch.Generator) -> Tensor:
    """The whole batch moved by up to a pixel each way, its border repeated."""
    height, width = images.shape[2:]
    y, x = torch.randint(3, (2,), generator=rng).tolist()
    padded = nn.functional.pad(images.float(), (1, 1, 1, 1), mode="replicate").to(images.dtype)
    return padded[:, :, y : y + height, x : x + width]


def _check(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images [n, C, H, W], got {images.dtype} {list(images.shape)}")
    if min(images.shape[2:]) < LEAST:
        raise FsgenError(f"a classifier needs pictures of at least {LEAST} px, got {min(images.shape[2:])}")
    if len(labels) != len(images) or labels.is_floating_point() or (len(labels) and labels.min() < 0):
        raise FsgenError(f"{len(images)} pictures need a class number each, got {len(labels)}")
    if len(labels.unique()) < 2:
        raise FsgenError("a classifier needs pictures of at least 2 classes")
