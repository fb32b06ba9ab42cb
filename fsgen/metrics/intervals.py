"""How sure a figure is: the bootstrap over samples (Efron 1979).

One table of ``draws`` serves all metrics of a set. Each metric brings a ``..._resampled`` function that takes
the counts [B, n] and gives its value for every row of them, [B]; ``interval`` puts their spread around the
figure itself. A row of ones is the set as it is and gives the metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import stdtrit

from fsgen.metrics.feature_sets import Rng, random_stream

LEVEL = 0.95  # share of such intervals that should hold the truth


@dataclass(frozen=True)
class Estimate:
    """A figure and, where there is one, its interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def plain(self) -> dict[str, float | None]:
        """For JSON."""
        return asdict(self)


def draws(n: int, replicates: int, rng: Rng = 0) -> np.ndarray:
    """How often each of n samples is drawn when n are drawn with replacement, int64 [replicates, n]."""
    return random_stream(rng).multinomial(n, np.full(n, 1 / n), size=replicates)


def interval(
    value: float,
    replicates: np.ndarray,
    level: float = LEVEL,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Estimate:
    """``value`` with the percentiles of (replicates - their mean) around it.

    Only the spread of the replicates [B] is used, not where they lie: a sample drawn twice is at no distance
    from itself and leaves a gap elsewhere, which moves distances, FID, recall and coverage, all one way.
    Replicates that are not finite are left out; where fewer than two remain there is no interval.

    Args:
        value: the figure, of the set as it is.
        replicates: [B], of the resampled sets.
        level: share of such intervals that hold the truth.
        least: the figure cannot be lower: the interval ends there.
        most: likewise at the top.
    """
    found = np.asarray(replicates, dtype=np.float64)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return Estimate(value)
    tail = (1 - level) / 2
    below, above = np.quantile(found - found.mean(), [tail, 1 - tail])
    return _between(value, value + min(below, 0), value + max(above, 0), least, most)


def shares_resampled(indicators: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The share of samples of which ``indicators`` (bool [n]) is true, for each row of counts [B, n]: [B]."""
    return counts @ np.asarray(indicators, dtype=np.float64) / counts.sum(axis=1)


def share(indicators: np.ndarray, replicates: int, rng: Rng = 0, level: float = LEVEL) -> Estimate:
    """The share (0..1) of true ones among ``indicators``, bool [n], n >= 1, with its interval.

    Where all n agree resampling finds no spread, yet few samples prove little: the far end is then the share
    under which that happens in (1 - level) / 2 of all sets of n (Clopper and Pearson 1934).
    """
    value, n = float(np.mean(indicators)), len(indicators)
    surprise = ((1 - level) / 2) ** (1 / n)
    if value == 0:
        return Estimate(value, 0.0, 1 - surprise)
    if value == 1:
        return Estimate(value, surprise, 1.0)
    spread = shares_resampled(indicators, draws(n, replicates, rng))
    return interval(value, spread, level, least=0, most=1)


def over_seeds(
    estimates: Sequence[Estimate],
    level: float = LEVEL,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Estimate:
    """The mean of one figure over independent runs, with Student's interval; a single run keeps its own.

    Args:
        estimates: one a seed.
        level: share of such intervals that hold the truth.
        least: the figure cannot be lower: the interval ends there.
        most: likewise at the top.
    """
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([estimate.value for estimate in estimates])
    value, n = float(values.mean()), len(values)
    reach = float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n))
    return _between(value, value - reach, value + reach, least, most)


def _between(value: float, low: float, high: float, least: float | None, most: float | None) -> Estimate:
    """The ends cut where the figure cannot go; ``value`` stays inside, whatever it is."""
    low = low if least is None else min(max(low, least), value)
    high = high if most is None else max(min(high, most), value)
    return Estimate(value, float(low), float(high))


def pairs_resampled(blocks: Iterable[np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Mean of k(i, j) over pairs of different samples, each pair weighted by its counts: [B].

    A sample drawn twice makes no pair with itself, so that a mean over pairs stays unbiased; NaN where one
    sample was drawn n times.

    Args:
        blocks: k [n, n] in blocks of consecutive rows, float64 [c, n]; their diagonal is overwritten.
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
    """Sums over ordered pairs of different samples, [B], divided by the weight of the pairs; NaN for none."""
    pairs = np.square(weights.sum(axis=1)) - np.square(weights).sum(axis=1)
    return np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)
