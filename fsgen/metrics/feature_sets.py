"""Feature sets: what every metric takes in. NumPy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fsgen.errors import Code, FsgenError

if TYPE_CHECKING:
    from torch import Tensor

Features: TypeAlias = "np.ndarray | Tensor"
"""[n, d], one row a sample, on any device."""

Rng = int | np.random.Generator | np.random.RandomState
"""A seed, or a stream of the caller's. A RandomState replays what ``numpy.random.seed`` gives others."""


def as_matrix(features: Features, *, least: int = 1, what: str = "features") -> np.ndarray:
    """``features`` as float64 [n, d].

    Raises:
        FsgenError: fewer than ``least`` rows, or values that are not finite.
    """
    array = _array(features)
    if array.ndim != 2:
        raise ValueError(f"expected {what} of shape [n, d], got {list(array.shape)}")
    if len(array) < least:
        raise FsgenError(f"{what}: this metric needs at least {least} images, got {len(array)}")
    if not np.isfinite(array).all():
        raise FsgenError(f"{what}: not all values are finite", code=Code.DIVERGED)
    return array


def _array(features: Any) -> np.ndarray:
    if hasattr(features, "detach"):  # a torch tensor, without importing torch to find out
        features = features.detach().cpu().numpy()
    return np.asarray(features, dtype=np.float64)


def random_stream(rng: Rng) -> np.random.Generator | np.random.RandomState:
    """A random stream from a seed or a stream."""
    return np.random.default_rng(rng) if isinstance(rng, (int, np.integer)) else rng
