"""What a page shows besides figures: pictures, and what a run wrote down."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Neighbour:
    """A sample beside the training image nearest to it."""

    sample: Tensor  # uint8 [C, H, W]
    shot: Tensor  # uint8 [C, H, W]
    distance: float  # in the space of the report's ``near_copy``
    copy: bool  # nearer than the report's threshold
    seed: int | None  # of the sample, where it has one


@dataclass(frozen=True)
class Cluster:
    """The samples nearest to one training image (Ojha et al. 2021)."""

    shot: Tensor  # uint8 [C, H, W]
    members: Tensor  # uint8 [m, C, H, W], some or all of them
    size: int  # how many there are
    value: float | None  # mean LPIPS among them; None for fewer than two


@dataclass(frozen=True)
class Exhibits:
    """Absent parts are None or empty; the page does without them."""

    samples: Tensor | None = None  # uint8 [n, C, H, W], of what was evaluated
    shots: Tensor | None = None  # uint8 [n, C, H, W], the training images
    real_images: Tensor | None = None  # uint8 [n, C, H, W], some of them
    pairs: tuple[Tensor, Tensor] | None = None  # source, adapted: the same latents, uint8 [n, C, H, W] each
    neighbours: list[Neighbour] = field(default_factory=list)  # nearest first
    clusters: list[Cluster] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)  # lines of log.jsonl: "step", "d", "g", ...
    fisher: dict[str, float] = field(default_factory=dict)  # layer -> mean Fisher, first to last
    change: dict[str, float] = field(default_factory=dict)  # layer -> mean |change| / mean |weight|
    translations: tuple[Tensor, Tensor, Tensor] | None = None  # contents, pictures of a class, what was made
