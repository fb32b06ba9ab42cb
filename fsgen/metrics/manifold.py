"""Fidelity and diversity by nearest neighbours: precision and recall (Kynkaanniemi et al. 2019), density and
coverage (Naeem et al. 2020).

A set's manifold is the union of balls around its members; the radius is the distance to the k-th nearest
neighbour in the set.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from fsgen.errors import Code, FsgenError
from fsgen.metrics.distances import cross_squares
from fsgen.metrics.feature_sets import Features, as_matrix

Value = TypeVar("Value", float, np.ndarray)

K = 5  # neighbours, as in Naeem et al.; Kynkaanniemi et al. use 3

# Balls are open, and images that both sets share lie exactly on their rims: rounding must not decide.
_RIM = 1 - 1e-10


class Prdc(NamedTuple, Generic[Value]):
    """The four scores of a set of samples: floats, or [B] for resampled sets."""

    precision: Value  # share (0..1) of samples in the real images' manifold
    recall: Value  # share (0..1) of real images in the samples' manifold
    density: Value  # mean number of real images' balls around a sample, over k: 1 for equal sets, may be more
    coverage: Value  # share (0..1) of real images with a sample in their ball


def prdc(real: Features, fake: Features, k: int = K, *, chunk: int = 1024) -> Prdc[float]:
    """Compute precision, recall, density and coverage of samples ``fake`` [m, d] against ``real`` [n, d].

    Equals ``prdc.compute_prdc(real, fake, nearest_k=k)``: no row is its own neighbour, balls are open, and
    where both sets are float32, distances are computed in float64 and compared in float32.

    Args:
        real: [n, d], n > k.
        fake: [m, d], m > k.
        k: a ball's radius is the distance to the k-th nearest neighbour.
        chunk: rows at a time; needs a few times chunk x (larger set) float64 of memory.

    Raises:
        FsgenError: a set with too few members for k, or values that are not finite.
    """
    values = prdc_resampled(real, fake, np.ones((1, len(fake)), dtype=np.int64), k, chunk=chunk)
    return Prdc(*(float(value[0]) for value in values))


def prdc_resampled(
    real: Features, fake: Features, counts: np.ndarray, k: int = K, *, chunk: int = 1024
) -> Prdc[np.ndarray]:
    """Compute ``prdc`` of samples resampled by counts [B, m], each score [B].

    Radii are those of the whole set; the balls of samples that were not drawn are ignored.
    """
    x, y = _checked(real, k, "real images"), _checked(fake, k, "samples")
    single_x, single_y = _is_single(real), _is_single(fake)
    centre = x.mean(axis=0)  # leaves distances unchanged and reduces rounding errors
    x, y = x - centre, y - centre
    radii_x, radii_y = _radii(x, k, chunk, single_x) * _RIM, _radii(y, k, chunk, single_y) * _RIM

    drawn = (counts > 0).astype(np.float32)  # [B, m]
    balls = np.zeros(len(y))  # of real images around each sample
    recalled, covered = np.zeros(len(counts)), np.zeros(len(counts))
    for start in range(0, len(x), chunk):
        distances = _distances(x[start : start + chunk], y, single_x and single_y)  # [c, m]
        in_real = distances < radii_x[start : start + chunk, None]
        in_samples = distances < radii_y
        balls += in_real.sum(axis=0)
        covered += (drawn @ in_real.T.astype(np.float32) > 0).sum(axis=1)
        recalled += (drawn @ in_samples.T.astype(np.float32) > 0).sum(axis=1)
    total = counts.sum(axis=1)
    return Prdc(
        precision=counts @ (balls > 0) / total,
        recall=recalled / len(x),
        density=counts @ balls / (k * total),
        coverage=covered / len(x),
    )


def _radii(x: np.ndarray, k: int, chunk: int, single: bool) -> np.ndarray:
    """Compute the distance [n] of each row of x [n, d] to its k-th nearest other row."""
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


def _checked(features: Features, k: int, what: str) -> np.ndarray:
    x = as_matrix(features, what=what)
    if len(x) <= k:
        raise FsgenError(
            f"{what}: the manifold of {k} neighbours needs at least {k + 1} images, got {len(x)}",
            code=Code.TOO_FEW, where=what, hint="use more images, or fewer neighbours",
        )  # fmt: skip
    return x


def _is_single(features: Features) -> bool:
    return str(features.dtype).removeprefix("torch.") == "float32"
