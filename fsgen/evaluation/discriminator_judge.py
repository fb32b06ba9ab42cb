"""A source's discriminator as judge: near copies and diversity, with nothing to download."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fsgen.data.image_output import to_uint8
from fsgen.features.discriminator_features import pool_maps
from fsgen.metrics.memorisation import near_copy_threshold
from fsgen.models.model import Model
from fsgen.sampling.conditioning import conditioning_of

PERCENTILE = 5.0  # of the distances between source samples and their nearest neighbours: below is a copy
SAMPLES = 500  # source samples behind that percentile, whatever the number of images judged
SHIFT = 2  # px at the discriminator's resolution: how far a copy may be moved
FEW = 20  # shots up to which moved copies are looked for: there are 50 variants of each
FINEST = 32  # px: the side at which details are compared


@dataclass
class DiscriminatorJudge:
    """A discriminator, and how near two different pictures of its domain come to each other.

    It looks twice. ``points`` says what is where at every level, for the distances between samples.
    ``nearest`` compares the finest maps alone, each channel in units of its spread among the source's
    samples: a copy agrees with its original stroke by stroke, while two drawings of one hairdo, near the same
    in the deeper and pooled maps, differ there in eyes and mouth.
    """

    model: Model
    d: nn.Module
    spread: Tensor = field(default_factory=lambda: torch.ones(1))  # [C, 1, 1] of the finest maps
    threshold: float = 0.0  # nearer than this is a near copy
    pool: Tensor | None = None  # [m, k] the shots' finest maps, as they are, flipped and moved
    centre: Tensor | None = None  # [k] their mean, taken off: float32 is exact enough then
    shots: int = 0  # how many there are
    moved: bool = False  # whether moved shots are in the pool

    @classmethod
    def of(
        cls, model: Model, shots: Tensor | None, device: torch.device, batch: int
    ) -> DiscriminatorJudge | None:
        """The discriminator of ``model``, or None where it has none.

        Args:
            model: a source.
            shots: the training images, uint8 [k, C, H, W], or None: near copies cannot be told then.
            device: where the networks run.
            batch: pictures at a time.
        """
        d = model.discriminator(device)
        if d is None:
            return None
        discriminator = cls(model, d)
        if shots is None:
            return discriminator
        g = model.generator(device=device)
        seeds = [range(i, min(i + batch, SAMPLES)) for i in range(0, SAMPLES, batch)]
        with torch.no_grad():
            drawn = (to_uint8(g(conditioning_of(model).inputs(g, part, device))) for part in seeds)
            maps = torch.cat([discriminator._finest(discriminator.maps(images)) for images in drawn])
        discriminator.spread = (
            maps.std(dim=(0, 2, 3))[:, None, None] + 1e-3 * maps.std()
        )  # a dead channel stays so
        discriminator.threshold = near_copy_threshold(discriminator._scaled(maps), PERCENTILE)
        discriminator.shots, discriminator.moved = len(shots), len(shots) <= FEW
        variants = _variants(shots, SHIFT if discriminator.moved else 0)
        parts = [part for images in variants for part in images.split(batch)]
        discriminator.pool = torch.cat(
            [discriminator._scaled(discriminator._finest(discriminator.maps(part))) for part in parts]
        )
        discriminator.centre = discriminator.pool.mean(dim=0)
        discriminator.pool -= discriminator.centre
        return discriminator

    @torch.no_grad()
    def maps(self, images: Tensor) -> list[Tensor]:
        """What the discriminator sees of uint8 images [n, C, H, W] of any size, finest first."""
        spec = self.model.spec
        device = next(self.d.parameters()).device
        return self.d.features(_fitted(images, spec["resolution"], spec["channels"]).to(device))

    @torch.no_grad()
    def points(self, maps: list[Tensor]) -> Tensor:
        """Points [n, k] on the CPU: what is where, roughly, at every level."""
        return pool_maps(maps).cpu()

    @torch.no_grad()
    def nearest(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Each image's distance to its nearest shot, [n], and which that is, [n]; on the CPU."""
        points = self._scaled(self._finest(maps)) - self.centre
        found = [torch.cdist(points, part).min(dim=1) for part in self.pool.split(512)]
        distances, part = torch.stack([one.values for one in found]).min(dim=0)
        rows = torch.stack([one.indices for one in found]).gather(0, part[None])[0] + 512 * part
        return distances, rows % self.shots  # the pool is the shots over and over, in their order

    def about(self) -> dict[str, Any]:
        """How near copies were told, for the report."""
        return {
            "space": f"the discriminator of {self.model.about.get('title', 'unnamed')}: its finest maps",
            "discriminator": self.model.hash,
            "threshold": self.threshold,
            "percentile": PERCENTILE,
            "source_samples": SAMPLES,
            "compared": "the training images as they are and flipped"
            + (f", and shifted by up to {SHIFT} px" if self.moved else ""),
        }

    def _finest(self, maps: list[Tensor]) -> Tensor:
        """The finest of them, [n, C, s, s] on the CPU, s at most ``FINEST``."""
        return nn.functional.adaptive_avg_pool2d(maps[0], min(FINEST, maps[0].shape[-1])).cpu()

    def _scaled(self, maps: Tensor) -> Tensor:
        """Maps [n, C, s, s] as points [n, k] whose distances are means over channels and positions."""
        return (maps / self.spread).flatten(1) / maps[0].numel() ** 0.5


def _variants(shots: Tensor, shift: int) -> list[Tensor]:
    """The shots as they are, mirrored, and moved by up to ``shift`` px; their borders are repeated."""
    height, width = shots.shape[2:]
    padded = nn.functional.pad(shots.float(), (shift,) * 4, mode="replicate").to(torch.uint8)
    steps = range(2 * shift + 1)
    moved = [padded[:, :, y : y + height, x : x + width] for y in steps for x in steps]
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
