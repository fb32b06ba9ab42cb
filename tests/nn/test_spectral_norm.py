"""Spectral normalisation against PyTorch's own and against the singular values themselves."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from fsgen.nn.spectral_norm import SpectralConv


def pair(*, transposed: bool) -> tuple[SpectralConv, nn.Module]:
    """Ours and PyTorch's classic hook with the same tensors, none at its initial value."""
    torch.manual_seed(0)
    ours = SpectralConv(3, 5, 4, stride=2, padding=1, transposed=transposed)
    theirs = (nn.ConvTranspose2d if transposed else nn.Conv2d)(3, 5, 4, stride=2, padding=1, bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nn.utils.spectral_norm(theirs)
    with torch.no_grad():
        for value in (*ours.parameters(), *ours.buffers()):
            value.add_(0.3 * torch.randn(value.shape))
    names = {"weight_orig": ours.weight, "weight_u": ours.u, "weight_v": ours.v}
    theirs.load_state_dict({name: value.detach() for name, value in names.items()})
    return ours, theirs


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_outputs_gradients_and_vectors_are_pytorchs(transposed, training):
    ours, theirs = pair(transposed=transposed)
    ours.train(training), theirs.train(training)
    real_images, fakes = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = [(net(real_images), net(fakes)) for net in (ours, theirs)]  # twice before one backward pass
    torch.testing.assert_close(*seen)
    for a, b in seen:
        (a.square().sum() + b.sin().sum()).backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight_orig.grad)
    torch.testing.assert_close((ours.u, ours.v), (theirs.weight_u, theirs.weight_v))


@pytest.mark.parametrize("transposed", [False, True])
def test_iterations_find_the_largest_singular_value(transposed):
    ours = SpectralConv(3, 5, 4, transposed=transposed)
    ours.iterate(200)

    def sigma(u: Tensor, v: Tensor) -> float:
        return torch.dot(u, ours.matrix @ v).item()

    assert sigma(ours.u, ours.v) == pytest.approx(torch.linalg.matrix_norm(ours.matrix, 2).item(), rel=1e-4)
    assert ours.matrix.shape == (5, 48)


def test_untrained_layers_are_near_norm_one_already():
    torch.manual_seed(1)
    layer = SpectralConv(16, 32, 3, padding=1).eval()
    sigma = torch.dot(layer.u, layer.matrix @ layer.v)
    assert torch.linalg.matrix_norm(layer.matrix / sigma, 2).item() == pytest.approx(1, abs=0.05)


def test_evaluation_leaves_the_vectors_alone():
    layer = SpectralConv(2, 2, 3).eval()
    before = layer.u.clone(), layer.v.clone()
    layer(torch.randn(1, 2, 5, 5))
    assert torch.equal(layer.u, before[0]) and torch.equal(layer.v, before[1])
    layer.train()(torch.randn(1, 2, 5, 5))
    assert not torch.equal(layer.u, before[0])
