"""Copies of training images (memorisation) and of the source (leakage), by nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fsgen.metrics.distances import nearest
from fsgen.metrics.feature_sets import Features, as_matrix


class NearCopies(NamedTuple):
    """Samples that repeat training images."""

    share: float  # of the samples, 0..1
    nearest: np.ndarray  # [n] int64: each sample's nearest shot
    distances: np.ndarray  # [n] float64: to that shot
    threshold: float  # a sample nearer than this is a near copy


def near_copy_threshold(source_features: Features, percentile: float = 5.0) -> float:
    """Compute the distance below which two images count as copies of each other.

    The ``percentile`` of the distances from source samples [n, d] to their nearest neighbours among the
    others. It shrinks with n: record n.

    Raises:
        FsgenError: fewer than two samples.
    """
    return float(np.percentile(nearest(source_features, source_features, itself=True).distances, percentile))


def near_copies(samples: Features, shots: Features, threshold: float) -> NearCopies:
    """Find the samples [n, d] nearer to one of the shots [k, d] than ``threshold``.

    To detect flipped or shifted copies, add flipped and shifted shots to ``shots``.

    Raises:
        FsgenError: no samples or no shots.
    """
    found = nearest(as_matrix(samples, least=1), shots)
    return NearCopies(float(np.mean(found.distances < threshold)), found.indices, found.distances, threshold)


def leaks(samples: Features, source: Features, target: Features) -> np.ndarray:
    """Find the samples [n, d] nearer to the source set than to the target set, bool [n]; ties are not.

    A larger set has nearer neighbours: pass two sets of equal size.

    Raises:
        FsgenError: one of the sets is empty.
    """
    x = as_matrix(samples, least=1, what="samples")
    return nearest(x, source).distances < nearest(x, target).distances


def leakage(samples: Features, source: Features, target: Features) -> float:
    """Compute the share (0..1) of samples [n, d] nearer to the source than to the target (``leaks``)."""
    return float(np.mean(leaks(samples, source, target)))
