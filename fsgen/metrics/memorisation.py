"""Copies of training images (memorisation) and of the source (leakage), by nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fsgen.metrics.distances import nearest
from fsgen.metrics.feature_sets import Features, as_matrix


class NearCopies(NamedTuple):
    """How much of a sample repeats the shots."""

    share: float  # of the samples, 0..1
    nearest: np.ndarray  # [n] int64: each sample's nearest shot
    distances: np.ndarray  # [n] float64: how far it is
    threshold: float  # nearer than this is a near copy


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
    found = nearest(as_matrix(samples, least=1), shots)
    return NearCopies(float(np.mean(found.distances < threshold)), found.indices, found.distances, threshold)


def leaks(samples: Features, source: Features, target: Features) -> np.ndarray:
    """Which samples [n, d] are nearer to one of the source's than to any of the target's, bool [n].

    A larger set has nearer neighbours: hand in as many of one as of the other. A tie is no leak.

    Raises:
        FsgenError: one of the sets is empty.
    """
    x = as_matrix(samples, least=1, what="samples")
    return nearest(x, source).distances < nearest(x, target).distances


def leakage(samples: Features, source: Features, target: Features) -> float:
    """Share (0..1) of samples [n, d] nearer to the source than to the target: the mean of ``leaks``."""
    return float(np.mean(leaks(samples, source, target)))
