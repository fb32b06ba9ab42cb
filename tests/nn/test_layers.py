"""Equalised and modulated layers against their formulas, in float64."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from torch import Tensor

from fsgen.nn.layers import GAIN, EqualConv, EqualLinear, ModulatedConv, lrelu, minibatch_std, normalise


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(layer: torch.nn.Module) -> torch.nn.Module:
    """In float64, every parameter drawn anew from a fixed seed."""
    layer.double()
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(generator=rng)
    return layer


def activation(x: Tensor, clamp: float = math.inf, gain: float = 1.0) -> Tensor:
    """As published: leaky ReLU, times sqrt(2), clamped, times the gain."""
    return (torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)).clamp(-clamp, clamp) * gain


def test_lrelu_of_what_carries_the_gain_is_the_published_activation():
    x = torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(lrelu(x * GAIN), activation(x))
    torch.testing.assert_close(lrelu(x * GAIN, clamp=2.0), activation(x, clamp=2.0))


def test_normalise_gives_each_row_a_mean_square_of_one():
    x = noise(3, 8) * torch.tensor([[1.0], [100.0], [1e-3]])
    expected = torch.stack([row / math.sqrt((row**2).mean() + 1e-8) for row in x])
    torch.testing.assert_close(normalise(x), expected)


@pytest.mark.parametrize("lr_mul", [1.0, 0.01])
@pytest.mark.parametrize("activate", [False, True])
def test_linear(lr_mul, activate):
    layer = perturbed(EqualLinear(5, 3, lr_mul=lr_mul, activate=activate))
    x = noise(4, 5)
    expected = x.new_zeros(4, 3)
    for n in range(4):
        for o in range(3):
            expected[n, o] = sum(x[n, i] * layer.weight[o, i] * lr_mul / math.sqrt(5) for i in range(5))
            expected[n, o] += layer.bias[o] * lr_mul
    torch.testing.assert_close(layer(x), activation(expected) if activate else expected)


def test_linear_starts_at_the_bias_it_is_given():
    layer = EqualLinear(2, 3, lr_mul=0.01, bias=1.0)
    torch.testing.assert_close(layer(torch.zeros(1, 2)), torch.ones(1, 3))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_conv(size, down, bare):
    layer = perturbed(EqualConv(3, 2, size, down=down, bare=bare, clamp=None if bare else 0.5))
    x = noise(2, 3, 6, 4)
    weight = layer.weight.detach() / math.sqrt(3 * size**2)
    if not down:
        expected = naive.conv(x, weight, padding=size // 2)
    elif size == 3:
        expected = naive.conv(naive.filtered(naive.pad(x, 2, 2)), weight, padding=0, stride=2)
    else:
        expected = naive.conv(naive.filtered(naive.pad(x, 1, 1)), weight, padding=0, stride=2)
    if bare:
        expected = expected * 0.7
    else:
        expected = activation(expected + layer.bias[:, None, None], 0.5, 0.7)
        assert (expected.abs() >= 0.35 - 1e-9).any(), "nothing was clamped"
    torch.testing.assert_close(layer(x, 0.7), expected)


def paper(layer: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    """Equations 1 and 3 as they stand: each sample has a weight of its own."""
    out = []
    for sample, latent in zip(x, w, strict=True):
        style = latent @ layer.affine.weight.T / math.sqrt(len(latent)) + layer.affine.bias
        weight = style[None, :, None, None] * layer.weight  # equation 1: w'_ijk = s_i w_ijk
        if layer.demodulate:  # equation 3: w'' = w' / sqrt(sum_ik w'^2 + eps)
            weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        else:  # toRGB: equalised instead
            weight = weight / math.sqrt(weight[0].numel())
        if layer.up:
            stamped = naive.conv_transpose(sample[None], weight)
            out.append(naive.filtered(naive.pad(stamped, 1, 1), gain=4.0))
        else:
            out.append(naive.conv(sample[None], weight, padding=weight.shape[-1] // 2))
    return torch.cat(out)


@pytest.mark.parametrize(
    "size, options",
    [(3, {}), (3, {"up": True}), (1, {"demodulate": False}), (1, {}), (3, {"up": True, "demodulate": False})],
)
def test_modulated_conv_is_a_weight_per_sample(size, options):
    layer = perturbed(ModulatedConv(3, 4, size, 5, **options))
    x, w = noise(2, 3, 4, 3), noise(2, 5, seed=1)
    ours = layer.convolve(x, w)
    torch.testing.assert_close(ours, paper(layer, x, w))
    assert ours.shape[2:] == ((8, 6) if layer.up else (4, 3))


def test_modulated_conv_has_the_gradients_of_the_paper():
    layer = perturbed(ModulatedConv(3, 4, 3, 5, up=True))
    x, w = noise(2, 3, 3, 3).requires_grad_(), noise(2, 5, seed=1).requires_grad_()
    seen = noise(2, 4, 6, 6, seed=2)
    wanted = [x, w, *layer.parameters()]
    ours = torch.autograd.grad((layer.convolve(x, w) * seen).sum(), wanted)
    theirs = torch.autograd.grad((paper(layer, x, w) * seen).sum(), wanted)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference)


def test_demodulation_makes_the_strength_of_a_style_irrelevant():
    layer = perturbed(ModulatedConv(3, 4, 3, 5))
    x, w = noise(1, 3, 4, 4), noise(1, 5, seed=1)
    before = layer.convolve(x, w)
    with torch.no_grad():
        layer.affine.weight *= 7
        layer.affine.bias *= 7
    torch.testing.assert_close(layer.convolve(x, w), before)


def spread_by_loop(x: Tensor, group: int) -> Tensor:
    n = len(x)
    size = max(g for g in range(1, min(group, n) + 1) if n % g == 0)
    count = n // size
    spreads = []
    for j in range(count):
        members = x[[i for i in range(n) if i % count == j]]
        deviation = ((members - members.mean(dim=0)) ** 2).mean(dim=0)
        spreads.append((deviation + 1e-8).sqrt().mean())
    return torch.stack([spreads[i % count] for i in range(n)])


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("group", [1, 2, 3, 4, 32])
def test_minibatch_std(n, group):
    x = noise(n, 3, 2, 4)
    out = minibatch_std(x, group)
    assert torch.equal(out[:, :3], x)
    expected = spread_by_loop(x, group)[:, None, None].expand(n, 2, 4)
    torch.testing.assert_close(out[:, 3], expected)


def test_minibatch_std_of_one_sample_is_constant():
    """A batch of one has no spread: 1e-4, without a gradient."""
    x = noise(1, 3, 4, 4).requires_grad_()
    channel = minibatch_std(x, 4)[:, 3]
    torch.testing.assert_close(channel, torch.full_like(channel, 1e-4))
    (gradient,) = torch.autograd.grad(channel.sum(), x)
    assert not gradient.any()
