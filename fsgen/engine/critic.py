"""A source's discriminator as judge: near copies and diversity, with nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fsgen.data.pictures import to_uint8
from fsgen.engine import nearness
from fsgen.engine.seeds import inputs_of
from fsgen.metrics.memorisation import near_copy_threshold, nearest
from fsgen.models.model import Model

PERCENTILE = 5.0  # of the distances between source samples and their nearest neighbours: below is a copy
SAMPLES = 500  # source samples behind that percentile, whatever the number of images judged
SHIFT = 2  # px at the discriminator's resolution: how far a copy may be moved


@dataclass(frozen=True)
class Critic:
    """A discriminator, and how near two different pictures of its domain come to each other."""

    model: Model  # whose discriminator it is
    d: nn.Module
    threshold: float  # nearer than this is a near copy
    pool: Tensor | None  # [m, k] the shots, as they are, flipped and shifted

    @classmethod
    def of(cls, model: Model, shots: Tensor | None, device: torch.device, batch: int) -> Critic | None:
        """The discriminator of ``model``, or None where it has none.

        Args:
            model: a source.
            shots: the training images, uint8 [k, C, H, W], or None.
            device: where the networks run.
            batch: pictures at a time.
        """
        d = model.discriminator(device)
        if d is None:
            return None
        judge = cls(model, d, 0.0, None)
        g = model.generator(device=device)
        with torch.no_grad():
            points = [
                judge.points(to_uint8(g(inputs_of(g, range(i, min(i + batch, SAMPLES)), device))))
                for i in range(0, SAMPLES, batch)
            ]
        pool = None if shots is None else torch.cat([judge.points(part) for part in _variants(shots)])
        return cls(model, d, near_copy_threshold(torch.cat(points), PERCENTILE), pool)

    def points(self, images: Tensor) -> Tensor:
        """uint8 [n, C, H, W] of any size -> points [n, k] on the CPU."""
        spec = self.model.spec
        return nearness.embed(self.d, _fitted(images, spec["resolution"], spec["channels"]))

    def distances(self, points: Tensor) -> np.ndarray:
        """How far each of the points [n, k] is from the nearest shot, [n]."""
        return nearest(points, self.pool).distances

    def about(self) -> dict[str, Any]:
        """How near copies were told, for the report."""
        return {
            "space": f"features of the discriminator of {self.model.about.get('title', 'unnamed')}",
            "discriminator": self.model.hash,
            "threshold": self.threshold,
            "percentile": PERCENTILE,
            "source_samples": SAMPLES,
            "compared": f"the training images as they are, flipped, and shifted by up to {SHIFT} px",
        }


def _variants(shots: Tensor) -> list[Tensor]:
    """The shots as they are, mirrored, and moved by ``SHIFT`` px in eight directions; borders repeat."""
    height, width = shots.shape[2:]
    padded = nn.functional.pad(shots.float(), (SHIFT,) * 4, mode="replicate").to(torch.uint8)
    corners = [(y, x) for y in (0, SHIFT, 2 * SHIFT) for x in (0, SHIFT, 2 * SHIFT)]
    moved = [padded[:, :, y : y + height, x : x + width] for y, x in corners]
    return [image for part in moved for image in (part, part.flip(3))]


def _fitted(images: Tensor, resolution: int, channels: int) -> Tensor:
    """uint8 of any size and colour as float [n, channels, resolution, resolution] in [-1, 1]."""
    levels = images.float()
    if levels.shape[1] != channels:
        levels = levels.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    if levels.shape[2] != resolution:
        levels = nn.functional.interpolate(levels, (resolution, resolution), mode="bicubic", antialias=True)
        levels = levels.clamp(0, 255)
    return levels / 127.5 - 1
