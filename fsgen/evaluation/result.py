"""The result of an evaluation: scores for report.json, images for the pages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fsgen.data.images import ImageSet
from fsgen.evaluation.accumulators import Collected


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; ``plain`` gives its part of report.json, keyed by the field names."""

    path: str
    what: dict[str, Any]  # kind: model (title, hash, licence) or images (count, digest, skipped)
    real: dict[str, Any]  # path, count, digest, skipped
    content: dict[str, Any] | None  # images that were translated, likewise
    shots: dict[str, Any] | None  # the training images, likewise
    source: dict[str, Any] | None  # title, hash
    protocol: dict[str, Any]  # name, title, choices with the source of each
    settings: dict[str, Any]  # samples, seed, truncation, resolution, device, weight files, ...
    near_copy: dict[str, Any] | None  # the test for near copies and its results
    clusters: dict[str, Any] | None  # of intra-LPIPS: size and value of each, deviation (the published +-)
    rows: list[dict[str, Any]]  # name, kind, n, metrics: name -> value, low, high; first the evaluated set
    flags: list[dict[str, Any]]  # name, value, text
    left_out: dict[str, dict[str, str]]  # metric -> why, remedy
    warnings: list[str]
    seconds: float
    collected: dict[str, Collected] = field(repr=False)  # by kind of set
    training: ImageSet | None = field(repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Scores of the evaluated set."""
        return {name: score["value"] for name, score in self.rows[0]["metrics"].items()}

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        hidden = ("collected", "training")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}
