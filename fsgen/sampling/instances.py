"""Conditioning on instances (IC-GAN, Casanova et al. 2021): the features of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.data import neighbours
from fsgen.data.decode import Fit
from fsgen.data.images import load_images
from fsgen.errors import Code, FsgenError
from fsgen.features.base_extractor import Extractor
from fsgen.interfaces import Draw, Generator, Inputs
from fsgen.models.model import Model

BATCH = 64
MANY = 10_000  # images from which on the paper takes 50 neighbours; 5 below
STORED = 1000  # instances that a model keeps to draw from, as the published ones do


def features_of(
    extractor: Extractor, images: Tensor, progress: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """Features [n, h_dim] of length one of uint8 images [n, C, H, W]; grey images are repeated to RGB."""
    rows = []
    for part in images.split(BATCH):
        rows.append(extractor(part.expand(-1, 3, -1, -1)))
        progress(sum(map(len, rows)), len(images))
    return neighbours.unit_length(torch.cat(rows))


def neighbours_for(images: int, asked: int | None) -> int:
    """The number of neighbours of an instance among ``images``: ``asked``, or the paper's.

    Raises:
        FsgenError: more than there are other images, or none.
    """
    if images < 2:
        raise FsgenError(
            "a single image has no neighbours to train on",
            code=Code.TOO_FEW, where="--neighbours", hint="give more images",
        )  # fmt: skip
    k = asked if asked is not None else 50 if images >= MANY else min(5, images - 1)
    if k < 1:
        raise FsgenError("--neighbours is at least 1", code=Code.OUT_OF_RANGE, where="--neighbours")
    if k >= images:
        raise FsgenError(
            f"{images} images have no {k} neighbours each",
            code=Code.TOO_FEW, where="--neighbours", hint=f"more images, or at most {images - 1}",
        )  # fmt: skip
    return k


@dataclass(frozen=True)
class InstanceSet:
    """The images of a run as instances."""

    features: Tensor  # [N, h_dim]
    near: Tensor  # [N, k]: the neighbours of each
    labels: Tensor | None  # [N]: the class of each
    flipped: Tensor | None = None  # [N, h_dim]: of the flipped images, if shown

    @classmethod
    def of(
        cls, features: Tensor, k: int, labels: list[int] | None, flipped: Tensor | None = None
    ) -> InstanceSet:  # fmt: skip
        """A single image is its own neighbour."""
        alone = torch.zeros(1, 1, dtype=torch.int64)
        near = neighbours.nearest_neighbours(features, k).images if len(features) > 1 else alone
        return cls(features, near, None if labels is None else torch.tensor(labels), flipped)

    def stored(self, seed: int) -> Tensor:
        """Up to a thousand instances for the finished model to draw from."""
        order = torch.randperm(len(self.features), generator=random.generator(seed, "stored instances"))
        return self.features[order[:STORED].sort().values]

    def drawing(self, g: Generator) -> Draw:
        """Inputs for training: an instance, and one of its neighbours as its real image.

        With classes the label is the neighbour's (the paper's section 3.2). Where images are mirrored, half
        of the instances are flipped images. Neighbours are the same images, flipped or not independently, as
        with the two settings of the published code.
        """

        def draw(n: int, rng: torch.Generator) -> Inputs:
            inputs = g.draw(n, rng)
            seed = int(torch.randint(2**62, [], generator=rng, device=rng.device))
            own = torch.Generator().manual_seed(seed)
            pairs = neighbours.draw_pairs(self.near, n, own)
            y = inputs.y
            if y is not None and self.labels is not None:
                y = nn.functional.one_hot(self.labels[pairs.images], y.shape[1]).to(y)
            h = self.features[pairs.instances]
            if self.flipped is not None:
                turned = torch.rand(n, 1, generator=own) < 0.5
                h = torch.where(turned, self.flipped[pairs.instances], h)
            assert inputs.z is not None
            return replace(inputs, y=y, h=h.to(inputs.z.device), rows=pairs.images)

        return draw


def after(model: Model, images: str | Path, extractor: Extractor, fit: Fit) -> Model:
    """Condition ``model`` on the features of ``images`` (an image, a folder, a zip)."""
    spec = model.spec
    shown = load_images(images, spec["resolution"], fit=fit, channels=spec["channels"])
    return replace(model, extra={**model.extra, "conditions": features_of(extractor, shown.pixels)})
