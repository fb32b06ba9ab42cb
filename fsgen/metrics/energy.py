"""The energy distance between two sets of points (Székely & Rizzo 2013)."""

from __future__ import annotations

from fsgen.metrics.distances import cross_distances
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.feature_sets import Features, as_matrix


def energy_distance(features_a: Features, features_b: Features) -> float:
    """Compute 2 E|x - y| - E|x - x'| - E|y - y'| of points [n, d] and [m, d], n and m >= 2.

    Means are over different points: unbiased for any n and m, about 0 for equal distributions, and may be
    negative. Unlike the Frechet distance it needs no covariance, so that it is meaningful for small sets.

    Raises:
        FsgenError: fewer than two points, or values that are not finite.
    """
    a, b = as_matrix(features_a, least=2, what="first set"), as_matrix(features_b, least=2, what="second set")
    return float(2 * cross_distances(a, b).mean() - mean_pairwise(a) - mean_pairwise(b))
