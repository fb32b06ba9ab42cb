"""Kernel inception distance (Binkowski et al. 2018): the unbiased MMD^2 with a cubic kernel, over subsets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fsgen.metrics.feature_sets import Features, Rng, as_matrix, random_stream
from fsgen.metrics.intervals import pairs_resampled


def kid(
    features_a: Features,
    features_b: Features,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    rng: Rng = 0,
) -> float:
    """Mean MMD^2 over random subsets of features [n, d] and [m, d]; about 0 for equal distributions.

    Unbiased, so it may come out a little below zero. Equal to clean-fid's ``kernel_distance`` where ``rng``
    is ``numpy.random.RandomState(s)`` and numpy's global stream was seeded with the same s.
    Computed in float64: clean-fid stays in float32, whose rounding moves values below about 1e-5.

    Args:
        features_a: [n, d], n >= 2.
        features_b: [m, d], m >= 2.
        subsets: how many draws to average.
        subset_size: samples a draw takes from each set, at most all of the smaller one.
        rng: seed, or random stream; clean-fid has none, and so gives another number each time.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    return float(
        np.mean(kid_subsets(features_a, features_b, subsets=subsets, subset_size=subset_size, rng=rng))
    )


def kid_subsets(
    features_a: Features,
    features_b: Features,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    rng: Rng = 0,
) -> np.ndarray:
    """What ``kid`` averages, [subsets]: its spread is the usual error bar."""
    a = as_matrix(features_a, least=2, what="first set")
    b = as_matrix(features_b, least=2, what="second set")
    size = min(len(a), len(b), subset_size)
    random = random_stream(rng)
    values = []
    for _ in range(subsets):
        y = b[random.choice(len(b), size, replace=False)]  # b first, as clean-fid draws
        x = a[random.choice(len(a), size, replace=False)]
        values.append(mmd2(x, y))
    return np.array(values)


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 of x and y, both [m, d], under ``kernel``."""
    m = len(x)
    within = kernel(x, x) + kernel(y, y)
    return float((within.sum() - np.trace(within)) / (m * (m - 1)) - 2 * kernel(x, y).mean())


def kid_resampled(
    features_a: Features, features_b: Features, counts: np.ndarray, *, chunk: int = 1024
) -> np.ndarray:
    """Unbiased MMD^2 of all of a and all of b, a [n, d] resampled by counts [B, n]: [B].

    Without subsets, so as sure as the samples allow. Takes about (n^2 + n m + m^2) d + B n^2 steps: hand in a
    part of a large b.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    a = as_matrix(features_a, least=2, what="first set")
    b = as_matrix(features_b, least=2, what="second set")

    def rows(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(x), chunk):
            yield kernel(x[start : start + chunk], y)

    within_a = pairs_resampled(rows(a, a), counts)
    within_b = pairs_resampled(rows(b, b), np.ones((1, len(b))))
    across = np.concatenate([block.mean(axis=1) for block in rows(a, b)])
    return within_a + within_b - 2 * (counts @ across) / counts.sum(axis=1)


def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """k(u, v) = (u . v / d + 1)^3 for all rows of u [n, d] and v [m, d]: [n, m] (the paper's eq. 4)."""
    return (u @ v.T / u.shape[1] + 1) ** 3
