"""Score translations: accuracy of their class, distance to their content, distance to real images.

Intervals are a bootstrap over the contents, each drawn with its translations to all classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fsgen.evaluation.accumulators import as_rgb, required
from fsgen.evaluation.funit.classifiers import TOP, UnseenClassifier
from fsgen.evaluation.funit.splits import LabelledImages, Split
from fsgen.evaluation.metric_networks import MetricNetworks
from fsgen.evaluation.protocols import Request
from fsgen.evaluation.scores import REPLICATES
from fsgen.features.base_extractor import Extractor
from fsgen.features.classifier import in_top
from fsgen.features.dipd import Dipd
from fsgen.metrics import intervals
from fsgen.metrics.frechet import frechet, frechet_resampled
from fsgen.metrics.inception_score import inception_score, inception_score_resampled
from fsgen.metrics.intervals import Estimate


@dataclass(frozen=True)
class Outputs:
    """Outputs of the networks for m images, each with its content."""

    logits: dict[str, Tensor]  # classifier -> [m, classes]
    dipd: Tensor | None  # [m]
    features: Tensor | None  # [m, 2048], Inception's


@dataclass(frozen=True)
class TranslationNetworks:
    """The networks that score translations; None if not requested or not available."""

    classifiers: dict[str, UnseenClassifier]
    dipd: Dipd | None
    inception: Extractor | None
    real_features: list[Tensor]  # of each unseen class: Inception's features of its images, [n, 2048]
    contents: int
    seed: int

    @classmethod
    def of(
        cls, classifiers: dict[str, UnseenClassifier], networks: MetricNetworks, unseen: LabelledImages,
        split: Split, contents: int, request: Request,
    ) -> TranslationNetworks:  # fmt: skip
        inception = networks.features.get("inception")
        real_features = [] if inception is None else [
            torch.cat([inception(as_rgb(unseen.images.pixels[part])) for part in rows.split(request.batch)])
            for rows in split.real_images
        ]  # fmt: skip
        dipd = None if networks.vgg is None else Dipd(networks.vgg)
        return cls(classifiers, dipd, inception, real_features, contents, request.seed)

    @cached_property
    def counts(self) -> np.ndarray:
        """Bootstrap counts of the contents, [B, contents]."""
        return intervals.draws(self.contents, REPLICATES, self.seed)

    @torch.no_grad()
    def run(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Outputs:
        """Run the networks on images and their contents, uint8 [n, C, H, W] each."""
        logits: dict[str, list[Tensor]] = {name: [] for name in self.classifiers}
        distances, features = [], []
        for images, contents in batches:
            for name, classifier in self.classifiers.items():
                logits[name].append(classifier.logits(images))
            if self.dipd is not None:
                floats = (as_rgb(part).float() / 127.5 - 1 for part in (images, contents))
                distances.append(self.dipd(*floats).cpu())
            if self.inception is not None:
                features.append(self.inception(as_rgb(images)))
        return Outputs(
            {name: torch.cat(parts) for name, parts in logits.items()},
            torch.cat(distances) if distances else None, torch.cat(features) if features else None,
        )  # fmt: skip

    def score_real_images(self) -> dict[str, Estimate]:
        """Scores of held-out real images of the unseen classes."""
        found = {}
        for which, classifier in self.classifiers.items():
            logits = classifier.logits(classifier.real_images)
            p, draws = logits.softmax(dim=1), intervals.draws(len(logits), REPLICATES, self.seed)
            for top in (1, TOP):
                right = in_top(logits, classifier.labels, top).numpy()
                found[f"top{top}_{which}"] = intervals.share(right, REPLICATES, self.seed)
            found[f"is_{which}"] = _inception_score(p, draws)
        return found

    def score_chance(self) -> dict[str, Estimate]:
        """Accuracies of guessing."""
        return {f"top{top}_{which}": Estimate(classifier.chance(top))
                for which, classifier in self.classifiers.items() for top in (1, TOP)}  # fmt: skip


@dataclass(frozen=True)
class TranslationScores:
    """Scores of images made of all contents, class by class."""

    networks: TranslationNetworks
    outputs: list[Outputs] = field(default_factory=list)  # without their features, which are large
    distances: list[tuple[float, np.ndarray]] = field(default_factory=list)  # FID of each class, resampled

    def add(self, outputs: Outputs, label: int) -> None:
        """Add the contents translated to one class; classes come in their order."""
        if outputs.features is not None:
            x, y = outputs.features, self.networks.real_features[label]
            self.distances.append((frechet(x, y), frechet_resampled(x, y, self.networks.counts)))
        self.outputs.append(Outputs(outputs.logits, outputs.dipd, None))

    def compute(self) -> dict[str, Estimate]:
        """Compute the available scores, over all classes."""
        found, counts = {}, self.networks.counts
        for which, classifier in self.networks.classifiers.items():
            logits = torch.stack([one.logits[which] for one in self.outputs])  # [classes, m, k]
            labels = classifier.first + torch.arange(len(logits)).repeat_interleave(logits.shape[1])
            for top in (1, TOP):
                right = in_top(logits.flatten(0, 1), labels, top).view(logits.shape[:2])
                found[f"top{top}_{which}"] = self._accuracy(right.numpy())
            p = logits.softmax(dim=2).flatten(0, 1)
            found[f"is_{which}"] = _inception_score(p, np.tile(counts, (1, len(logits))))
        if self.networks.dipd is not None:
            dipd = torch.stack([required(one.dipd) for one in self.outputs])
            found["dipd"] = self._mean(dipd.double().numpy())
        if self.distances:
            value = float(np.mean([value for value, _ in self.distances]))
            spread = np.mean([replicates for _, replicates in self.distances], axis=0)
            found["mfid"] = intervals.interval(value, spread, least=0)
        return found

    def _accuracy(self, right: np.ndarray) -> Estimate:
        """Mean of bool [classes, m]."""
        if right.all() or not right.any():  # resampling finds no spread, though the contents may be few
            return intervals.share(right[0], REPLICATES, self.networks.seed)
        return self._mean(right, most=1)

    def _mean(self, values: np.ndarray, most: float | None = None) -> Estimate:
        """The mean of ``values`` [classes, contents], at least 0, with its interval; the bootstrap resamples
        contents, each with its values for all classes."""
        each = values.mean(axis=0)
        replicates = self.networks.counts @ each / len(each)
        return intervals.interval(float(each.mean()), replicates, least=0, most=most)


def _inception_score(p: Tensor, counts: np.ndarray) -> Estimate:
    return intervals.interval(inception_score(p), inception_score_resampled(p, counts), least=1)
