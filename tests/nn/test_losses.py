"""Losses and regularisers against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from fsgen.nn import losses


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_logistic_losses_are_logarithms_of_sigmoids():
    real, fake = noise(6, 1) * 3, noise(4, 1, seed=1) * 3
    expected = -sum(math.log(sigmoid(v)) for v in real.flatten()) / 6
    expected -= sum(math.log(1 - sigmoid(v)) for v in fake.flatten()) / 4
    assert losses.logistic_d(real, fake).item() == pytest.approx(expected)
    assert losses.nonsaturating_g(fake).item() == pytest.approx(
        -sum(math.log(sigmoid(v)) for v in fake.flatten()) / 4
    )
    assert losses.log_sigmoid(fake).tolist() == pytest.approx([math.log(sigmoid(v)) for v in fake.flatten()])


def test_losses_of_extreme_logits_are_finite():
    sure = torch.tensor([[1000.0], [-1000.0]])
    assert losses.logistic_d(sure, sure).item() == pytest.approx(1000)
    assert losses.nonsaturating_g(sure).item() == pytest.approx(500)
    assert losses.log_sigmoid(sure).tolist() == pytest.approx([0, -1000])


def test_r1_of_a_linear_discriminator_is_the_square_of_its_weight():
    a = noise(3, 4, 5).requires_grad_()
    images = noise(6, 3, 4, 5, seed=1).requires_grad_()
    penalty = losses.r1((images * a).sum(dim=(1, 2, 3))[:, None], images)
    torch.testing.assert_close(penalty, a.square().sum())
    (gradient,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(gradient, 2 * a)


def test_r1_by_finite_differences():
    """The mean over images of the squared gradient; in the second derivative too."""
    weight = noise(2, 12).requires_grad_()

    def discriminator(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ by.T).tanh().prod(dim=1, keepdim=True)

    images = noise(3, 3, 2, 2, seed=1).requires_grad_()
    expected, step = 0.0, 1e-6
    for i in range(images.numel()):
        shift = torch.zeros(images.numel(), dtype=torch.float64)
        shift[i] = step
        shift = shift.reshape(images.shape)
        rise = (discriminator(images + shift, weight) - discriminator(images - shift, weight)).sum() / (
            2 * step
        )
        expected += rise.item() ** 2 / len(images)
    assert losses.r1(discriminator(images, weight), images).item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(lambda by: losses.r1(discriminator(images, by), images), weight)


def test_path_lengths_of_a_linear_map():
    """images = sum over layers of A_l w_l: the gradient of layer l is A_l^T y / sqrt(H W)."""
    n, layers, dim, shape = 3, 4, 5, (2, 3, 6)  # 18 pixels
    jacobian = noise(layers, dim, *shape)
    ws = noise(n, layers, dim, seed=1).requires_grad_()
    y = noise(n, *shape, seed=2)
    images = torch.einsum("nld,ldchw->nchw", ws, jacobian)
    lengths = losses.path_lengths(images, ws, y)
    for i in range(n):
        squares = [
            sum((jacobian[k, j] * y[i]).sum().item() ** 2 for j in range(dim)) / (3 * 6)
            for k in range(layers)
        ]
        assert lengths[i].item() == pytest.approx(math.sqrt(sum(squares) / layers))


def test_path_lengths_are_independent_of_the_resolution():
    """The reason for 1 / sqrt(H W): a map of orthogonal columns has the same expected length at any size."""
    found = []
    for size in (4, 32):
        columns = torch.linalg.qr(noise(size * size, 2))[0].T.reshape(1, 2, 1, size, size) * size
        ws = torch.zeros(4000, 1, 2, dtype=torch.float64, requires_grad=True)
        images = torch.einsum("nld,ldchw->nchw", ws, columns)
        found.append(losses.path_lengths(images, ws, noise(4000, 1, size, size, seed=1)).mean().item())
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_path_lengths_can_be_differentiated_again():
    ws, y, mix = noise(2, 2, 3), noise(2, 1, 2, 2, seed=1), noise(6, 4, seed=2).requires_grad_()

    def lengths(by: torch.Tensor) -> torch.Tensor:
        w = ws.clone().requires_grad_()
        return losses.path_lengths((w.flatten(1) @ by).sin().reshape(2, 1, 2, 2), w, y)

    assert torch.autograd.gradcheck(lengths, mix)


@pytest.mark.parametrize("before", [0.0, 0.5])
def test_path_penalty_and_its_running_mean(before):
    lengths = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    mean = torch.tensor(before, dtype=torch.float64)
    penalty, after = losses.path_penalty(lengths, mean)
    a = before + 0.01 * (7 / 3 - before)
    assert after.item() == pytest.approx(a)
    assert not after.requires_grad
    assert penalty.item() == pytest.approx(sum((v - a) ** 2 for v in (1, 2, 4)) / 3)
    # d/dl_i of mean_j (l_j - a)^2 with da/dl_i = 0.01 / 3
    slope = 2 * 0.01 / 3 * sum(v - a for v in (1, 2, 4)) / 3
    penalty.backward()
    assert lengths.grad.tolist() == pytest.approx([2 * (v - a) / 3 - slope for v in (1, 2, 4)])


def test_hinge_counts_what_is_short_of_the_margin():
    logits = torch.tensor([[2.0, 0.5], [-1.0, 0.95]])
    assert losses.hinge(logits).item() == pytest.approx((0 + 0.5 + 2 + 0.05) / 4)
    assert losses.hinge(logits, torch.tensor([[0.8, 0.8], [0.9, 0.9]])).item() == pytest.approx(
        (0.3 + 1.9) / 4
    )
    assert losses.hinge(-logits).item() == pytest.approx((3 + 1.5 + 0 + 1.95) / 4)


def test_drift_is_equation_4_and_half_its_gradient_the_pull():
    shapes = [(3, 2, 4, 5), (7,), (1,)]
    now = [noise(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    start = [noise(*shape, seed=10 + i) for i, shape in enumerate(shapes)]
    importance = [noise(*shape, seed=20 + i).square() for i, shape in enumerate(shapes)]
    expected = sum((f * (a - b) ** 2).sum() for a, b, f in zip(now, start, importance, strict=True))
    torch.testing.assert_close(losses.ewc_penalty(now, start, importance), expected)
    assert torch.autograd.gradcheck(lambda *some: 3 * losses.ewc_penalty(some, start, importance), now)
    # in whatever order each lies in memory
    turned = [part.to(memory_format=torch.channels_last) if part.dim() == 4 else part for part in start]
    torch.testing.assert_close(losses.ewc_penalty(now, turned, importance), expected)


def test_mean_difference_is_l1_and_so_is_its_gradient():
    ours, theirs = noise(3, 2, 4, 5).requires_grad_(), noise(3, 2, 4, 5, seed=1)
    theirs[0] = ours.detach()[0]  # no difference, no gradient
    expected = torch.nn.functional.l1_loss(ours, theirs)
    wanted = torch.autograd.grad(7 * expected, ours)
    found = losses.l1_distance(ours, theirs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(7 * found, ours), wanted)
