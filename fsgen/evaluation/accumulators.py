"""Streaming accumulators: one pass over a set of images; each collects what its metrics need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from fsgen.evaluation.discriminator_judge import DiscriminatorJudge
from fsgen.features.base_extractor import Extractor
from fsgen.features.lpips_network import Lpips
from fsgen.metrics.pairwise_lpips import Clusters, Spread

T = TypeVar("T")
THUMBNAIL = 128  # px: larger images are stored at this size for a page


class Accumulator(Protocol):
    """Takes batches of one set of images, in order."""

    def add(self, images: Tensor) -> None:
        """Take a batch, uint8 [n, C, H, W]."""


@dataclass
class AllFeatures:
    """All features of one extractor."""

    network: Extractor
    parts: list[Tensor] = field(default_factory=list)

    def add(self, images: Tensor) -> None:
        self.parts.append(self.network(as_rgb(images)))

    @property
    def value(self) -> Tensor:
        """[n, d], float32 on the CPU."""
        return torch.cat(self.parts)


@dataclass
class PairwiseLpips:
    """Sums that give all mean LPIPS distances of the first ``most`` images."""

    lpips: Lpips
    most: int
    spread: Spread = field(default_factory=Spread)

    def add(self, images: Tensor) -> None:
        if (room := self.most - self.spread.n) > 0:
            self.spread.add(lpips_points(self.lpips, images[:room]))


@dataclass
class ShotClusters:
    """The first ``most`` samples, clustered by the training image nearest in LPIPS."""

    lpips: Lpips
    most: int
    clusters: Clusters

    def add(self, images: Tensor) -> None:
        if (room := self.most - self.clusters.n) > 0:
            self.clusters.add(lpips_points(self.lpips, images[:room]))


@dataclass
class DiscriminatorPoints:
    """Collects discriminator features of the first images, for diversity, and their distances to the shots.

    ``diverse`` and ``most`` are the numbers of images for each."""

    discriminator: DiscriminatorJudge
    diverse: int
    most: int  # 0: the training images are unknown or not needed
    n: int = 0
    parts: list[Tensor] = field(default_factory=list)
    nearest: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, images: Tensor) -> None:
        images = images[: max(self.diverse, self.most) - self.n]
        if not len(images):
            return
        maps = self.discriminator.maps(images)
        if (room := self.diverse - self.n) > 0:
            self.parts.append(self.discriminator.points([part[:room] for part in maps]))
        if (room := self.most - self.n) > 0:
            self.nearest.append(self.discriminator.nearest([part[:room] for part in maps]))
        self.n += len(images)

    @property
    def points(self) -> Tensor:
        """[min(n, diverse), k], float32 on the CPU."""
        return torch.cat(self.parts)

    @property
    def distances(self) -> Tensor:
        """Distance to the nearest training image, [min(n, most)]."""
        return torch.cat([distances for distances, _ in self.nearest])

    @property
    def shots(self) -> Tensor:
        """Index of the nearest training image, int64 [min(n, most)]."""
        return torch.cat([shots for _, shots in self.nearest])


@dataclass
class Thumbnails:
    """Thumbnails of the first ``most`` images."""

    most: int
    parts: list[Tensor] = field(default_factory=list)

    def add(self, images: Tensor) -> None:
        if (room := self.most - sum(map(len, self.parts))) > 0:
            self.parts.append(thumbnails(images[:room]))

    @property
    def value(self) -> Tensor:
        """uint8 [min(n, most), C, s, s], s at most ``THUMBNAIL``."""
        return torch.cat(self.parts)


@dataclass
class Collected:
    """Everything the metrics need of one set of images."""

    thumbnails: Thumbnails
    n: int = 0
    features: dict[str, Tensor] = field(default_factory=dict)  # space -> [n, d]
    lpips: PairwiseLpips | None = None
    clusters: ShotClusters | None = None
    discriminator: DiscriminatorPoints | None = None

    def accumulators(self) -> Iterator[Accumulator]:
        """The accumulators that are set up."""
        parts = (self.thumbnails, self.lpips, self.clusters, self.discriminator)
        yield from (part for part in parts if part is not None)


def required(value: T | None) -> T:
    """Assert that ``value`` is not None: it was set up for the requested metrics."""
    assert value is not None
    return value


def lpips_points(lpips: Lpips, images: Tensor) -> Tensor:
    """LPIPS points [n, D] of uint8 images [n, C, H, W]."""
    return lpips.embed(as_rgb(images).float() / 127.5 - 1)


def as_rgb(images: Tensor) -> Tensor:
    """Repeat a grey channel three times, as a PNG reader does for the networks."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def thumbnails(images: Tensor) -> Tensor:
    """Shrink uint8 [n, C, H, W] to at most ``THUMBNAIL`` px a side."""
    if max(images.shape[2:]) <= THUMBNAIL:
        return images.clone()
    small = nn.functional.interpolate(images.float(), (THUMBNAIL, THUMBNAIL), mode="area")
    return small.round().to(torch.uint8)
