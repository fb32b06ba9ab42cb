"""Compute the scores of one set of images from what the accumulators collected, each with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np
from torch import Tensor

from fsgen.evaluation.accumulators import Collected, DiscriminatorPoints, required
from fsgen.evaluation.metric_networks import MetricNetworks
from fsgen.features.inception import Inception
from fsgen.metrics import correspondence as same_latent
from fsgen.metrics import diversity, inception_score, intervals, kernel, manifold
from fsgen.metrics.frechet import frechet, frechet_resampled
from fsgen.metrics.intervals import Estimate
from fsgen.metrics.memorisation import leaks

REPLICATES = 200  # of the bootstrap over samples
KID_REALS = 5000  # real images for the interval of KID, whose cost grows with their square
NEIGHBOURS = 5  # k of precision, recall, density and coverage (Naeem et al. 2020)
LEAST_REALS = 30  # with fewer, which of two sets is nearer is left to chance


@dataclass
class SetScores:
    """Scores of one set of images."""

    kind: str  # subject, source, real
    images: Collected
    real_images: Collected | None  # None: ``images`` are the real images
    source: Collected | None  # None: there is none, or ``images`` are its samples
    networks: MetricNetworks
    seed: int
    copyable: list[int] | None = None  # rows tested for near copies; None: all. Shots are not tested

    def compute(self, names: list[str]) -> dict[str, Estimate]:
        """Compute those of ``names`` that are defined for such a set."""
        return {name: COMPUTE[name](self) for name in names if self._defined(name)}

    def _defined(self, name: str) -> bool:
        if name in ("lpips", "dissimilarity") and self.images.lpips is None:
            return False
        if self.kind == "real":
            return name in ("is", "lpips", "diversity") or (name == "near_copies" and self.copyable != [])
        if name in ("leakage", "correspondence"):
            return self.source is not None
        return name != "intra_lpips" or self.images.clusters is not None

    def draws(self, n: int) -> np.ndarray:
        """Bootstrap counts [B, n]."""
        return intervals.draws(n, REPLICATES, self.seed)

    # ---- in features of whole sets --------------------------------------------------------------------

    def _features(self, space: str) -> tuple[Tensor, Tensor]:
        """Features of ``images`` and of the real images."""
        return self.images.features[space], required(self.real_images).features[space]

    def frechet(self, space: str) -> Estimate:
        x, y = self._features(space)
        spread = frechet_resampled(x, y, self.draws(len(x)))
        return intervals.interval(frechet(x, y), spread, least=0)

    def kid(self) -> Estimate:
        x, y = self._features("inception")
        # clean-fid draws from numpy's global stream: this is its value after numpy.random.seed(seed)
        rng = np.random.RandomState(self.seed % 2**32)
        value = kernel.kid(x, y, rng=rng)
        return intervals.interval(value, kernel.kid_resampled(x, y[:KID_REALS], self.draws(len(x))))

    @cached_property
    def _manifold(self) -> dict[str, Estimate]:
        x, y = self._features("inception")
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
        network = cast(Inception, self.networks.features["inception"])
        p = network.probabilities(self.images.features["inception"])
        spread = inception_score.inception_score_resampled(p, self.draws(len(p)))
        return intervals.interval(inception_score.inception_score(p), spread, least=1)

    # ---- in LPIPS -------------------------------------------------------------------------------------

    def lpips(self) -> Estimate:
        spread = required(self.images.lpips).spread
        return intervals.interval(spread.within(), spread.within_resampled(self.draws(spread.n)), least=0)

    def dissimilarity(self) -> Estimate:
        ours, theirs = (required(required(c).lpips).spread for c in (self.images, self.real_images))
        spread = ours.between_resampled(theirs, self.draws(ours.n))
        return intervals.interval(ours.between(theirs), spread, least=0)

    def intra_lpips(self) -> Estimate:
        clusters = required(self.images.clusters).clusters
        return intervals.interval(clusters.value, clusters.resampled(self.draws(clusters.n)), least=0)

    # ---- in the discriminator's features --------------------------------------------------------------

    @property
    def _collected(self) -> DiscriminatorPoints:
        return required(self.images.discriminator)

    def near_copies(self) -> Estimate:
        distances = self._collected.distances.numpy()
        rows = slice(None) if self.copyable is None else self.copyable
        return self._share(distances[rows] < required(self.networks.discriminator).threshold)

    def diversity(self) -> Estimate:
        points = self._collected.points
        spread = diversity.mean_pairwise_resampled(points, self.draws(len(points)))
        return intervals.interval(diversity.mean_pairwise(points), spread, least=0)

    def leakage(self) -> Estimate:
        source, real_images = (
            required(required(c).discriminator).points for c in (self.source, self.real_images)
        )
        m = min(len(source), len(real_images))  # the larger set has nearer neighbours
        return self._share(leaks(self._collected.points, source[:m], real_images[:m]))

    def _share(self, indicators: np.ndarray) -> Estimate:
        return intervals.share(indicators, REPLICATES, self.seed)

    def correspondence(self) -> Estimate:
        ours, theirs = self._collected.points, required(required(self.source).discriminator).points
        spread = same_latent.correspondence_resampled(ours, theirs, self.draws(len(ours)))
        return intervals.interval(same_latent.correspondence(ours, theirs), spread, least=0, most=1)


COMPUTE: dict[str, Callable[[SetScores], Estimate]] = {
    "fid": partial(SetScores.frechet, space="inception"),
    "kid": SetScores.kid,
    **{
        name: partial(SetScores.manifold, name=name)
        for name in ("precision", "recall", "density", "coverage")
    },
    "is": SetScores.inception_score,
    "clip_fid": partial(SetScores.frechet, space="clip"),
    "fd_dinov2": partial(SetScores.frechet, space="dinov2"),
    "lpips": SetScores.lpips,
    "intra_lpips": SetScores.intra_lpips,
    "dissimilarity": SetScores.dissimilarity,
    "near_copies": SetScores.near_copies,
    "leakage": SetScores.leakage,
    "correspondence": SetScores.correspondence,
    "diversity": SetScores.diversity,
}
