"""Mean LPIPS distances of sets too large to keep: all pairs within a set, across two, in clusters of one.

LPIPS is a squared Euclidean distance between points e(x) (``Lpips.embed``) with millions of coordinates. They
pass by once, in batches, and running sums hold every mean exactly. What resampling needs of each point is a
random sketch of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.metrics.intervals import over_pairs

SKETCH = 1021  # numbers a point; prime, so that no row, column or channel of a map falls into one of them
_SEED = 20201006  # of the sketches: those of two sets must be of one kind
_SLICE = 64 * SKETCH  # coordinates at a time: what is made of a batch beside itself stays small


class Spread:
    """What is remembered of points [n, D] for their mean squared distances: n, two sums, n sketches."""

    def __init__(self) -> None:
        self.n = 0
        self._total: Tensor | None = None  # [D] float64, where the points are
        self._squares = 0.0
        self._signs: Tensor | None = None  # [D] int8
        self._sketches: list[Tensor] = []  # [b, SKETCH] float32 each

    @torch.no_grad()
    def add(self, points: Tensor) -> None:
        """A batch, float [b, D], b >= 0."""
        if not len(points):
            return
        if self._total is None:
            self._total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
            self._signs = _signs(points.shape[1]).to(points.device)
        sketches = torch.zeros(len(points), SKETCH, dtype=torch.float64, device=points.device)
        for columns in _slices(self._total):
            part = points[:, columns].double()
            self._total[columns] += part.sum(dim=0)
            self._squares += float(part.square().sum())
            sketches += _folded(part * self._signs[columns])
        self._sketches.append(sketches.float().cpu())
        self.n += len(points)

    def within(self) -> float:
        """Mean squared distance over all pairs of different points: the mean LPIPS of n images.

        The mean over i != j of |e_i - e_j|^2 is 2 / (n - 1) (sum |e_i|^2 - n |mean e|^2).

        Raises:
            FsgenError: fewer than two points.
        """
        if self.n < 2:
            raise FsgenError(f"diversity needs at least 2 images, got {self.n}")
        total = float(self._total.square().sum())
        return max(0.0, 2 / (self.n - 1) * (self._squares - total / self.n))

    def between(self, other: Spread) -> float:
        """Mean squared distance over all pairs of a point here and a point of ``other``.

        Raises:
            FsgenError: one of the two is empty.
        """
        self._comparable(other)
        across = float((self._total * other._total.to(self._total.device)).sum()) / (self.n * other.n)
        return max(0.0, self._squares / self.n + other._squares / other.n - 2 * across)

    def within_resampled(self, counts: np.ndarray) -> np.ndarray:
        """``within`` of points resampled by counts [B, n]: [B]; NaN where one point was drawn n times.

        Of the sketches, and scaled so that a row of ones gives ``within``.
        """
        points = self.sketched()
        points = points - points.mean(axis=0)
        return _scaled(_pair_means(points, counts), _pair_means(points, np.ones((1, self.n))), self.within())

    def between_resampled(self, other: Spread, counts: np.ndarray) -> np.ndarray:
        """``between`` of points resampled by counts [B, n], and all of ``other``: [B]; likewise scaled."""
        self._comparable(other)
        theirs = other.sketched()
        centre = theirs.mean(axis=0)
        away = np.square(self.sketched() - centre).sum(axis=1)  # the mean over theirs is this and a constant
        means = counts @ away / counts.sum(axis=1) + np.square(theirs - centre).sum(axis=1).mean()
        whole = away.mean(keepdims=True) + np.square(theirs - centre).sum(axis=1).mean()
        return _scaled(means, whole, self.between(other))

    def sketched(self) -> np.ndarray:
        """Sketches, float64 [n, SKETCH] with n >= 1: over the random signs |s_i - s_j|^2 is |e_i - e_j|^2 on
        average, with a standard deviation of 4 to 5 % (Charikar et al. 2002)."""
        return torch.cat(self._sketches).double().numpy()

    def _comparable(self, other: Spread) -> None:
        if not (self.n and other.n):
            raise FsgenError(f"a distance between two sets needs images in both, got {self.n} and {other.n}")
        if self._total.shape != other._total.shape:
            raise ValueError(f"points of {len(self._total)} and of {len(other._total)} coordinates")


class Clusters:
    """Intra-cluster LPIPS (Ojha et al. 2021): is there variety around each training image?

    Each point belongs to the nearest anchor, e(training image). The first ``per_cluster`` of a cluster count;
    its value is their mean distance over all pairs. Memory: k anchors [D] float32 and k sums [D] float64.

    Args:
        anchors: float [k, D], k >= 1.
        per_cluster: members that count.
        empty: a cluster of fewer than ``least`` members is left out ("drop") or counts 0 ("zero").
        least: members below which a cluster is empty, at least 2.
    """

    def __init__(
        self,
        anchors: Tensor,
        per_cluster: int = 50,
        empty: Literal["drop", "zero"] = "drop",
        least: int = 2,
    ) -> None:
        if least < 2 or per_cluster < least:
            raise ValueError(f"a mean over pairs needs 2 members, not least={least} of {per_cluster}")
        self.per_cluster, self.empty, self.least = per_cluster, empty, least
        self.members: list[list[int]] = [[] for _ in anchors]  # that count, numbered in order of arrival
        self.nearest: list[int] = []  # each point's anchor
        # Around their mean: the rounding of |a|^2 + |b|^2 - 2ab shrinks, and distances do not change.
        self._centre = anchors.mean(dim=0)
        self._anchors = anchors - self._centre
        self._spreads = [Spread() for _ in anchors]

    @property
    def n(self) -> int:
        """Points so far."""
        return len(self.nearest)

    @torch.no_grad()
    def add(self, points: Tensor) -> None:
        """A batch, float [b, D]."""
        chosen = self.squares(points).argmin(dim=1).tolist()
        for k in sorted(set(chosen)):
            room = self.per_cluster - len(self.members[k])
            rows = [row for row, nearest in enumerate(chosen) if nearest == k][:room]
            self.members[k] += [self.n + row for row in rows]
            self._spreads[k].add(points[rows])
        self.nearest += chosen

    @torch.no_grad()
    def squares(self, points: Tensor) -> Tensor:
        """Squared distances, float64 [b, k], of points [b, D] to the anchors."""
        found = torch.zeros(len(points), len(self._anchors), dtype=torch.float64, device=points.device)
        for columns in _slices(self._centre):
            a = self._anchors[:, columns]
            p = points[:, columns] - self._centre[columns]
            found += (p.square().sum(dim=1)[:, None] + a.square().sum(dim=1) - 2 * (p @ a.T)).double()
        return found.clamp(min=0)

    @property
    def sizes(self) -> np.ndarray:
        """All that are nearest to each anchor, int64 [k]."""
        return np.bincount(np.array(self.nearest, dtype=np.int64), minlength=len(self.members))

    @property
    def values(self) -> np.ndarray:
        """Mean distance in each cluster, float64 [k]; NaN where it is empty."""
        return np.array([spread.within() if spread.n >= self.least else np.nan for spread in self._spreads])

    @property
    def value(self) -> float:
        """The mean over clusters.

        Raises:
            FsgenError: all are empty, and empty ones are left out.
        """
        return float(self._counted().mean())

    @property
    def deviation(self) -> float:
        """The standard deviation over clusters (divided by their number): the +- of the literature.

        Raises:
            FsgenError: as ``value``.
        """
        return float(self._counted().std())

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """``value`` of points resampled by counts [B, n]: [B]; NaN where no cluster is left.

        The members that count stay the same; a cluster whose members were hardly drawn is empty.
        """
        values = np.full((len(counts), len(self.members)), np.nan)
        for k, (spread, rows) in enumerate(zip(self._spreads, self.members, strict=True)):
            if spread.n >= self.least:
                drawn = counts[:, rows]
                enough = drawn.sum(axis=1) >= self.least
                values[:, k] = np.where(enough, spread.within_resampled(drawn), np.nan)
        if self.empty == "zero":
            return np.nan_to_num(values).mean(axis=1)
        full = np.isfinite(values).sum(axis=1)
        return np.divide(np.nansum(values, axis=1), full, out=np.full(len(counts), np.nan), where=full > 0)

    def _counted(self) -> np.ndarray:
        values = self.values
        if self.empty == "zero":
            return np.nan_to_num(values)
        if np.isnan(values).all():
            raise FsgenError(
                f"intra-LPIPS: no training image is the nearest to {self.least} samples or more",
                hint="more samples",
            )
        return values[~np.isnan(values)]


def _pair_means(points: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean squared distance over pairs of different rows of centred [n, s], weighted by counts: [B]."""
    weights = counts.astype(np.float64)
    squares = weights @ np.square(points).sum(axis=1)
    total = 2 * (weights.sum(axis=1) * squares - np.square(weights @ points).sum(axis=1))
    return over_pairs(total, weights)


def _scaled(replicates: np.ndarray, whole: np.ndarray, value: float) -> np.ndarray:
    """Replicates of sketches, [B], as if their value for the whole set, [1], were ``value``."""
    return replicates * (value / whole if whole[0] > 0 else 1.0)


def _signs(coordinates: int) -> Tensor:
    """+1 or -1 for each coordinate, int8 [D], always the same."""
    rng = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, 2, (coordinates,), generator=rng, dtype=torch.int8) * 2 - 1


def _folded(part: Tensor) -> Tensor:
    """[b, c] -> [b, SKETCH]: coordinate j is added to number j mod SKETCH."""
    part = torch.nn.functional.pad(part, (0, -part.shape[1] % SKETCH))
    return part.view(len(part), -1, SKETCH).sum(dim=1)


def _slices(row: Tensor) -> Iterator[slice]:
    for start in range(0, len(row), _SLICE):
        yield slice(start, start + _SLICE)
