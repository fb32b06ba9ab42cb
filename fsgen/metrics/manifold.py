"""Fidelity and variety apart: precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et
al. 2020). A set's manifold is the union of balls around its members, each as large as the way to its k-th
nearest neighbour in the set."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fsgen.errors import FsgenError
from fsgen.metrics.distances import cross_squares
from fsgen.metrics.feature_sets import Features, as_matrix

K = 5  # neighbours: Naeem et al.'s; Kynkaanniemi et al. take 3

# A ball is open, and its rim is often hit: where the sets share pictures. Rounding must not decide.
_RIM = 1 - 1e-10


class Prdc(NamedTuple):
    """The four figures of one set of samples; in ``prdc_resampled`` each is [B]."""

    precision: Any  # share (0..1) of samples in the reals' manifold
    recall: Any  # share (0..1) of reals in the samples' manifold
    density: Any  # balls of reals that hold a sample, on average, over k: 1 for equal sets, may be more
    coverage: Any  # share (0..1) of reals whose ball holds a sample


def prdc(real: Features, fake: Features, k: int = K, *, chunk: int = 1024) -> Prdc:
    """Precision, recall, density and coverage of samples ``fake`` [m, d] against ``real`` [n, d].

    Equal to ``prdc.compute_prdc(real, fake, nearest_k=k)``: nobody is its own neighbour, balls are open, and
    where both sets are float32 so are the distances that are compared (computed in float64 as there).

    Args:
        real: [n, d], n > k.
        fake: [m, d], m > k.
        k: which neighbour a ball reaches to.
        chunk: rows at a time; the work space is a few times chunk x the larger set, float64.

    Raises:
        FsgenError: a set with too few members for k, or values that are not finite.
    """
    values = prdc_resampled(real, fake, np.ones((1, len(fake)), dtype=np.int64), k, chunk=chunk)
    return Prdc(*(float(value[0]) for value in values))


def prdc_resampled(
    real: Features, fake: Features, counts: np.ndarray, k: int = K, *, chunk: int = 1024
) -> Prdc:
    """``prdc`` of samples resampled by counts [B, m], each figure [B].

    The balls stay as large as they are in the whole set; samples that were not drawn hold and cover nothing.
    """
    x, y = _enough(real, k, "reals"), _enough(fake, k, "samples")
    single_x, single_y = _is_single(real), _is_single(fake)
    centre = x.mean(axis=0)  # distances do not change, and their rounding shrinks
    x, y = x - centre, y - centre
    radii_x, radii_y = _radii(x, k, chunk, single_x) * _RIM, _radii(y, k, chunk, single_y) * _RIM

    drawn = (counts > 0).astype(np.float32)  # [B, m]
    holding = np.zeros(len(y))  # balls of reals around each sample
    recalled, covered = np.zeros(len(counts)), np.zeros(len(counts))
    for start in range(0, len(x), chunk):
        distances = _distances(x[start : start + chunk], y, single_x and single_y)  # [c, m]
        in_reals = distances < radii_x[start : start + chunk, None]
        in_samples = distances < radii_y
        holding += in_reals.sum(axis=0)
        covered += (drawn @ in_reals.T.astype(np.float32) > 0).sum(axis=1)
        recalled += (drawn @ in_samples.T.astype(np.float32) > 0).sum(axis=1)
    total = counts.sum(axis=1)
    return Prdc(
        precision=counts @ (holding > 0) / total,
        recall=recalled / len(x),
        density=counts @ holding / (k * total),
        coverage=covered / len(x),
    )


def _radii(x: np.ndarray, k: int, chunk: int, single: bool) -> np.ndarray:
    """Distance [n] of each row of x [n, d] to its k-th nearest other row."""
    radii = []
    for start in range(0, len(x), chunk):
        block = _distances(x[start : start + chunk], x, single)
        rows = np.arange(len(block))
        block[rows, start + rows] = np.inf
        radii.append(np.partition(block, k - 1, axis=1)[:, k - 1])
    return np.concatenate(radii)


def _distances(a: np.ndarray, b: np.ndarray, single: bool) -> np.ndarray:
    squared = cross_squares(a, b)
    return np.sqrt(squared.astype(np.float32) if single else squared)


def _enough(features: Features, k: int, what: str) -> np.ndarray:
    x = as_matrix(features, what=what)
    if len(x) <= k:
        raise FsgenError(
            f"{what}: the manifold of {k} neighbours needs at least {k + 1} images, got {len(x)}",
            hint="use more images, or fewer neighbours",
        )
    return x


def _is_single(features: Features) -> bool:
    return str(features.dtype).removeprefix("torch.") == "float32"
