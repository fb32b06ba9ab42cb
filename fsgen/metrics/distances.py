"""Euclidean distances between feature sets, and nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fsgen.metrics.feature_sets import Features, as_matrix


class Neighbours(NamedTuple):
    """The nearest row of a pool for each query."""

    distances: np.ndarray  # [n] float64, L2
    indices: np.ndarray  # [n] int64, into the pool


def cross_squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute squared L2 distances [n, m] between the rows of a [n, d] and b [m, d], float64.

    By |a|^2 + |b|^2 - 2ab, one matrix product. Values below its rounding error, 1e-13 of |a|^2 + |b|^2, are
    set to 0, so that equal rows have distance 0.
    """
    norms = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    squared = norms - 2 * (a @ b.T)
    return np.where(squared > 1e-13 * norms, squared, 0.0)


def cross_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute L2 distances [n, m] between the rows of a [n, d] and b [m, d]."""
    return np.sqrt(cross_squares(a, b))


def nearest(queries: Features, pool: Features, *, itself: bool = False, chunk: int = 1024) -> Neighbours:
    """Find the nearest row of ``pool`` [m, d] for each row of ``queries`` [n, d].

    Args:
        queries: [n, d].
        pool: [m, d].
        itself: queries and pool are the same set, and no row is its own neighbour.
        chunk: queries at a time; needs chunk x m float64 of memory.

    Raises:
        FsgenError: an empty pool, or one of fewer than two rows with ``itself``.
    """
    q, p = as_matrix(queries), as_matrix(pool, least=2 if itself else 1)
    if itself and len(q) != len(p):
        raise ValueError(f"expected the same set twice, got {len(q)} and {len(p)} rows")
    centre = p.mean(axis=0)  # leaves distances unchanged and reduces rounding errors
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
