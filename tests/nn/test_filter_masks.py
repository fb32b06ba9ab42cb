"""Filters of a network: axes, importance, percentiles, gradient masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fsgen.interfaces import Layer
from fsgen.nn.filter_masks import axis_of, broadcast, filter_means, importance, mask_gradient, percentiles
from fsgen.nn.spectral_norm import SpectralConv


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("layer", "axis"),
    [
        (nn.Conv2d(2, 3, 3), 0),
        (nn.Linear(2, 3), 0),
        (nn.ConvTranspose2d(2, 3, 3), 1),
        (SpectralConv(2, 3, 3), 0),
        (SpectralConv(2, 3, 3, transposed=True), 1),
    ],
)
def test_a_filter_makes_one_channel(layer, axis):
    """Without the filters j their channels are 0, and only theirs."""
    assert axis_of(nn.ModuleDict({"layer": layer}), "layer.weight") == axis
    x = noise(1, 2, 4, 4) if layer.weight.ndim == 4 else noise(1, 2)
    with torch.no_grad():
        layer.weight.masked_fill_(broadcast(torch.tensor([False, True, False]), layer.weight, axis), 0.0)
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()
        y = layer(x)
    assert not y[:, 1].any() and y[:, 0].any() and y[:, 2].any()


@pytest.mark.parametrize("axis", [0, 1])
def test_the_mean_over_each_filter(axis):
    value = noise(3, 4, 2, 2)
    for j, mean in enumerate(filter_means(value, axis)):
        torch.testing.assert_close(mean, value.select(axis, j).mean())


def test_a_bias_counts_as_much_as_its_weight():
    weight, bias = noise(5), noise(5, seed=1)
    torch.testing.assert_close(importance(weight), weight.double())
    torch.testing.assert_close(importance(weight, bias), ((weight + bias) / 2).double())


@pytest.mark.parametrize("percent", [0, 0.1, 37.5, 50, 99.9, 100])
def test_lines_are_percentiles_of_each_pool(percent):
    layers = [Layer("a", "x"), Layer("b", "y"), Layer("a", "z")]
    scores = {"x": noise(7).exp(), "y": noise(11, seed=1), "z": noise(6, seed=2).exp() * 1e-9}
    scores = {name: value.double() for name, value in scores.items()}
    found = percentiles(layers, scores, percent)
    for pool, names in (("a", "xz"), ("b", "y")):
        both = np.concatenate([scores[name].numpy() for name in names])
        assert found[pool] == pytest.approx(np.percentile(both, percent), rel=1e-12, abs=1e-18)


def test_mask_gradient_clears_gradients_outside_the_mask():
    parameter = nn.Parameter(noise(3, 2))
    mask_gradient(parameter, torch.ones(3, 1, dtype=torch.bool))
    assert parameter.grad is None
    parameter.grad = noise(3, 2, seed=1)
    expected = parameter.grad.clone()
    expected[1] = 0
    mask_gradient(parameter, broadcast(torch.tensor([True, False, True]), parameter))
    assert torch.equal(parameter.grad, expected)


def test_a_gradient_cleared_from_the_start_is_no_movement():
    """Adam's first moment stays 0 there, whatever its betas: equal to the bit after 50 steps."""
    parameter = nn.Parameter(noise(4, 3))
    before = parameter.detach().clone()
    adam = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.99), foreach=True)
    for i in range(50):
        parameter.grad = noise(4, 3, seed=i)
        mask_gradient(parameter, broadcast(torch.tensor([False, True, False, True]), parameter))
        adam.step()
    assert torch.equal(parameter[::2], before[::2]) and (parameter[1::2] != before[1::2]).all()
