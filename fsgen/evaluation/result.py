"""What an evaluation comes out as, whatever was evaluated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fsgen.data.images import ImageSet
from fsgen.evaluation.scores import Seen


@dataclass(frozen=True)
class Evaluation:
    """What came out. ``plain`` is what report.json holds of it."""

    path: str
    what: dict[str, Any]  # kind: model (title, hash, licence) or images (count, digest, skipped)
    real: dict[str, Any]  # path, count, digest, skipped
    content: dict[str, Any] | None  # what was translated, likewise
    shots: dict[str, Any] | None  # the training images, likewise
    source: dict[str, Any] | None  # title, hash
    protocol: dict[str, Any]  # name, title, choices with the source of each
    settings: dict[str, Any]  # samples, seed, truncation, resolution, device, files of weights, ...
    near_copy: dict[str, Any] | None  # how near copies were told
    clusters: dict[str, Any] | None  # of intra-LPIPS: size and value of each, deviation (the published +-)
    rows: list[dict[str, Any]]  # name, kind, n, metrics: name -> value, low, high; the first was evaluated
    flags: list[dict[str, Any]]  # name, value, text: what nobody should overlook
    left_out: dict[str, dict[str, str]]  # metric -> why, remedy
    warnings: list[str]
    seconds: float
    seen: dict[str, Seen] = field(repr=False)  # kind -> what was kept of its images
    training: ImageSet | None = field(repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Of what was evaluated."""
        return {name: figure["value"] for name, figure in self.rows[0]["metrics"].items()}

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        hidden = ("seen", "training")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}
