"""Filters of a network, one by one: how much each matters, where the line is drawn, which of them stay still.

What AdAM (Zhao et al. 2022, section 4) and RICK (Zhao et al. 2023, section 3) have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fsgen.interfaces import Layer


def axis_of(net: nn.Module, name: str) -> int:
    """Which axis of the weight ``name`` counts filters: the second of a transposed convolution's."""
    return 1 if getattr(net.get_submodule(name.rpartition(".")[0]), "transposed", False) else 0


def filter_means(value: Tensor, axis: int) -> Tensor:
    """The mean over each filter of a weight, or of anything of its shape: [filters]."""
    return value.movedim(axis, 0).flatten(1).mean(dim=1)


def importance(of_weight: Tensor, *others: Tensor) -> Tensor:
    """The mean over a weight and what goes with its filters (a bias): [filters], float64, on the CPU."""
    return torch.stack([of_weight, *others]).mean(dim=0).cpu().double()


def percentiles(layers: Iterable[Layer], scores: Mapping[str, Tensor], percent: float) -> dict[str, float]:
    """By pool the value that ``percent`` of its filters do not exceed, between two of them linearly.

    Args:
        scores: [filters] of each layer, by its weight, in float64.
    """
    pools: dict[str, list[Tensor]] = {}
    for layer in layers:
        pools.setdefault(layer.pool, []).append(scores[layer.weight])
    return {pool: torch.cat(some).quantile(percent / 100).item() for pool, some in pools.items()}


def broadcast(values: Tensor, parameter: Tensor, axis: int = 0) -> Tensor:
    """One value a filter, [filters], against ``parameter``, whose ``axis`` counts filters."""
    return values.to(parameter.device).reshape([-1 if i == axis else 1 for i in range(parameter.ndim)])


def mask_gradient(parameter: nn.Parameter, moves: Tensor) -> None:
    """Clear the gradient but where something ``moves``.

    With no gradient from its first step on, Adam's moments there stay 0 and so does each step, exactly,
    whatever its betas. (A product with 0 would leave zeros of either sign.)
    """
    if parameter.grad is not None:
        parameter.grad.masked_fill_(~moves, 0.0)
