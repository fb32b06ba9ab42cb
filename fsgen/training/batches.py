"""The batches of a run: inputs by the model's conditioning, and the real images that belong to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fsgen.data.images import ImageSet
from fsgen.interfaces import Inputs

RESIDENT = 512  # images that are kept on the device as floats

RealBatches = Callable[[int, torch.Generator, Inputs], Tensor]
"""(n, generator, the inputs whose condition they share) -> n real images, [n, C, H, W] in [-1, 1]."""


def real_batches(
    images: ImageSet, device: torch.device, *, mirror: bool, classes: list[int] | None = None
) -> RealBatches:
    """Batches of ``images``: those that belong to the inputs, or drawn with replacement.

    Args:
        images: to draw from.
        device: of the batches.
        mirror: flip half of the images left to right.
        classes: of each image, 0 to k - 1, none empty: batches then hold images of the inputs' labels.
    """
    resident = images.floats().to(device) if len(images) <= RESIDENT else None
    rows_of = None if classes is None else _by_class(classes)

    def batch(n: int, rng: torch.Generator, inputs: Inputs) -> Tensor:
        if inputs.rows is not None:
            rows = inputs.rows.cpu()
        elif rows_of is None or inputs.y is None:
            rows = torch.randint(len(images), (n,), generator=rng, device=rng.device).cpu()
        else:
            where = torch.rand(n, generator=rng, device=rng.device).tolist()
            of = [rows_of[k] for k in inputs.y.argmax(dim=1).tolist()]
            rows = torch.tensor([some[int(x * len(some))] for x, some in zip(where, of, strict=True)])
        batch = resident[rows.to(device)] if resident is not None else images.floats(rows).to(device)
        if mirror:
            flip = torch.rand(n, generator=rng, device=rng.device) < 0.5
            batch = torch.where(flip.to(device)[:, None, None, None], batch.flip(3), batch)
        return batch

    return batch


def _by_class(classes: list[int]) -> list[list[int]]:
    """Row numbers of each class."""
    return [[row for row, k in enumerate(classes) if k == wanted] for wanted in range(max(classes) + 1)]
