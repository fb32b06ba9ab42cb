"""Select filters of a network by importance and mask their gradients.

Shared by AdAM (Zhao et al. 2022, section 4) and RICK (Zhao et al. 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fsgen.interfaces import Layer


def axis_of(net: nn.Module, name: str) -> int:
    """Filter axis of the weight ``name``: 1 in transposed convolutions, else 0."""
    return 1 if getattr(net.get_submodule(name.rpartition(".")[0]), "transposed", False) else 0


def filter_means(value: Tensor, axis: int) -> Tensor:
    """Mean over each filter of a weight or a tensor of its shape: [filters]."""
    return value.movedim(axis, 0).flatten(1).mean(dim=1)


def importance(of_weight: Tensor, *others: Tensor) -> Tensor:
    """Mean of a weight's filter values and ``others`` (a bias's): [filters], float64, on the CPU."""
    return torch.stack([of_weight, *others]).mean(dim=0).cpu().double()


def percentiles(layers: Iterable[Layer], scores: Mapping[str, Tensor], percent: float) -> dict[str, float]:
    """Percentile of the scores in each pool, linearly interpolated.

    Args:
        scores: weight -> [filters], float64.
    """
    pools: dict[str, list[Tensor]] = {}
    for layer in layers:
        pools.setdefault(layer.pool, []).append(scores[layer.weight])
    return {pool: torch.cat(some).quantile(percent / 100).item() for pool, some in pools.items()}


def broadcast(values: Tensor, parameter: Tensor, axis: int = 0) -> Tensor:
    """Reshape one value per filter, [filters], to broadcast along ``axis`` of ``parameter``."""
    return values.to(parameter.device).reshape([-1 if i == axis else 1 for i in range(parameter.ndim)])


def mask_gradient(parameter: nn.Parameter, mask: Tensor) -> None:
    """Clear the gradient outside ``mask``.

    Without any gradient from the first step on, Adam's moments and steps there are exactly 0 for all betas.
    (A product with 0 would give zeros of either sign.)
    """
    if parameter.grad is not None:
        parameter.grad.masked_fill_(~mask, 0.0)
