"""Use a source's discriminator to find near copies and measure diversity; nothing has to be downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fsgen.data.image_output import to_uint8
from fsgen.features.discriminator_features import pool_maps
from fsgen.interfaces.networks import Discriminator
from fsgen.metrics.memorisation import near_copy_threshold
from fsgen.models.model import Model
from fsgen.sampling.conditioning import conditioning_of

PERCENTILE = 5.0  # of the distances between source samples and their nearest neighbours: the threshold
SAMPLES = 500  # source samples behind that percentile, whatever the number of images compared
SHIFT = 2  # px at the discriminator's resolution: shots are also compared shifted by up to this
FEW = 20  # shots up to which shifted variants are compared: there are 50 of each
FINEST = 32  # px: the side at which details are compared


@dataclass
class DiscriminatorJudge:
    """A discriminator with a threshold: the distance below which an image is a near copy of a shot.

    Two embeddings are used. ``points`` pools every level, for the distances between samples. ``nearest``
    compares the finest maps alone, each channel in units of its standard deviation over the source's samples:
    there a copy agrees with its original stroke by stroke. Two drawings with the same hair differ there in
    eyes and mouth, although their deeper and pooled maps are close.
    """

    model: Model
    d: Discriminator
    spread: Tensor = field(default_factory=lambda: torch.ones(1))  # [C, 1, 1] deviation of the finest maps
    threshold: float = 0.0  # a smaller distance is a near copy
    pool: Tensor = field(default_factory=lambda: torch.empty(0, 0))  # [m, k] the shots' variants, centred
    centre: Tensor = field(
        default_factory=lambda: torch.empty(0)
    )  # [k] subtracted mean, for float32 rounding
    shots: int = 0  # number of shots
    moved: bool = False  # true if the pool holds shifted shots

    @classmethod
    def of(
        cls, model: Model, shots: Tensor | None, device: torch.device, batch: int
    ) -> DiscriminatorJudge | None:
        """Set up the discriminator of ``model``; None if it has none.

        Args:
            model: a source.
            shots: the training images, uint8 [k, C, H, W]; None if near copies are not needed.
            device: where the networks run.
            batch: images at a time.
        """
        d = model.discriminator(device)
        if d is None:
            return None
        judge = cls(model, d)
        if shots is None:
            return judge
        g = model.generator(device=device)
        seeds = [range(i, min(i + batch, SAMPLES)) for i in range(0, SAMPLES, batch)]
        with torch.no_grad():
            drawn = (to_uint8(g(conditioning_of(model).inputs(g, part, device))) for part in seeds)
            maps = torch.cat([judge._finest(judge.maps(images)) for images in drawn])
        judge.spread = maps.std(dim=(0, 2, 3))[:, None, None] + 1e-3 * maps.std()  # dead channels: no 0 / 0
        judge.threshold = near_copy_threshold(judge._scaled(maps), PERCENTILE)
        judge.shots, judge.moved = len(shots), len(shots) <= FEW
        variants = _variants(shots, SHIFT if judge.moved else 0)
        parts = [part for images in variants for part in images.split(batch)]
        pool = torch.cat([judge._scaled(judge._finest(judge.maps(part))) for part in parts])
        judge.centre = pool.mean(dim=0)
        judge.pool = pool.sub_(judge.centre)
        return judge

    @torch.no_grad()
    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """Feature maps, finest first, of uint8 images [n, C, H, W] of any size."""
        spec = self.model.spec
        device = next(self.d.parameters()).device
        return self.d.features(_fitted(images, spec["resolution"], spec["channels"]).to(device))

    @torch.no_grad()
    def points(self, maps: Sequence[Tensor]) -> Tensor:
        """Points [n, k] on the CPU, pooled from every level."""
        return pool_maps(maps).cpu()

    @torch.no_grad()
    def nearest(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Distance to the nearest shot, [n], and the shot's index, int64 [n]; on the CPU."""
        points = self._scaled(self._finest(maps)) - self.centre
        found = [torch.cdist(points, part).min(dim=1) for part in self.pool.split(512)]
        distances, part = torch.stack([one.values for one in found]).min(dim=0)
        rows = torch.stack([one.indices for one in found]).gather(0, part[None])[0] + 512 * part
        return distances, rows % self.shots  # the pool repeats the shots in order, one variant after another

    def about(self) -> dict[str, Any]:
        """Describe the test for near copies, for the report."""
        return {
            "space": f"the discriminator of {self.model.about.get('title', 'unnamed')}: its finest maps",
            "discriminator": self.model.hash,
            "threshold": self.threshold,
            "percentile": PERCENTILE,
            "source_samples": SAMPLES,
            "compared": "the training images as they are and flipped"
            + (f", and shifted by up to {SHIFT} px" if self.moved else ""),
        }

    def _finest(self, maps: Sequence[Tensor]) -> Tensor:
        """The finest maps, [n, C, s, s] on the CPU, s at most ``FINEST``."""
        return nn.functional.adaptive_avg_pool2d(maps[0], min(FINEST, maps[0].shape[-1])).cpu()

    def _scaled(self, maps: Tensor) -> Tensor:
        """Turn maps [n, C, s, s] into points [n, k] whose distances average over channels and positions."""
        return (maps / self.spread).flatten(1) / maps[0].numel() ** 0.5


def _variants(shots: Tensor, shift: int) -> list[Tensor]:
    """The shots, mirrored and shifted by up to ``shift`` px with their borders repeated."""
    height, width = shots.shape[2:]
    padded = nn.functional.pad(shots.float(), (shift,) * 4, mode="replicate").to(torch.uint8)
    steps = range(2 * shift + 1)
    moved = [padded[:, :, y : y + height, x : x + width] for y in steps for x in steps]
    return [image for part in moved for image in (part, part.flip(3))]


def _fitted(images: Tensor, resolution: int, channels: int) -> Tensor:
    """Bring uint8 of any size and colour to float [n, channels, resolution, resolution] in [-1, 1]."""
    levels = images.float()
    if levels.shape[1] != channels:
        levels = levels.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    if levels.shape[2] != resolution:
        levels = nn.functional.interpolate(levels, (resolution, resolution), mode="bicubic", antialias=True)
        levels = levels.clamp(0, 255)
    return levels / 127.5 - 1
