"""What translations are found to be: of their class, near their content, like real pictures.

Intervals are a bootstrap over the contents, each drawn with its translations to all classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsgen.evaluation.accumulators import colour
from fsgen.evaluation.extractors import Networks
from fsgen.evaluation.funit.classifiers import TOP, Judge
from fsgen.evaluation.funit.splits import Classes, Split
from fsgen.evaluation.request import Request
from fsgen.evaluation.scores import REPLICATES
from fsgen.features.classifier import in_top
from fsgen.features.dipd import Dipd
from fsgen.metrics import intervals
from fsgen.metrics.frechet import frechet, frechet_resampled
from fsgen.metrics.inception_score import inception_score, inception_score_resampled
from fsgen.metrics.intervals import Estimate


@dataclass(frozen=True)
class Looked:
    """What was seen of m pictures, each beside its content."""

    logits: dict[str, Tensor]  # judge -> [m, classes]
    dipd: Tensor | None  # [m]
    features: Tensor | None  # [m, 2048], Inception's


@dataclass(frozen=True)
class Eyes:
    """What looks at translations; absent ones are not asked for or not to be had."""

    judges: dict[str, Judge]
    dipd: Dipd | None
    inception: Any
    known: list[Tensor]  # of each unseen class: Inception's features of its pictures, [n, 2048]
    contents: int
    seed: int

    @classmethod
    def of(
        cls, judges: dict[str, Judge], looking: Networks, unseen: Classes, split: Split, contents: int,
        request: Request,
    ) -> Eyes:  # fmt: skip
        inception = looking.features.get("inception")
        known = [] if inception is None else [
            torch.cat([inception(colour(unseen.images.pixels[part])) for part in rows.split(request.batch)])
            for rows in split.real_images
        ]  # fmt: skip
        dipd = None if looking.groups is None else Dipd(looking.groups)
        return cls(judges, dipd, inception, known, contents, request.seed)

    @cached_property
    def counts(self) -> np.ndarray:
        """Of the bootstrap: how often each content is drawn, [B, contents]."""
        return intervals.draws(self.contents, REPLICATES, self.seed)

    @torch.no_grad()
    def look(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Looked:
        """At pictures and the contents they were made of, uint8 [n, C, H, W] each."""
        logits, distances, features = {name: [] for name in self.judges}, [], []
        for images, contents in batches:
            for name, judge in self.judges.items():
                logits[name].append(judge.says(images))
            if self.dipd is not None:
                floats = (colour(part).float() / 127.5 - 1 for part in (images, contents))
                distances.append(self.dipd(*floats).cpu())
            if self.inception is not None:
                features.append(self.inception(colour(images)))
        return Looked(
            {name: torch.cat(parts) for name, parts in logits.items()},
            torch.cat(distances) if distances else None, torch.cat(features) if features else None,
        )  # fmt: skip

    def real_images(self, names: list[str]) -> dict[str, Estimate]:
        """What the judges say of pictures of the unseen classes that they were not trained on."""
        found = {}
        for which, judge in self.judges.items():
            said = judge.says(judge.real_images)
            p, draws = said.softmax(dim=1), intervals.draws(len(said), REPLICATES, self.seed)
            for top in (1, TOP):
                right = in_top(said, judge.labels, top).numpy()
                found[f"top{top}_{which}"] = intervals.share(right, REPLICATES, self.seed)
            found[f"is_{which}"] = _score(p, draws)
        return {name: found[name] for name in names if name in found}

    def chances(self, names: list[str]) -> dict[str, Estimate]:
        """How often one who knows nothing is right."""
        found = {f"top{top}_{which}": Estimate(judge.chance(top))
                 for which, judge in self.judges.items() for top in (1, TOP)}  # fmt: skip
        return {name: found[name] for name in names if name in found}


@dataclass(frozen=True)
class Row:
    """Pictures made of all contents, class by class."""

    eyes: Eyes
    looked: list[Looked] = field(default_factory=list)  # but for their features, which are large
    distances: list[tuple[float, np.ndarray]] = field(default_factory=list)  # FID of each class, resampled

    def add(self, looked: Looked, label: int) -> None:
        """The contents as one class; classes come in their order."""
        if looked.features is not None:
            x, y = looked.features, self.eyes.known[label]
            self.distances.append((frechet(x, y), frechet_resampled(x, y, self.eyes.counts)))
        self.looked.append(Looked(looked.logits, looked.dipd, None))

    def figures(self, names: list[str]) -> dict[str, Estimate]:
        """Those of ``names``, over all classes."""
        found, counts = {}, self.eyes.counts
        for which, judge in self.eyes.judges.items():
            said = torch.stack([one.logits[which] for one in self.looked])  # [classes, m, k]
            labels = judge.first + torch.arange(len(said)).repeat_interleave(said.shape[1])
            for top in (1, TOP):
                right = in_top(said.flatten(0, 1), labels, top).view(said.shape[:2])
                found[f"top{top}_{which}"] = self._share(right.numpy())
            p = said.softmax(dim=2).flatten(0, 1)
            found[f"is_{which}"] = _score(p, np.tile(counts, (1, len(said))))
        if self.eyes.dipd is not None:
            found["dipd"] = self._mean(torch.stack([one.dipd for one in self.looked]).double().numpy())
        if self.distances:
            value = float(np.mean([value for value, _ in self.distances]))
            spread = np.mean([replicates for _, replicates in self.distances], axis=0)
            found["mfid"] = intervals.interval(value, spread, least=0)
        return {name: found[name] for name in names if name in found}

    def _share(self, right: np.ndarray) -> Estimate:
        """Of bool [classes, m]."""
        if right.all() or not right.any():  # resampling finds no spread, yet few contents prove little
            return intervals.share(right[0], REPLICATES, self.eyes.seed)
        return self._mean(right, most=1)

    def _mean(self, values: np.ndarray, most: float | None = None) -> Estimate:
        """Of [classes, m] numbers, none below zero; contents are drawn, each with all classes."""
        each = values.mean(axis=0)
        return intervals.interval(float(each.mean()), self.eyes.counts @ each / len(each), least=0, most=most)


def _score(p: Tensor, counts: np.ndarray) -> Estimate:
    return intervals.interval(inception_score(p), inception_score_resampled(p, counts), least=1)
