"""Log-likelihood under a Parzen window of a generator's samples (Breuleux et al. 2011).

As in Goodfellow et al. (2014, table 1): a Gaussian of one bandwidth on every sample, the bandwidth chosen on
a validation set. In many dimensions the estimate has high variance and large errors (Theis et al. 2016): it
only compares generators measured in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from fsgen.errors import Code, FsgenError
from fsgen.metrics.distances import cross_squares
from fsgen.metrics.feature_sets import Features, as_matrix

if TYPE_CHECKING:
    from torch import Tensor

GRID = tuple(10 ** (exponent / 10) for exponent in range(-20, 1))  # 0.01 to 1, ten a decade
"""Bandwidths to try, in units of the pixels' range."""


@dataclass(frozen=True)
class Parzen:
    """The mean log-likelihood of n test points, in nats, and its standard error."""

    mean: float
    error: float  # standard error of the mean
    bandwidth: float
    at_edge: bool  # the best bandwidth is the first or last of the grid: extend it


def pixels(images: Tensor) -> np.ndarray:
    """Convert uint8 [n, C, H, W] to points [n, C * H * W] in [0, 1]."""
    return images.flatten(1).cpu().numpy().astype(np.float64) / 255


def parzen(
    samples: Features, test: Features, validation: Features, *, grid: tuple[float, ...] = GRID
) -> Parzen:
    """Compute the log-likelihood of ``test`` [n, d] under ``samples`` [m, d].

    To compare two generators use equally many samples of each, the same test and validation points, and the
    same grid. ``validation`` must share no point with ``test``.

    Args:
        samples: of the generator, from ``pixels``.
        test: real points that the generator was not trained on.
        validation: real points; the bandwidth with their highest log-likelihood is used.
        grid: bandwidths to try.

    Raises:
        FsgenError: no samples, no validation or fewer than two test points, or values that are not finite.
    """
    if not grid or min(grid) <= 0:
        raise FsgenError("a Parzen window needs bandwidths above 0", code=Code.OUT_OF_RANGE, where="grid")
    means = log_likelihoods(samples, validation, grid).mean(axis=0)
    best = int(means.argmax())
    values = log_likelihoods(samples, as_matrix(test, least=2, what="test"), (grid[best],))[:, 0]
    error = values.std(ddof=1) / np.sqrt(len(values))
    return Parzen(float(values.mean()), float(error), grid[best], grid[best] in (min(grid), max(grid)))


def log_likelihoods(
    samples: Features, points: Features, bandwidths: tuple[float, ...], *, chunk: int = 256
) -> np.ndarray:
    """Compute log p(x) in nats of each of ``points`` [n, d] for each bandwidth s: [n, len(bandwidths)].

    p(x) = 1/m sum_i N(x; x_i, s^2 I) over ``samples`` x_i [m, d]. Takes n m d operations, chunk x m memory.
    """
    x = as_matrix(samples, what="samples")
    y = as_matrix(points, what="points")
    centre = x.mean(axis=0)  # leaves distances unchanged and reduces rounding errors
    x, y, scales = x - centre, y - centre, np.asarray(bandwidths)
    out = np.empty((len(y), len(scales)))
    for start in range(0, len(y), chunk):
        squares = cross_squares(y[start : start + chunk], x)
        for k, scale in enumerate(scales):
            out[start : start + chunk, k] = logsumexp(-squares / (2 * scale**2), axis=1)
    return out - np.log(len(x)) - x.shape[1] * np.log(scales * np.sqrt(2 * np.pi))
