"""Feature sets, the input of every metric, and random streams. Imports NumPy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fsgen.errors import Code, FsgenError

if TYPE_CHECKING:
    from torch import Tensor

Features: TypeAlias = "np.ndarray | Tensor"
"""[n, d], one row per sample, on any device."""

Rng = int | np.random.Generator | np.random.RandomState
"""A seed or a random stream. A RandomState gives the numbers of ``numpy.random.seed``."""


def as_matrix(features: Features, *, least: int = 1, what: str = "features") -> np.ndarray:
    """Convert ``features`` to float64 [n, d].

    Raises:
        FsgenError: fewer than ``least`` rows, or values that are not finite.
    """
    array = _array(features)
    if array.ndim != 2:
        raise ValueError(f"expected {what} of shape [n, d], got {list(array.shape)}")
    if len(array) < least:
        raise FsgenError(
            f"{what}: this metric needs at least {least} images, got {len(array)}",
            code=Code.TOO_FEW, where=what,
        )  # fmt: skip
    if not np.isfinite(array).all():
        raise FsgenError(f"{what}: not all values are finite", code=Code.DIVERGED, where=what)
    return array


def _array(features: Features) -> np.ndarray:
    if hasattr(features, "detach"):  # a torch tensor; torch is not imported to find out
        features = features.detach().cpu().numpy()
    return np.asarray(features, dtype=np.float64)


def random_stream(rng: Rng) -> np.random.Generator | np.random.RandomState:
    """Return a random stream from a seed, or the stream itself."""
    return np.random.default_rng(rng) if isinstance(rng, (int, np.integer)) else rng
