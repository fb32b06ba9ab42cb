"""Kernel modulation (Zhao et al. 2022, section 4.2): a frozen weight times one plus a matrix of rank one.

Both are parametrisations of a network's own parameters: its code reads ``weight`` and ``bias`` as before.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fsgen.nn.filter_masks import axis_of

START = 1e-7  # of u and v; both at 0 would never move


class Rank1(nn.Module):
    """W -> W * (1 + v u^T) * gain, a row of W being a filter.

    Args:
        weight: W, of any shape.
        axis: of W, which counts its filters.
        rng: of u and v.
        reshaped: as the published code has it for kernels: u v^T, only read as if it were v u^T, so that v[j]
            is not of filter j.
        gain: a constant.
    """

    def __init__(
        self, weight: Tensor, axis: int, rng: torch.Generator, *, reshaped: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        filters = weight.shape[axis]
        self.v, self.u = (
            nn.Parameter(START * torch.randn(n, generator=rng).to(weight))
            for n in (filters, weight.numel() // filters)
        )
        self.axis, self.reshaped, self.gain = axis, reshaped, gain

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.movedim(self.axis, 0)
        outer = torch.outer(self.u, self.v) if self.reshaped else torch.outer(self.v, self.u)
        return (rows * (self.gain + self.gain * outer.reshape(rows.shape))).movedim(0, self.axis)


class Shift(nn.Module):
    """b -> b + a vector that starts at 0."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.b


def modulate(
    net: nn.Module, names: Collection[str], rng: torch.Generator, *, reshaped: bool = False,
    scaled: bool = False,
) -> None:  # fmt: skip
    """Modulate the parameters ``names`` of ``net``: weights by ``Rank1``, biases and scalars by ``Shift``.

    Args:
        reshaped: see ``Rank1``; of kernels alone.
        scaled: as published, layers that are no convolutions are divided by the root of their outputs in
            place of that of their inputs, which changes what the network does wherever the two differ.
    """
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module, value = net.get_submodule(owner), net.get_parameter(name)
        if value.ndim < 2:
            change: nn.Module = Shift(value.detach())
        else:
            kernel = value.ndim > 2
            gain = (value.shape[1] / value.shape[0]) ** 0.5 if scaled and not kernel else 1.0
            change = Rank1(value.detach(), axis_of(net, name), rng, reshaped=reshaped and kernel, gain=gain)
        parametrize.register_parametrization(module, leaf, change)


def added(name: str, part: str) -> str:
    """The name of what modulates the parameter ``name``: ``u`` and ``v`` of a weight, ``b`` of a bias."""
    return f"{_list(name)}.0.{part}"


def original(name: str) -> str:
    """The name of the parameter ``name`` itself, once it is modulated."""
    return f"{_list(name)}.original"


def _list(name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    return f"{owner}.parametrizations.{leaf}"


def fold(net: nn.Module) -> None:
    """Make what modulated parameters come to the parameters themselves."""
    for module in list(net.modules()):
        if parametrize.is_parametrized(module):
            for leaf in list(module.parametrizations):
                if isinstance(module.parametrizations[leaf][0], Rank1 | Shift):
                    parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
