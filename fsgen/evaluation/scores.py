"""From what was kept of the images to the figures of a row, each with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fsgen.evaluation import accumulators
from fsgen.evaluation.extractors import Networks
from fsgen.metrics import correspondence as same_latent
from fsgen.metrics import diversity, inception_score, intervals, kernel, manifold
from fsgen.metrics.frechet import frechet, frechet_resampled
from fsgen.metrics.intervals import Estimate
from fsgen.metrics.memorisation import leaks

REPLICATES = 200  # of the bootstrap over samples
KID = {"subsets": 100, "subset_size": 1000}  # clean-fid's
ENOUGH = 5000  # reals for the interval of KID, whose cost grows with their square
NEIGHBOURS = 5  # k of precision, recall, density and coverage (Naeem et al. 2020)
LEAST_REALS = 30  # below, which of two sets is nearer is a matter of chance


@dataclass
class Seen:
    """What was kept of one set of images."""

    n: int
    features: dict[str, torch.Tensor]  # space -> [n, d]
    distances: accumulators.Distances | None = None
    groups: accumulators.Groups | None = None
    judged: accumulators.Judged | None = None
    album: accumulators.Album | None = None


@dataclass
class Row:
    """One set of images and what it is measured against."""

    kind: str  # subject, source, real
    seen: Seen
    real_images: Seen | None  # None: these are the reals
    source: Seen | None  # None: there is none, or this is it
    networks: Networks
    seed: int
    fresh: list[int] | None = None  # rows that may be near copies: a training image is no copy of itself

    def figures(self, names: list[str]) -> dict[str, Estimate]:
        """Those of ``names`` that make sense for such a row."""
        made: dict[str, Estimate] = {}
        for name in names:
            if self._makes_sense(name):
                made[name] = MEASURED[name](self)
        return made

    def _makes_sense(self, name: str) -> bool:
        if name in ("lpips", "dissimilarity") and self.seen.distances is None:
            return False
        if self.kind == "real":
            return name in ("is", "lpips", "diversity") or (name == "near_copies" and self.fresh != [])
        if name in ("leakage", "correspondence"):
            return self.source is not None
        return name != "intra_lpips" or self.seen.groups is not None

    def draws(self, n: int) -> np.ndarray:
        """Bootstrap counts [B, n]."""
        return intervals.draws(n, REPLICATES, self.seed)

    # ---- in features that are kept whole --------------------------------------------------------------

    def frechet(self, space: str) -> Estimate:
        x, y = self.seen.features[space], self.real_images.features[space]
        spread = frechet_resampled(x, y, self.draws(len(x)))
        return intervals.interval(frechet(x, y), spread, least=0)

    def kid(self) -> Estimate:
        x, y = self.seen.features["inception"], self.real_images.features["inception"]
        # clean-fid draws from numpy's global stream: this is what it gives after numpy.random.seed(seed)
        value = kernel.kid(x, y, rng=np.random.RandomState(self.seed % 2**32), **KID)
        return intervals.interval(value, kernel.kid_resampled(x, y[:ENOUGH], self.draws(len(x))))

    @cached_property
    def _manifold(self) -> dict[str, Estimate]:
        x, y = self.seen.features["inception"], self.real_images.features["inception"]
        found = manifold.prdc(y, x, k=NEIGHBOURS)
        spread = manifold.prdc_resampled(y, x, self.draws(len(x)), k=NEIGHBOURS)
        most = {"density": None}
        return {
            name: intervals.interval(
                getattr(found, name), getattr(spread, name), least=0, most=most.get(name, 1)
            )
            for name in found._fields
        }

    def manifold(self, name: str) -> Estimate:
        return self._manifold[name]

    def inception_score(self) -> Estimate:
        p = self.networks.features["inception"].probabilities(self.seen.features["inception"])
        spread = inception_score.inception_score_resampled(p, self.draws(len(p)))
        return intervals.interval(inception_score.inception_score(p), spread, least=1)

    # ---- in LPIPS -------------------------------------------------------------------------------------

    def lpips(self) -> Estimate:
        spread = self.seen.distances.spread
        return intervals.interval(spread.within(), spread.within_resampled(self.draws(spread.n)), least=0)

    def dissimilarity(self) -> Estimate:
        ours, theirs = self.seen.distances.spread, self.real_images.distances.spread
        spread = ours.between_resampled(theirs, self.draws(ours.n))
        return intervals.interval(ours.between(theirs), spread, least=0)

    def intra_lpips(self) -> Estimate:
        clusters = self.seen.groups.clusters
        return intervals.interval(clusters.value, clusters.resampled(self.draws(clusters.n)), least=0)

    # ---- as the discriminator sees it -----------------------------------------------------------------

    def near_copies(self) -> Estimate:
        distances = self.seen.judged.distances.numpy()
        rows = slice(None) if self.fresh is None else self.fresh
        return self._share(distances[rows] < self.networks.discriminator.threshold)

    def diversity(self) -> Estimate:
        points = self.seen.judged.points
        spread = diversity.mean_pairwise_resampled(points, self.draws(len(points)))
        return intervals.interval(diversity.mean_pairwise(points), spread, least=0)

    def leakage(self) -> Estimate:
        source, real_images = self.source.judged.points, self.real_images.judged.points
        m = min(len(source), len(real_images))  # the larger set has nearer neighbours
        return self._share(leaks(self.seen.judged.points, source[:m], real_images[:m]))

    def _share(self, indicators: np.ndarray) -> Estimate:
        return intervals.share(indicators, REPLICATES, self.seed)

    def correspondence(self) -> Estimate:
        ours, theirs = self.seen.judged.points, self.source.judged.points
        spread = same_latent.correspondence_resampled(ours, theirs, self.draws(len(ours)))
        return intervals.interval(same_latent.correspondence(ours, theirs), spread, least=0, most=1)


MEASURED: dict[str, Callable[[Row], Estimate]] = {
    "fid": lambda row: row.frechet("inception"),
    "kid": Row.kid,
    **{
        name: lambda row, name=name: row.manifold(name)
        for name in ("precision", "recall", "density", "coverage")
    },
    "is": Row.inception_score,
    "clip_fid": lambda row: row.frechet("clip"),
    "fd_dinov2": lambda row: row.frechet("dinov2"),
    "lpips": Row.lpips,
    "intra_lpips": Row.intra_lpips,
    "dissimilarity": Row.dissimilarity,
    "near_copies": Row.near_copies,
    "leakage": Row.leakage,
    "correspondence": Row.correspondence,
    "diversity": Row.diversity,
}
