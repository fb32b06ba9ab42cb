"""The contents of a page besides scores: images, and curves from a run's log."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Neighbour:
    """A sample with the training image nearest to it."""

    sample: Tensor  # uint8 [C, H, W]
    shot: Tensor  # uint8 [C, H, W]
    distance: float  # in the space of the report's ``near_copy``
    copy: bool  # nearer than the report's threshold
    seed: int | None  # of the sample; None for image files


@dataclass(frozen=True)
class Cluster:
    """The samples nearest to one training image (Ojha et al. 2021)."""

    shot: Tensor  # uint8 [C, H, W]
    members: Tensor  # uint8 [m, C, H, W], some or all of the samples
    size: int  # number of samples
    value: float | None  # mean LPIPS among them; None for fewer than two


@dataclass(frozen=True)
class PageContents:
    """Images and curves of one report; absent parts are None or empty."""

    samples: Tensor | None = None  # uint8 [n, C, H, W], of the evaluated set
    shots: Tensor | None = None  # uint8 [n, C, H, W], the training images
    real_images: Tensor | None = None  # uint8 [n, C, H, W], some of them
    pairs: tuple[Tensor, Tensor] | None = None  # source, adapted: the same latents, uint8 [n, C, H, W] each
    neighbours: list[Neighbour] = field(default_factory=list)  # nearest first
    clusters: list[Cluster] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)  # lines of log.jsonl: "step", "d", "g", ...
    fisher: dict[str, float] = field(default_factory=dict)  # layer -> mean Fisher, first to last
    change: dict[str, float] = field(default_factory=dict)  # layer -> mean |change| / mean |weight|
    translations: tuple[Tensor, Tensor, Tensor] | None = None  # contents, images of a class, translations
    grid: Tensor | None = None  # uint8 [C, H, W], the last grid of samples of a run
