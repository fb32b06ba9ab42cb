"""What is kept of images that pass by once: each keeper takes every batch and holds what its metrics need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fsgen.evaluation.discriminator_judge import DiscriminatorJudge
from fsgen.metrics.pairwise_lpips import Clusters, Spread

THUMBNAIL = 128  # px: larger pictures are kept at this size for a page


class Accumulator(Protocol):
    """Takes batches of one set of images, in order."""

    def take(self, images: Tensor) -> None:
        """A batch, uint8 [n, C, H, W]."""


@dataclass
class Features:
    """All features of one network."""

    network: Any  # of metrics.backbones
    parts: list[Tensor] = field(default_factory=list)

    def take(self, images: Tensor) -> None:
        self.parts.append(self.network(colour(images)))

    @property
    def value(self) -> Tensor:
        """[n, d], float32 on the CPU."""
        return torch.cat(self.parts)


@dataclass
class Distances:
    """Sums from which all mean LPIPS distances follow, of the first ``most`` images."""

    lpips: Any
    most: int
    spread: Spread = field(default_factory=Spread)

    def take(self, images: Tensor) -> None:
        if (room := self.most - self.spread.n) > 0:
            self.spread.add(embedded(self.lpips, images[:room]))


@dataclass
class Groups:
    """The first ``most`` samples, each with the training image that it is most like by LPIPS."""

    lpips: Any
    most: int
    clusters: Clusters
    n: int = 0

    def take(self, images: Tensor) -> None:
        if (room := self.most - self.n) > 0:
            self.clusters.add(embedded(self.lpips, images[:room]))
            self.n += len(images[:room])


@dataclass
class Judged:
    """As the discriminator sees them: ``diverse`` of them as points, ``most`` of them beside the shots."""

    discriminator: DiscriminatorJudge
    diverse: int
    most: int  # 0: the training images are not known, or not asked about
    n: int = 0
    parts: list[Tensor] = field(default_factory=list)
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def take(self, images: Tensor) -> None:
        images = images[: max(self.diverse, self.most) - self.n]
        if not len(images):
            return
        maps = self.discriminator.maps(images)
        if (room := self.diverse - self.n) > 0:
            self.parts.append(self.discriminator.points([part[:room] for part in maps]))
        if (room := self.most - self.n) > 0:
            self.copies.append(self.discriminator.nearest([part[:room] for part in maps]))
        self.n += len(images)

    @property
    def points(self) -> Tensor:
        """[min(n, diverse), k], float32 on the CPU."""
        return torch.cat(self.parts)

    @property
    def distances(self) -> Tensor:
        """To the nearest training image, [min(n, most)]."""
        return torch.cat([distances for distances, _ in self.copies])

    @property
    def shots(self) -> Tensor:
        """Which training image that is, int64 [min(n, most)]."""
        return torch.cat([shots for _, shots in self.copies])


@dataclass
class Album:
    """Thumbnails of the first ``most`` images."""

    most: int
    parts: list[Tensor] = field(default_factory=list)

    def take(self, images: Tensor) -> None:
        if (room := self.most - sum(map(len, self.parts))) > 0:
            self.parts.append(thumbnails(images[:room]))

    @property
    def value(self) -> Tensor:
        """uint8 [min(n, most), C, s, s], s at most ``THUMBNAIL``."""
        return torch.cat(self.parts)


def embedded(lpips: Any, images: Tensor) -> Tensor:
    """LPIPS points [n, D] of uint8 images."""
    return lpips.embed(colour(images).float() / 127.5 - 1)


def colour(images: Tensor) -> Tensor:
    """Grey as RGB, as a PNG reader would hand it to the networks."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def thumbnails(images: Tensor) -> Tensor:
    """uint8 [n, C, H, W] at no more than ``THUMBNAIL`` px a side."""
    if max(images.shape[2:]) <= THUMBNAIL:
        return images.clone()
    small = nn.functional.interpolate(images.float(), (THUMBNAIL, THUMBNAIL), mode="area")
    return small.round().to(torch.uint8)
