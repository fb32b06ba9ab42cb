"""Is a sample still the source's picture of its latent? The papers' claim of correspondence as a number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fsgen.metrics.distances import cross_squares
from fsgen.metrics.feature_sets import Features, as_matrix
from fsgen.metrics.intervals import pairs_resampled


def correspondence(adapted: Features, source: Features, *, chunk: int = 1024) -> float:
    """How often (0..1) an adapted sample is nearer to the source's picture of its latent than to another's.

    The share, over all pairs i != j, with |adapted_i - source_i| < |adapted_i - source_j|; ties count half.
    Each set is taken relative to its own mean, so a shift of the whole domain costs nothing. 1: every sample
    is nearest to its own picture; 0.5: chance, and what a generator that has collapsed scores.

    Args:
        adapted: [n, d], n >= 2.
        source: [n, d]; row i comes from the latent of row i of ``adapted``.
        chunk: rows at a time; the work space is chunk x n float64.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    return float(correspondence_resampled(adapted, source, np.ones((1, len(adapted))), chunk=chunk)[0])


def correspondence_resampled(
    adapted: Features, source: Features, counts: np.ndarray, *, chunk: int = 1024
) -> np.ndarray:
    """``correspondence`` of latents resampled by counts [B, n], [B]; the means stay those of all samples."""
    a = as_matrix(adapted, least=2, what="adapted samples")
    s = as_matrix(source, least=2, what="source samples")
    if a.shape != s.shape:
        raise ValueError(f"one source picture a sample was expected, got {list(s.shape)} for {list(a.shape)}")
    return pairs_resampled(_wins(a - a.mean(axis=0), s - s.mean(axis=0), chunk), counts)


def _wins(a: np.ndarray, s: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    """Blocks [c, n]: 1 where row i of a is nearer to row i of s than to row j, 1/2 where as near, 0 else."""
    rounding = 1e-12 * (np.square(a).sum(axis=1).max() + np.square(s).sum(axis=1).max())
    for start in range(0, len(a), chunk):
        squared = cross_squares(a[start : start + chunk], s)
        rows = np.arange(len(squared))
        ahead = squared - squared[rows, start + rows][:, None]
        yield (1 + np.sign(np.where(np.abs(ahead) > rounding, ahead, 0.0))) / 2
