"""The energy distance (Székely & Rizzo 2013): how far two sets lie apart, from distances alone."""

from __future__ import annotations

from fsgen.metrics.distances import cross_distances
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.feature_sets import Features, as_matrix


def energy_distance(features_a: Features, features_b: Features) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of points [n, d] and [m, d], n and m >= 2; about 0 for equal ones.

    Means are over different points, so that it is unbiased however few there are, and may come out below 0.
    In small sets it stays meaningful where a Frechet distance, which needs a covariance, does not.

    Raises:
        FsgenError: fewer than two points, or values that are not finite.
    """
    a, b = as_matrix(features_a, least=2, what="first set"), as_matrix(features_b, least=2, what="second set")
    return float(2 * cross_distances(a, b).mean() - mean_pairwise(a) - mean_pairwise(b))
