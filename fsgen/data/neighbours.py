"""Exact nearest neighbours among images, by the angle between their features, and IC-GAN's pairs of an
instance with an image near it (Casanova et al. 2021, section 3.1).

On vectors of length one the order by Euclidean distance is that by cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fsgen.errors import FsgenError

SPARE = 8  # candidates beyond those asked for
SLACK = 1e-5  # what float32 may be wrong by in the square of a distance between vectors of length one
CELLS = 2**23  # numbers held at a time

Search = Callable[[Tensor, int], Tensor]
"""([b, d], count) -> the ``count`` nearest rows of all, [b, count], in no certain order."""


class Nearest(NamedTuple):
    """The nearest of each of N images among the others."""

    images: Tensor  # [N, k] int64, nearest first
    distances: Tensor  # [N, k] Euclidean, of features of length one; the last column is the radius


def unit_length(features: Tensor) -> Tensor:
    """[N, d] -> [N, d] float32, each row of length one.

    Raises:
        FsgenError: a row without a direction.
    """
    rows = features.double()
    lengths = rows.norm(dim=1, keepdim=True)
    wrong = ~(lengths.isfinite() & (lengths > 0)).flatten()
    if wrong.any():
        raise FsgenError(
            f"the features of image {int(wrong.nonzero()[0])} are all zero or not numbers",
            hint="choose other features, or leave the image out",
        )
    return (rows / lengths).float()


def nearest_neighbours(features: Tensor, k: int) -> Nearest:
    """The ``k`` nearest neighbours of each image among the others; an image is never its own neighbour.

    faiss searches where it is installed, else torch. Either proposes candidates in float32, more where it
    may be wrong; the order is that of distances in float64, then of numbers, so that both give the same.

    Args:
        features: [N, d], of any length.
        k: neighbours an image.

    Raises:
        FsgenError: ``k`` is less than one, or there are not as many other images.
    """
    n = len(features)
    if not 1 <= k < n:
        raise FsgenError(
            f"{n} images have no {k} neighbours each" if k > 0 else f"{k} neighbours are none",
            hint=f"ask for {n - 1} at most" if n > 1 else "give more images",
        )
    rows = unit_length(features)
    search, count = _search(rows), min(n, k + 1 + SPARE)
    step = max(1, CELLS // max(n, count * rows.shape[1]))
    parts = [_nearest(rows, numbers, search, count, k) for numbers in torch.arange(n).split(step)]
    return Nearest(torch.cat([part.images for part in parts]), torch.cat([part.distances for part in parts]))


def _nearest(rows: Tensor, numbers: Tensor, search: Search, count: int, k: int) -> Nearest:
    """The neighbours of the images ``numbers`` [b] among ``count`` candidates each, or more."""
    candidates = search(rows[numbers], count)
    gap = (rows[numbers, None].double() - rows[candidates]).norm(dim=2)  # [b, count]
    farthest = gap.amax(dim=1)
    gap = gap.masked_fill(candidates == numbers[:, None], torch.inf)  # by number: twins are neighbours
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
    """[b, count] positions from near to far, and at equal distances by number."""
    by_number = candidates.argsort(dim=1)
    by_gap = gap.gather(1, by_number).argsort(dim=1, stable=True)
    return by_number.gather(1, by_gap)


# ---- what is trained on -----------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Instances, whose features are the condition, and for each an image near it, with its label.

    D's reals are the images. What G is told are the instances' features and, with classes, the images'
    labels.
    """

    instances: Tensor  # [n] int64
    images: Tensor  # [n] int64


def pairs_by_instance(near: Tensor, instances: Tensor, ranks: Tensor) -> Pairs:
    """For each of ``instances`` its neighbour of the rank in ``ranks``; never the instance itself.

    Args:
        near: [N, k], ``Nearest.images``.
        instances: [n] numbers of images.
        ranks: [n] in [0, k).
    """
    return Pairs(instances, near[instances, ranks])


def pairs_by_image(near: Tensor, images: Tensor, ranks: Tensor) -> Pairs:
    """The other way round: for each of ``images`` an instance among its neighbours. Shapes as before."""
    return Pairs(near[images, ranks], images)


def images_of_class(labels: Tensor, classes: Tensor, ranks: Tensor) -> Tensor:
    """The image of each rank among those of its class, in the order of their numbers: [n].

    Args:
        labels: [N] int64 classes of all images.
        classes: [n] those asked for.
        ranks: [n], each below the number of images of its class.
    """
    order = labels.argsort(stable=True)
    first = torch.searchsorted(labels[order], classes)
    return order[first + ranks]


def draw_pairs(near: Tensor, n: int, rng: torch.Generator) -> Pairs:
    """``n`` pairs, each instance as likely as the others and each of its neighbours as well."""
    instances = torch.randint(len(near), (n,), generator=rng)
    return pairs_by_instance(near, instances, torch.randint(near.shape[1], (n,), generator=rng))


def draw_pairs_by_class(near: Tensor, labels: Tensor, n: int, rng: torch.Generator) -> Pairs:
    """``n`` pairs, each class as likely as the others, however many images it has."""
    present, counts = labels.unique(return_counts=True)
    chosen = torch.randint(len(present), (n,), generator=rng)
    ranks = (torch.rand(n, generator=rng, dtype=torch.float64) * counts[chosen]).long()
    images = images_of_class(labels, present[chosen], ranks)
    return pairs_by_image(near, images, torch.randint(near.shape[1], (n,), generator=rng))
