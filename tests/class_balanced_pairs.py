"""IC-GAN's class-balanced training pairs, which the published program offers and fsgen does not use."""

from __future__ import annotations

import torch
from torch import Tensor

from fsgen.data.neighbours import Pairs


def pairs_by_image(near: Tensor, images: Tensor, ranks: Tensor) -> Pairs:
    """Pair each of ``images`` with an instance among its neighbours; shapes as in ``pairs_by_instance``."""
    return Pairs(near[images, ranks], images)


def images_of_class(labels: Tensor, classes: Tensor, ranks: Tensor) -> Tensor:
    """Indices [n] of the images with the given ranks within their classes.

    Args:
        labels: [N] int64 classes of all images.
        classes: [n] requested classes.
        ranks: [n], each below the number of images of its class.
    """
    order = labels.argsort(stable=True)
    first = torch.searchsorted(labels[order], classes)
    return order[first + ranks]


def draw_pairs_by_class(near: Tensor, labels: Tensor, n: int, rng: torch.Generator) -> Pairs:
    """Draw ``n`` pairs with uniform classes, whatever their numbers of images."""
    present, counts = labels.unique(return_counts=True)
    chosen = torch.randint(len(present), (n,), generator=rng)
    ranks = (torch.rand(n, generator=rng, dtype=torch.float64) * counts[chosen]).long()
    images = images_of_class(labels, present[chosen], ranks)
    return pairs_by_image(near, images, torch.randint(near.shape[1], (n,), generator=rng))
