"""Kernel modulation against the formula written out in float64, and how it is folded away."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fsgen.nn.modulation import START, Rank1, added, fold, modulate, original


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose2d(4, 2, 2, bias=False)
        self.out = nn.Linear(2, 6)
        self.strength = nn.ParameterDict({"noise": nn.Parameter(torch.ones([]))})
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.conv(x).tanh())
        return self.out(x.mean(dim=(2, 3))) * self.strength["noise"]


def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def modulated(**options) -> tuple[Net, Net]:
    """A network, and the same one with large vectors."""
    plain = net()
    other = copy.deepcopy(plain)
    modulate(other, LAYERS, torch.Generator().manual_seed(0), **options)
    with torch.no_grad():
        for i, (name, p) in enumerate(other.named_parameters()):
            if "parametrizations" in name and "original" not in name:
                p.copy_(noise(*p.shape, seed=i))
    return plain, other


LAYERS = ("conv.weight", "conv.bias", "up.weight", "out.weight", "out.bias")


def test_each_filter_has_its_own_v():
    """W[j, i, y, x] (1 + v[j] u[i, y, x]); a transposed convolution's j is its second axis."""
    plain, other = modulated()
    u, v = (other.get_parameter(added("conv.weight", part)) for part in "uv")
    for j in range(4):
        for k, (i, y, x) in enumerate(torch.cartesian_prod(*map(torch.arange, (3, 3, 3))).tolist()):
            wanted = plain.conv.weight[j, i, y, x] * (1 + v[j] * u[k])
            torch.testing.assert_close(other.conv.weight[j, i, y, x], wanted)
    u, v = (other.get_parameter(added("up.weight", part)) for part in "uv")
    assert (len(v), len(u)) == (2, 16)
    wanted = plain.up.weight * (1 + v[None, :, None, None] * u.reshape(4, 2, 2)[:, None])
    torch.testing.assert_close(other.up.weight, wanted)
    u, v = (other.get_parameter(added("out.weight", part)) for part in "uv")
    torch.testing.assert_close(other.out.weight, plain.out.weight * (1 + torch.outer(v, u)))
    torch.testing.assert_close(other.out.bias, plain.out.bias + other.get_parameter(added("out.bias", "b")))


def test_published_kernels_are_read_the_wrong_way_round():
    """Flat element f of the kernel: 1 + u[f // out] v[f mod out]; linear layers as they should be."""
    plain, other = modulated(reshaped=True)
    u, v = (other.get_parameter(added("conv.weight", part)) for part in "uv")
    for f, (ours, theirs) in enumerate(
        zip(other.conv.weight.flatten(), plain.conv.weight.flatten(), strict=True)
    ):
        torch.testing.assert_close(ours, theirs * (1 + u[f // 4] * v[f % 4]))
    u, v = (other.get_parameter(added("out.weight", part)) for part in "uv")
    torch.testing.assert_close(other.out.weight, plain.out.weight * (1 + torch.outer(v, u)))


def test_the_published_scale_is_that_of_as_many_inputs_as_outputs():
    (_, plain), (_, other) = modulated(), modulated(scaled=True)
    assert torch.equal(other.conv.weight, plain.conv.weight)
    torch.testing.assert_close(other.out.weight, plain.out.weight * (2 / 6) ** 0.5)


def test_it_starts_where_the_network_was():
    plain = net()
    other = copy.deepcopy(plain)
    modulate(other, LAYERS, torch.Generator().manual_seed(0))
    x = noise(2, 3, 5, 5)
    torch.testing.assert_close(other(x), plain(x), rtol=1e-10, atol=0.0)
    vectors = [p for name, p in other.named_parameters() if name.endswith((".u", ".v"))]
    assert all(0 < p.abs().max() < 10 * START for p in vectors)  # at 0 exactly they would never move
    other.float()
    assert torch.equal(other.conv.weight, plain.float().conv.weight)


@pytest.mark.parametrize("options", [{}, {"reshaped": True, "scaled": True}])
def test_folded_it_is_a_plain_network_that_does_the_same(options):
    plain, other = modulated(**options)
    x = noise(2, 3, 5, 5)
    wanted = other(x)
    assert (wanted != plain(x)).all()
    fold(other)
    torch.testing.assert_close(other(x), wanted)
    assert type(other.conv) is nn.Conv2d
    assert set(dict(other.named_parameters())) == set(other.state_dict()) == set(plain.state_dict())


def test_others_parametrisations_stay():
    _, other = modulated()
    nn.utils.parametrize.register_parametrization(other.strength, "noise", Other())
    fold(other)
    assert nn.utils.parametrize.is_parametrized(other.strength, "noise")


class Other(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_names():
    _, other = modulated()
    names = dict(other.named_parameters())
    for name in LAYERS:
        assert original(name) in names and name not in names
        assert all(added(name, part) in names for part in ("b" if "bias" in name else "uv"))
    assert isinstance(other.conv.parametrizations.weight[0], Rank1)
