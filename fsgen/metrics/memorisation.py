"""Is it a copy? Is it still the source? Questions to nearest neighbours in any feature space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fsgen.metrics.feature_sets import Features, matrix


class Neighbours(NamedTuple):
    """The nearest member of a pool, for each query."""

    distances: np.ndarray  # [n] float64, L2
    indices: np.ndarray  # [n] int64, rows of the pool


class NearCopies(NamedTuple):
    """How much of a sample repeats the shots."""

    share: float  # of the samples, 0..1
    nearest: np.ndarray  # [n] int64: each sample's nearest shot
    distances: np.ndarray  # [n] float64: how far it is
    threshold: float  # nearer than this is a near copy


def cross_squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared L2 distances [n, m] between the rows of a [n, d] and b [m, d], float64.

    By |a|^2 + |b|^2 - 2ab, one matrix product. What is below its rounding, 1e-13 of |a|^2 + |b|^2, is 0:
    equal rows are at no distance.
    """
    norms = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    squared = norms - 2 * (a @ b.T)
    return np.where(squared > 1e-13 * norms, squared, 0.0)


def cross_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """L2 distances [n, m] between the rows of a [n, d] and b [m, d], from ``cross_squares``."""
    return np.sqrt(cross_squares(a, b))


def nearest(queries: Features, pool: Features, *, itself: bool = False, chunk: int = 1024) -> Neighbours:
    """The nearest row of ``pool`` [m, d] for each row of ``queries`` [n, d].

    Args:
        queries: [n, d].
        pool: [m, d].
        itself: queries and pool are one set, row by row: nobody is its own neighbour.
        chunk: queries at a time; the work space is chunk x m float64.

    Raises:
        FsgenError: an empty pool, or one of fewer than two rows with ``itself``.
    """
    q, p = matrix(queries), matrix(pool, least=2 if itself else 1)
    if itself and len(q) != len(p):
        raise ValueError(f"one set was expected twice, got {len(q)} and {len(p)} rows")
    centre = p.mean(axis=0)  # distances do not change, and the rounding of cross_distances shrinks
    q, p = q - centre, p - centre
    distances, indices = np.empty(len(q)), np.empty(len(q), dtype=np.int64)
    for start in range(0, len(q), chunk):
        block = cross_distances(q[start : start + chunk], p)
        rows = np.arange(len(block))
        if itself:
            block[rows, start + rows] = np.inf
        chosen = block.argmin(axis=1)
        indices[start : start + chunk] = chosen
        distances[start : start + chunk] = block[rows, chosen]
    return Neighbours(distances, indices)


def near_copy_threshold(source_features: Features, percentile: float = 5.0) -> float:
    """How near two different pictures come to each other: the ``percentile`` of the distances from samples of
    the source [n, d] to their nearest neighbours among the others. More samples, smaller threshold: record n.

    Raises:
        FsgenError: fewer than two samples.
    """
    return float(np.percentile(nearest(source_features, source_features, itself=True).distances, percentile))


def near_copies(samples: Features, shots: Features, threshold: float) -> NearCopies:
    """The samples [n, d] nearer to one of the shots [k, d] than ``threshold``.

    To catch flipped or shifted copies put flipped and shifted shots among ``shots``.

    Raises:
        FsgenError: no samples or no shots.
    """
    found = nearest(matrix(samples, least=1), shots)
    return NearCopies(float(np.mean(found.distances < threshold)), found.indices, found.distances, threshold)


def leaks(samples: Features, source: Features, target: Features) -> np.ndarray:
    """Which samples [n, d] are nearer to one of the source's than to any of the target's, bool [n].

    A larger set has nearer neighbours: hand in as many of one as of the other. A tie is no leak.

    Raises:
        FsgenError: one of the sets is empty.
    """
    x = matrix(samples, least=1, what="samples")
    return nearest(x, source).distances < nearest(x, target).distances


def leakage(samples: Features, source: Features, target: Features) -> float:
    """Share (0..1) of samples [n, d] nearer to the source than to the target: the mean of ``leaks``."""
    return float(np.mean(leaks(samples, source, target)))
