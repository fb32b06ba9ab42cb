"""Confidence intervals of metrics: the bootstrap over samples (Efron 1979).

All metrics of a set share one table of ``draws``. Each metric has a ``..._resampled`` function from counts
[B, n] to its value for every row, [B]; ``interval`` puts their spread around the metric of the set itself,
which a row of ones gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import stdtrit

from fsgen.metrics.feature_sets import Rng, random_stream

LEVEL = 0.95  # share of such intervals that contain the true value


@dataclass(frozen=True)
class Estimate:
    """A metric's value and, where known, its interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def plain(self) -> dict[str, float | None]:
        """Convert to a dict for JSON."""
        return asdict(self)


def draws(n: int, replicates: int, rng: Rng = 0) -> np.ndarray:
    """Draw n of n samples with replacement and count how often each was drawn, int64 [replicates, n]."""
    return random_stream(rng).multinomial(n, np.full(n, 1 / n), size=replicates)


def interval(
    value: float,
    replicates: np.ndarray,
    level: float = LEVEL,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Estimate:
    """Put the percentiles of (replicates - their mean) around ``value``.

    Only the spread of the replicates [B] is used, not their location: a sample drawn twice has distance 0 to
    itself and another is missing, which biases distances, FID, recall and coverage in one direction.
    Replicates that are not finite are ignored; with fewer than two others there is no interval.

    Args:
        value: the metric of the set itself.
        replicates: the metric of the resampled sets, [B].
        level: share of such intervals that contain the true value.
        least: lower bound of the metric, where the interval is cut.
        most: upper bound, likewise.
    """
    found = np.asarray(replicates, dtype=np.float64)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return Estimate(value)
    tail = (1 - level) / 2
    below, above = np.quantile(found - found.mean(), [tail, 1 - tail])
    return _between(value, value + min(below, 0), value + max(above, 0), least, most)


def shares_resampled(indicators: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute the share of samples with true ``indicators`` (bool [n]) for each row of counts [B, n]: [B]."""
    return counts @ np.asarray(indicators, dtype=np.float64) / counts.sum(axis=1)


def share(indicators: np.ndarray, replicates: int, rng: Rng = 0, level: float = LEVEL) -> Estimate:
    """Compute the share (0..1) of true ``indicators``, bool [n], n >= 1, with its interval.

    Where all n agree, resampling finds no spread. The far end is then the share for which n agree with
    probability (1 - level) / 2 (Clopper and Pearson 1934).
    """
    value, n = float(np.mean(indicators)), len(indicators)
    agreeing = ((1 - level) / 2) ** (1 / n)
    if value == 0:
        return Estimate(value, 0.0, 1 - agreeing)
    if value == 1:
        return Estimate(value, agreeing, 1.0)
    spread = shares_resampled(indicators, draws(n, replicates, rng))
    return interval(value, spread, level, least=0, most=1)


def over_seeds(
    estimates: Sequence[Estimate],
    level: float = LEVEL,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Estimate:
    """Compute the mean of a metric over independent runs with Student's interval; a single run keeps its own.

    Args:
        estimates: one per seed.
        level: share of such intervals that contain the true value.
        least: lower bound of the metric, where the interval is cut.
        most: upper bound, likewise.
    """
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([estimate.value for estimate in estimates])
    value, n = float(values.mean()), len(values)
    reach = float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n))
    return _between(value, value - reach, value + reach, least, most)


def _between(value: float, low: float, high: float, least: float | None, most: float | None) -> Estimate:
    """Cut the interval at the metric's bounds; ``value`` stays inside."""
    low = low if least is None else min(max(low, least), value)
    high = high if most is None else max(min(high, most), value)
    return Estimate(value, float(low), float(high))


def pairs_resampled(blocks: Iterable[np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Compute the mean of k(i, j) over pairs of different samples, weighted by their counts: [B].

    A sample drawn twice is not paired with itself, so that the mean stays unbiased; NaN where one sample was
    drawn n times.

    Args:
        blocks: k [n, n] in blocks of consecutive rows, float64 [c, n]; the diagonal is overwritten.
        counts: [B, n].
    """
    weights = counts.astype(np.float64)
    total, start = np.zeros(len(weights)), 0
    for block in blocks:
        rows = np.arange(len(block))
        block[rows, start + rows] = 0.0
        total += np.einsum("bc,bc->b", weights @ block.T, weights[:, start : start + len(block)])
        start += len(block)
    return over_pairs(total, weights)


def over_pairs(total: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Divide sums over ordered pairs of different samples, [B], by the pairs' weights; NaN for no pairs."""
    pairs = np.square(weights.sum(axis=1)) - np.square(weights).sum(axis=1)
    return np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)
