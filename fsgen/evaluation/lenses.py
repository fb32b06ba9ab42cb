"""What a set of images looks like to the networks that measure it: one pass for all metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsgen.evaluation.critic import Critic
from fsgen.metrics.backbones import Inception, Lpips
from fsgen.metrics.diversity import mean_pairwise, mean_squared_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.metrics.kernel import kid

KID = {"subsets": 100, "subset_size": 1000}  # clean-fid's
DIVERSE = 500  # images whose mutual distances are taken in the discriminator's features; bounds the memory

METRICS: dict[str, str | None] = {  # name -> the weights it needs, in metrics.weights.CATALOGUE
    "fid": "inception",
    "kid": "inception",
    "lpips": "alexnet",
    "near_copies": None,
    "diversity": None,
}


@dataclass(frozen=True)
class Seen:
    """What is kept of one set of images."""

    n: int
    inception: Tensor | None = None  # [n, 2048]
    lpips: float | None = None  # mean over all pairs
    points: Tensor | None = None  # [min(n, DIVERSE), k] in the discriminator's features
    distances: np.ndarray | None = None  # [n] to the nearest shot, likewise


@dataclass(frozen=True)
class Lenses:
    """The networks that the metrics asked for need; absent ones are None."""

    metrics: tuple[str, ...]
    inception: Inception | None = None
    lpips: Lpips | None = None
    critic: Critic | None = None
    seed: int = 0
    progress: Callable[[str, int, int], None] = field(default=lambda task, done, total: None)

    def look(self, batches: Iterable[Tensor], task: str, total: int) -> Seen:
        """One pass over images, uint8 [n, C, H, W] a batch; ``task`` names it in the progress."""
        kept = _Kept()
        embedded = self._passing(batches, kept, task, total)
        if self.lpips is None:
            for _ in embedded:
                pass
            return kept.seen(None)
        return kept.seen(mean_squared_pairwise(embedded))

    @torch.no_grad()
    def _passing(self, batches: Iterable[Tensor], kept: _Kept, task: str, total: int) -> Iterator[Tensor]:
        """LPIPS points of each batch, while the other networks look at it too."""
        for images in batches:
            if self.inception is not None:
                kept.inception.append(self.inception(_colour(images)))
            if "diversity" in self.metrics and (room := DIVERSE - kept.n) > 0:
                kept.points.append(self.critic.points(images[:room]))
            if "near_copies" in self.metrics:
                kept.distances.append(self.critic.copied(images))
            kept.n += len(images)
            self.progress(task, kept.n, total)
            yield self.lpips.embed(_colour(images).float() / 127.5 - 1) if self.lpips else images[:0]

    def figures(self, seen: Seen, reals: Seen | None, new: list[int] | None = None) -> dict[str, float]:
        """The metrics of one set.

        Args:
            seen: the set.
            reals: what it is compared with; None for the reals themselves.
            new: rows that may count as near copies: a training image is no copy of itself.
        """
        rows = slice(None) if new is None else new
        measures: dict[str, Callable[[], float]] = {
            "fid": lambda: frechet(seen.inception, reals.inception),
            # clean-fid draws from numpy's global stream: this is what it gives after numpy.random.seed(seed)
            "kid": lambda: kid(
                seen.inception, reals.inception, rng=np.random.RandomState(self.seed % 2**32), **KID
            ),
            "lpips": lambda: seen.lpips,
            "near_copies": lambda: float(np.mean(seen.distances[rows] < self.critic.threshold)),
            "diversity": lambda: mean_pairwise(seen.points),
        }
        senseless = {"fid", "kid"} if reals is None else set()
        senseless |= {"near_copies"} if new == [] else set()
        return {name: measures[name]() for name in self.metrics if name not in senseless}


@dataclass
class _Kept:
    """What a pass has gathered so far."""

    n: int = 0
    inception: list[Tensor] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    distances: list[np.ndarray] = field(default_factory=list)

    def seen(self, lpips: float | None) -> Seen:
        return Seen(
            self.n,
            torch.cat(self.inception) if self.inception else None,
            lpips,
            torch.cat(self.points) if self.points else None,
            np.concatenate(self.distances) if self.distances else None,
        )


def _colour(images: Tensor) -> Tensor:
    """Grey as RGB, as a PNG reader would hand it to the networks."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def backbone(name: str, path: Path, device: torch.device) -> Any:
    """The network whose weights are called ``name``."""
    return Inception(path, device) if name == "inception" else Lpips("alex", path, device)
