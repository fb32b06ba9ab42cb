"""Exact nearest neighbours of images by the angle between features, and IC-GAN's training pairs.

IC-GAN pairs an instance with an image near it (Casanova et al. 2021, section 3.1). For unit vectors, the
order by Euclidean distance equals that by cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fsgen.errors import Code, FsgenError

SPARE = 8  # additional candidates
SLACK = 1e-5  # bound on float32's error in the squared distance of unit vectors
CELLS = 2**23  # matrix elements in memory at a time

Search = Callable[[Tensor, int], Tensor]
"""([b, d], count) -> indices of the ``count`` nearest rows, [b, count], unordered."""


class Nearest(NamedTuple):
    """The nearest neighbours of each of N images."""

    images: Tensor  # [N, k] int64, nearest first
    distances: Tensor  # [N, k] Euclidean, between unit vectors; the last column is the radius


def unit_length(features: Tensor) -> Tensor:
    """Normalise rows to unit length: [N, d] -> [N, d] float32.

    Raises:
        FsgenError: a row that is zero or not finite.
    """
    rows = features.double()
    lengths = rows.norm(dim=1, keepdim=True)
    wrong = ~(lengths.isfinite() & (lengths > 0)).flatten()
    if wrong.any():
        row = int(wrong.nonzero()[0])
        message, hint = f"the features of image {row} are zero or not finite", "choose other features"
        raise FsgenError(message, code=Code.DAMAGED, where=row, hint=f"{hint}, or leave the image out")
    return (rows / lengths).float()


def nearest_neighbours(features: Tensor, k: int) -> Nearest:
    """Find the ``k`` nearest neighbours of each image among the others.

    faiss, if installed, or torch proposes candidates in float32, more of them where rounding could matter;
    ordering by float64 distance, then by index, gives equal results for both.

    Args:
        features: [N, d], not necessarily normalised.
        k: neighbours per image.

    Raises:
        FsgenError: ``k`` is below one or above N - 1.
    """
    n = len(features)
    if not 1 <= k < n:
        message, hint = (
            f"{n} images have no {k} neighbours each",
            f"use 1 to {n - 1}" if n > 1 else "use more images",
        )
        raise FsgenError(message, code=Code.TOO_FEW if k > 0 else Code.OUT_OF_RANGE, where=k, hint=hint)
    rows = unit_length(features)
    search, count = _search(rows), min(n, k + 1 + SPARE)
    step = max(1, CELLS // max(n, count * rows.shape[1]))
    parts = [_nearest(rows, numbers, search, count, k) for numbers in torch.arange(n).split(step)]
    return Nearest(torch.cat([part.images for part in parts]), torch.cat([part.distances for part in parts]))


def _nearest(rows: Tensor, numbers: Tensor, search: Search, count: int, k: int) -> Nearest:
    """Find the neighbours of the images ``numbers`` [b] among at least ``count`` candidates each."""
    candidates = search(rows[numbers], count)
    gap = (rows[numbers, None].double() - rows[candidates]).norm(dim=2)  # [b, count]
    farthest = gap.amax(dim=1)
    gap = gap.masked_fill(candidates == numbers[:, None], torch.inf)  # by index: duplicates are neighbours
    order = _order(gap, candidates)[:, :k]
    near = Nearest(candidates.gather(1, order), gap.gather(1, order).float())
    unsure = gap.gather(1, order[:, -1:])[:, 0].square() + SLACK >= farthest.square()
    if count < len(rows):  # else every image was a candidate
        for i in unsure.nonzero().flatten().tolist():
            again = _nearest(rows, numbers[i : i + 1], search, min(len(rows), 4 * count), k)
            near.images[i], near.distances[i] = again.images[0], again.distances[0]
    return near


def _search(rows: Tensor) -> Search:
    try:
        import faiss
    except ImportError:
        return lambda part, count: (part @ rows.T).topk(count, dim=1).indices
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows.numpy())
    return lambda part, count: torch.from_numpy(index.search(part.numpy(), count)[1])


def _order(gap: Tensor, candidates: Tensor) -> Tensor:
    """[b, count] positions in order of distance, then of index."""
    by_number = candidates.argsort(dim=1)
    by_gap = gap.gather(1, by_number).argsort(dim=1, stable=True)
    return by_number.gather(1, by_gap)


# ---- training pairs ---------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Instances and an image near each of them.

    D's real images are the images; the conditions are the instances' features and the images' labels.
    """

    instances: Tensor  # [n] int64
    images: Tensor  # [n] int64


def pairs_by_instance(near: Tensor, instances: Tensor, ranks: Tensor) -> Pairs:
    """Pair each of ``instances`` with its neighbour of the given rank.

    Args:
        near: [N, k], ``Nearest.images``.
        instances: [n] image indices.
        ranks: [n] in [0, k).
    """
    return Pairs(instances, near[instances, ranks])


def draw_pairs(near: Tensor, n: int, rng: torch.Generator) -> Pairs:
    """Draw ``n`` pairs with uniform instances and uniform neighbours of each."""
    instances = torch.randint(len(near), (n,), generator=rng)
    return pairs_by_instance(near, instances, torch.randint(near.shape[1], (n,), generator=rng))
