"""The mean distance over all pairs of images, pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor


@torch.no_grad()
def mean_distance(images: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Mean of ``distance``, an ``Lpips``, over all pairs of float ``images`` [n, 3, H, W] in [-1, 1]."""
    pairs = combinations(images.split(1), 2)
    return float(torch.cat([distance(a, b) for a, b in pairs]).double().mean())
