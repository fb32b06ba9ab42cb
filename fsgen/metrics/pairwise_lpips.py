"""Mean LPIPS over all pairs within a set, across two sets, and in clusters, in one pass over the images.

LPIPS is a squared Euclidean distance between points e(x) (``Lpips.embed``) with millions of coordinates, too
many to keep. Running sums over batches give every mean exactly; resampling uses random sketches of points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fsgen.errors import Code, FsgenError
from fsgen.metrics.intervals import over_pairs

SKETCH = 1021  # numbers per point; prime, so that no row, column or channel of a map is summed into one
_SEED = 20201006  # of the sketches' signs, equal for all sets
_SLICE = 64 * SKETCH  # coordinates at a time, to bound memory


class Spread:
    """Running sums and sketches of points [n, D], from which their mean squared distances follow."""

    def __init__(self) -> None:
        self.n = 0
        self._total = torch.zeros(0, dtype=torch.float64)  # [D], on the points' device
        self._squares = 0.0
        self._signs = torch.zeros(0, dtype=torch.int8)  # [D]
        self._sketches: list[Tensor] = []  # [b, SKETCH] float32 each

    @torch.no_grad()
    def add(self, points: Tensor) -> None:
        """Add a batch, float [b, D], b >= 0."""
        if not len(points):
            return
        if not self.n:
            self._total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
            self._signs = _signs(points.shape[1]).to(points.device)
        sketches = torch.zeros(len(points), SKETCH, dtype=torch.float64, device=points.device)
        for columns in _slices(self._total):
            part = points[:, columns].double()
            self._total[columns] += part.sum(dim=0)
            self._squares += float(part.square().sum())
            sketches += _fold(part * self._signs[columns])
        self._sketches.append(sketches.float().cpu())
        self.n += len(points)

    def within(self) -> float:
        """Compute the mean squared distance over all pairs of different points: the mean LPIPS of n images.

        The mean over i != j of |e_i - e_j|^2 is 2 / (n - 1) (sum |e_i|^2 - n |mean e|^2).

        Raises:
            FsgenError: fewer than two points.
        """
        if self.n < 2:
            why = f"LPIPS diversity needs at least 2 images, got {self.n}"
            raise FsgenError(why, code=Code.TOO_FEW, where="images")
        total = float(self._total.square().sum())
        return max(0.0, 2 / (self.n - 1) * (self._squares - total / self.n))

    def between(self, other: Spread) -> float:
        """Compute the mean squared distance over all pairs of a point of ``self`` and a point of ``other``.

        Raises:
            FsgenError: a set is empty.
        """
        self._comparable(other)
        across = float((self._total * other._total.to(self._total.device)).sum()) / (self.n * other.n)
        return max(0.0, self._squares / self.n + other._squares / other.n - 2 * across)

    def within_resampled(self, counts: np.ndarray) -> np.ndarray:
        """Compute ``within`` of points resampled by counts [B, n]: [B]; NaN if one was drawn n times.

        From the sketches, scaled so that a row of ones gives ``within``.
        """
        points = self.sketched()
        points = points - points.mean(axis=0)
        return _scaled(_pair_means(points, counts), _pair_means(points, np.ones((1, self.n))), self.within())

    def between_resampled(self, other: Spread, counts: np.ndarray) -> np.ndarray:
        """Compute ``between`` of points resampled by counts [B, n] and all of ``other``: [B]; scaled too."""
        self._comparable(other)
        theirs = other.sketched()
        centre = theirs.mean(axis=0)
        own = np.square(self.sketched() - centre).sum(axis=1)
        other_mean = np.square(theirs - centre).sum(axis=1).mean()  # of |s - t|^2 over t: own + other_mean
        means, whole = counts @ own / counts.sum(axis=1) + other_mean, own.mean(keepdims=True) + other_mean
        return _scaled(means, whole, self.between(other))

    def sketched(self) -> np.ndarray:
        """Return sketches, float64 [n, SKETCH] with n >= 1 (Charikar et al. 2002).

        E |s_i - s_j|^2 = |e_i - e_j|^2 over the random signs, with a standard deviation of 4 to 5 %.
        """
        return torch.cat(self._sketches).double().numpy()

    def _comparable(self, other: Spread) -> None:
        if not (self.n and other.n):
            why = f"LPIPS between two sets needs images in both, got {self.n} and {other.n}"
            raise FsgenError(why, code=Code.TOO_FEW, where="images")
        if self._total.shape != other._total.shape:
            raise ValueError(f"points have {len(self._total)} and {len(other._total)} coordinates")


class Clusters:
    """Intra-cluster LPIPS (Ojha et al. 2021): diversity around each training image.

    Each point belongs to the nearest anchor, e(training image). A cluster's value is the mean distance over
    all pairs of its first ``per_cluster`` points. Memory: k anchors [D] float32 and k sums [D] float64.

    Args:
        anchors: float [k, D], k >= 1.
        per_cluster: members that are used.
        empty: a cluster of fewer than ``least`` members is omitted ("drop") or has value 0 ("zero").
        least: with fewer members a cluster is empty; at least 2.
    """

    def __init__(
        self,
        anchors: Tensor,
        per_cluster: int = 50,
        empty: Literal["drop", "zero"] = "drop",
        least: int = 2,
    ) -> None:
        if least < 2 or per_cluster < least:
            raise ValueError(f"a mean over pairs needs 2 members, got least={least} of {per_cluster}")
        self.per_cluster, self.empty, self.least = per_cluster, empty, least
        self.members: list[list[int]] = [[] for _ in anchors]  # used ones, numbered in order of arrival
        self.nearest: list[int] = []  # anchor of each point
        # Centring leaves distances unchanged and reduces the rounding errors of |a|^2 + |b|^2 - 2ab.
        self._centre = anchors.mean(dim=0)
        self._anchors = anchors - self._centre
        self._spreads = [Spread() for _ in anchors]

    @property
    def n(self) -> int:
        """Number of points so far."""
        return len(self.nearest)

    @torch.no_grad()
    def add(self, points: Tensor) -> None:
        """Add a batch, float [b, D]."""
        chosen = self.squares(points).argmin(dim=1).tolist()
        for k in sorted(set(chosen)):
            room = self.per_cluster - len(self.members[k])
            rows = [row for row, nearest in enumerate(chosen) if nearest == k][:room]
            self.members[k] += [self.n + row for row in rows]
            self._spreads[k].add(points[rows])
        self.nearest += chosen

    @torch.no_grad()
    def squares(self, points: Tensor) -> Tensor:
        """Compute squared distances, float64 [b, k], of points [b, D] to the anchors."""
        found = torch.zeros(len(points), len(self._anchors), dtype=torch.float64, device=points.device)
        for columns in _slices(self._centre):
            a = self._anchors[:, columns]
            p = points[:, columns] - self._centre[columns]
            found += (p.square().sum(dim=1)[:, None] + a.square().sum(dim=1) - 2 * (p @ a.T)).double()
        return found.clamp(min=0)

    @property
    def sizes(self) -> np.ndarray:
        """Number of points nearest to each anchor, int64 [k]."""
        return np.bincount(np.array(self.nearest, dtype=np.int64), minlength=len(self.members))

    @property
    def values(self) -> np.ndarray:
        """Mean distance in each cluster, float64 [k]; NaN where it is empty."""
        return np.array([spread.within() if spread.n >= self.least else np.nan for spread in self._spreads])

    @property
    def value(self) -> float:
        """The mean over clusters.

        Raises:
            FsgenError: all clusters are empty, and empty ones are omitted.
        """
        return float(self._used_values().mean())

    @property
    def deviation(self) -> float:
        """The standard deviation over clusters (divided by their number), as in the literature.

        Raises:
            FsgenError: as ``value``.
        """
        return float(self._used_values().std())

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """Compute ``value`` for B bootstrap samples; NaN where all clusters are empty.

        Takes how often each point was drawn, [B, n]; returns [B].

        The used members stay the same; a cluster with fewer than ``least`` draws is empty.
        """
        values = np.full((len(counts), len(self.members)), np.nan)
        for k, (spread, rows) in enumerate(zip(self._spreads, self.members, strict=True)):
            if spread.n >= self.least:
                drawn = counts[:, rows]
                full = drawn.sum(axis=1) >= self.least
                values[:, k] = np.where(full, spread.within_resampled(drawn), np.nan)
        if self.empty == "zero":
            return np.nan_to_num(values).mean(axis=1)
        used = np.isfinite(values).sum(axis=1)
        return np.divide(np.nansum(values, axis=1), used, out=np.full(len(counts), np.nan), where=used > 0)

    def _used_values(self) -> np.ndarray:
        values = self.values
        if self.empty == "zero":
            return np.nan_to_num(values)
        if np.isnan(values).all():
            raise FsgenError(
                f"intra-LPIPS: no training image is the nearest to {self.least} samples or more",
                code=Code.TOO_FEW, where="intra-LPIPS", hint="draw more samples",
            )  # fmt: skip
        return values[~np.isnan(values)]


def _pair_means(points: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute mean squared distances of pairs of rows of centred [n, s], weighted by counts: [B]."""
    weights = counts.astype(np.float64)
    squares = weights @ np.square(points).sum(axis=1)
    total = 2 * (weights.sum(axis=1) * squares - np.square(weights @ points).sum(axis=1))
    return over_pairs(total, weights)


def _scaled(replicates: np.ndarray, whole: np.ndarray, value: float) -> np.ndarray:
    """Scale replicates from sketches, [B], so that their value for the whole set, [1], is ``value``."""
    return replicates * (value / whole if whole[0] > 0 else 1.0)


def _signs(coordinates: int) -> Tensor:
    """Draw +1 or -1 for each coordinate, int8 [D], from a fixed seed."""
    rng = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, 2, (coordinates,), generator=rng, dtype=torch.int8) * 2 - 1


def _fold(part: Tensor) -> Tensor:
    """Sum [b, c] to [b, SKETCH]: coordinate j is added to number j mod SKETCH."""
    part = torch.nn.functional.pad(part, (0, -part.shape[1] % SKETCH))
    return part.view(len(part), -1, SKETCH).sum(dim=1)


def _slices(row: Tensor) -> Iterator[slice]:
    for start in range(0, len(row), _SLICE):
        yield slice(start, start + _SLICE)
