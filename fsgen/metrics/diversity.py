"""How different samples are from one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fsgen.errors import FsgenError
from fsgen.metrics.distances import cross_distances
from fsgen.metrics.feature_sets import Features, Rng, as_matrix, random_stream
from fsgen.metrics.intervals import pairs_resampled

if TYPE_CHECKING:
    from torch import Tensor


def mean_pairwise(features: Features, *, chunk: int = 1024) -> float:
    """Mean L2 distance over all pairs of different rows of [n, d], n >= 2.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    return float(mean_pairwise_resampled(features, np.ones((1, len(features))), chunk=chunk)[0])


def mean_pairwise_resampled(features: Features, counts: np.ndarray, *, chunk: int = 1024) -> np.ndarray:
    """``mean_pairwise`` of the rows of [n, d] resampled by counts [B, n]: [B]."""
    x = as_matrix(features, least=2)
    x = x - x.mean(axis=0)
    blocks = (cross_distances(x[start : start + chunk], x) for start in range(0, len(x), chunk))
    return pairs_resampled(blocks, counts)


def random_pairs(n: int, pairs: int, rng: Rng) -> np.ndarray:
    """``pairs`` different unordered pairs out of n things, int64 [pairs, 2]; all where there are fewer."""
    total = n * (n - 1) // 2
    random = random_stream(rng)
    k = np.arange(total) if pairs >= total else random.choice(total, pairs, replace=False)
    # Pair number k, counted along the rows of the lower triangle: row j begins at j (j - 1) / 2.
    j = ((1 + np.sqrt(1 + 8 * k.astype(np.float64))) / 2).astype(np.int64)
    return np.stack([k - j * (j - 1) // 2, j], axis=1)


def lpips_diversity(
    images: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    pairs: int = 1000,
    rng: Rng = 0,
    *,
    batch: int = 16,
) -> float:
    """Mean ``distance`` over random pairs of different images.

    Args:
        images: float [n, 3, H, W] in [-1, 1], n >= 2.
        distance: two such batches -> [n], an ``Lpips``.
        pairs: how many pairs at most.
        rng: seed or stream the pairs are drawn from.
        batch: pairs at a time.

    Raises:
        FsgenError: fewer than two images.
    """
    import torch

    if len(images) < 2:
        raise FsgenError(f"diversity needs at least 2 images, got {len(images)}")
    chosen = torch.from_numpy(random_pairs(len(images), pairs, rng))
    with torch.no_grad():
        distances = [distance(images[block[:, 0]], images[block[:, 1]]) for block in chosen.split(batch)]
    return float(torch.cat(distances).double().mean())
