"""Kernel modulation (Zhao et al. 2022, section 4.2): a frozen weight times one plus a matrix of rank one.

Implemented as parametrisations: the network's code reads ``weight`` and ``bias`` as before.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fsgen.nn.filter_masks import axis_of

START = 1e-7  # scale of u and v at the start; with both at 0 their gradients would be 0


class Rank1(nn.Module):
    """W -> W * (1 + v u^T) * gain, with a filter per row of W.

    Args:
        weight: W, of any shape.
        axis: filter axis of W.
        rng: draws u and v.
        reshaped: as in the published code for kernels, use u v^T reshaped to the shape of v u^T, so that v[j]
            does not belong to filter j.
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
    """b -> b + offset, which is 0 at the start."""

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
        reshaped: see ``Rank1``; for kernels only.
        scaled: as in the published code, divide linear layers by the root of their outputs instead of their
            inputs, which changes the network's function where the two differ.
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
    """Name of the modulation of the parameter ``name``: ``part`` is u or v for a weight, b for a bias."""
    return f"{_list(name)}.0.{part}"


def original(name: str) -> str:
    """Name of the original parameter ``name`` after modulation."""
    return f"{_list(name)}.original"


def _list(name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    return f"{owner}.parametrizations.{leaf}"


def fold(net: nn.Module) -> None:
    """Replace modulated parameters by their values."""
    for module in list(net.modules()):
        changes = getattr(module, "parametrizations", {})
        for leaf in list(changes):
            if isinstance(changes[leaf][0], Rank1 | Shift):
                parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
