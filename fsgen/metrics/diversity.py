"""Diversity: the mean distance between samples."""

from __future__ import annotations

import numpy as np

from fsgen.metrics.distances import cross_distances
from fsgen.metrics.feature_sets import Features, as_matrix
from fsgen.metrics.intervals import pairs_resampled


def mean_pairwise(features: Features, *, chunk: int = 1024) -> float:
    """Compute the mean L2 distance over all pairs of different rows of [n, d], n >= 2.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    return float(mean_pairwise_resampled(features, np.ones((1, len(features))), chunk=chunk)[0])


def mean_pairwise_resampled(features: Features, counts: np.ndarray, *, chunk: int = 1024) -> np.ndarray:
    """Compute ``mean_pairwise`` of the rows of [n, d] resampled by counts [B, n]: [B]."""
    x = as_matrix(features, least=2)
    x = x - x.mean(axis=0)
    blocks = (cross_distances(x[start : start + chunk], x) for start in range(0, len(x), chunk))
    return pairs_resampled(blocks, counts)
