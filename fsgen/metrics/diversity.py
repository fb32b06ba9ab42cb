"""How different samples are from one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from fsgen.errors import FsgenError
from fsgen.metrics.features import Features, Rng, matrix, stream
from fsgen.metrics.memorisation import cross_distances

if TYPE_CHECKING:
    from torch import Tensor


def mean_pairwise(features: Features, *, chunk: int = 1024) -> float:
    """Mean L2 distance over all pairs of different rows of [n, d], n >= 2.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    x = matrix(features, least=2)
    x = x - x.mean(axis=0)
    total = 0.0
    for start in range(0, len(x), chunk):
        block = cross_distances(x[start : start + chunk], x)
        rows = np.arange(len(block))
        block[rows, start + rows] = 0.0  # rounding leaves the distance to oneself a little above zero
        total += block.sum()
    return float(total / (len(x) * (len(x) - 1)))


def random_pairs(n: int, pairs: int, rng: Rng) -> np.ndarray:
    """``pairs`` different unordered pairs out of n things, int64 [pairs, 2]; all where there are fewer."""
    total = n * (n - 1) // 2
    random = stream(rng)
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


def mean_squared_pairwise(points: Iterable[Tensor]) -> float:
    """Mean squared L2 distance over *all* pairs of rows of [n, d], given in batches, n >= 2 in all.

    With batches of ``Lpips.embed`` this is the mean LPIPS of all pairs for n forward passes: the mean over
    i != j of |e_i - e_j|^2 is 2 / (n - 1) (sum |e_i|^2 - n |mean e|^2), and two running sums hold it.

    Raises:
        FsgenError: fewer than two rows.
    """
    n, total, squares = 0, 0.0, 0.0
    for batch in points:
        rows = batch.detach().double()
        n += len(rows)
        total = total + rows.sum(dim=0)
        squares += float(rows.square().sum())
    if n < 2:
        raise FsgenError(f"diversity needs at least 2 images, got {n}")
    return max(0.0, 2 / (n - 1) * (squares - float(total.square().sum()) / n))
