"""Kernel inception distance (KID; Binkowski et al. 2018): unbiased MMD^2 with a cubic kernel."""

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
    """Compute the mean MMD^2 over random subsets of features [n, d] and [m, d].

    Unbiased: about 0 for equal distributions, and may be negative. Equals clean-fid's ``kernel_distance``
    where ``rng`` is ``numpy.random.RandomState(s)`` and numpy's global stream was seeded with the same s.
    Computed in float64; clean-fid uses float32, whose rounding changes values below about 1e-5.

    Args:
        features_a: [n, d], n >= 2.
        features_b: [m, d], m >= 2.
        subsets: number of draws to average.
        subset_size: samples per draw from each set, at most all of the smaller set.
        rng: seed or random stream; clean-fid has no seed, so its result differs each time.

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
    """Compute the MMD^2 of each subset, [subsets], as for ``kid``; their spread is the usual error bar."""
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
    """Compute the unbiased MMD^2 of x and y, both [m, d], with ``kernel``."""
    m = len(x)
    within = kernel(x, x) + kernel(y, y)
    return float((within.sum() - np.trace(within)) / (m * (m - 1)) - 2 * kernel(x, y).mean())


def kid_resampled(
    features_a: Features, features_b: Features, counts: np.ndarray, *, chunk: int = 1024
) -> np.ndarray:
    """Compute the unbiased MMD^2 of all of a and b, with a [n, d] resampled by counts [B, n]: [B].

    Without subsets, for the least variance. Takes about (n^2 + n m + m^2) d + B n^2 operations: pass a part
    of a large b.

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
    """Compute k(u, v) = (u . v / d + 1)^3 for all rows of u [n, d] and v [m, d]: [n, m] (equation 4)."""
    return (u @ v.T / u.shape[1] + 1) ** 3
