"""Correspondence: is an adapted sample nearest to the source's sample of the same latent?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fsgen.metrics.distances import cross_squares
from fsgen.metrics.feature_sets import Features, as_matrix
from fsgen.metrics.intervals import pairs_resampled


def correspondence(adapted: Features, source: Features, *, chunk: int = 1024) -> float:
    """Compute the share (0..1) of pairs i != j with |adapted_i - source_i| < |adapted_i - source_j|.

    Ties count half. Each set is centred on its own mean, so that a shift of the whole domain costs nothing.
    1: every sample is nearest to the source's sample of its latent; 0.5: chance, or collapse.

    Args:
        adapted: [n, d], n >= 2.
        source: [n, d]; row i has the latent of row i of ``adapted``.
        chunk: rows at a time; needs chunk x n float64 of memory.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    return float(correspondence_resampled(adapted, source, np.ones((1, len(adapted))), chunk=chunk)[0])


def correspondence_resampled(
    adapted: Features, source: Features, counts: np.ndarray, *, chunk: int = 1024
) -> np.ndarray:
    """Compute ``correspondence`` of latents resampled by counts [B, n], centred on all: [B]."""
    a = as_matrix(adapted, least=2, what="adapted samples")
    s = as_matrix(source, least=2, what="source samples")
    if a.shape != s.shape:
        raise ValueError(f"expected one source sample for each, got {list(s.shape)} for {list(a.shape)}")
    return pairs_resampled(_wins(a - a.mean(axis=0), s - s.mean(axis=0), chunk), counts)


def _wins(a: np.ndarray, s: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    """Yield blocks [c, n]: 1 where row i of a is nearer to row i of s than to row j, 1/2 for ties, else 0."""
    rounding = 1e-12 * (np.square(a).sum(axis=1).max() + np.square(s).sum(axis=1).max())
    for start in range(0, len(a), chunk):
        squared = cross_squares(a[start : start + chunk], s)
        rows = np.arange(len(squared))
        ahead = squared - squared[rows, start + rows][:, None]
        yield (1 + np.sign(np.where(np.abs(ahead) > rounding, ahead, 0.0))) / 2
