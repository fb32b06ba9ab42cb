"""What the studies of adaptation share: adapting peeps64 once, judging what came of it, rows of JSON.

They judge in the avatars' features.pt: for development, not FID. That is a small network trained on the four
avatar styles; no generator was trained with it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import fsgen
from fsgen.data.images import load_images
from fsgen.evaluation.discriminator_judge import DiscriminatorJudge
from fsgen.metrics.distances import nearest
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.metrics.memorisation import leakage

TARGETS = ("sketches", "pixel_faces", "doodles")
SAMPLES, REALS = 500, 5000
SIZE = 64
BATCH = 50


# ---- adapting ---------------------------------------------------------------------------------------------


def adapted(shots: Path, out: Path, method: str, seed: int, *options: str) -> float:
    """One `fsgen adapt` in a process of its own on one thread; the seconds of a processor that took."""

    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    before = used()
    command = [Path(sys.executable).with_name("fsgen"), "adapt", shots, "--out", out, "--method", method]
    subprocess.run(
        [*map(str, command), "--seed", str(seed), "--device", "cpu", "--force", "--json", *options],
        check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    shutil.rmtree(out / "state")
    return used() - before


def drawn(run: Path | str, n: int = SAMPLES) -> Tensor:
    """uint8 [n, 3, 64, 64]: samples of a run or a source."""
    return fsgen.load(run, device="cpu").sample(n, seed=0)


# ---- judging ----------------------------------------------------------------------------------------------


def features(avatars: Path, images: Tensor) -> Tensor:
    """[n, 192] of uint8 images [n, 3, 64, 64]."""
    network = torch.jit.load(avatars / "features.pt").eval()
    with torch.no_grad():
        return torch.cat([network(part.float() / 127.5 - 1) for part in images.split(250)])


class Judge:
    """Of adaptations of peeps64 to a few pictures of one style.

    Args:
        avatars: the folder of the avatar sets.
        style: the style's pictures, of which the first 5,000 count.
        shots: the few.
    """

    def __init__(self, avatars: Path, style: Path, shots: Path) -> None:
        self.avatars = avatars
        self.shots = load_images(shots, SIZE).pixels
        self.target, self.source = (
            features(avatars, load_images(path, SIZE, limit=REALS).pixels)
            for path in (style, avatars / "peeps64.zip")
        )

    @classmethod
    def of(cls, avatars: Path, target: str) -> Judge:
        """Of one of ``TARGETS`` and its ten pictures."""
        return cls(avatars, avatars / f"{target}64.zip", avatars / f"ten_{target}")

    @cached_property
    def discriminator(self) -> DiscriminatorJudge:
        return DiscriminatorJudge.of(
            fsgen.load("peeps64", device="cpu").model, self.shots, torch.device("cpu"), BATCH
        )

    def figures(self, images: Tensor, *, copies: bool = True) -> dict[str, float]:
        """Of uint8 samples [n, 3, 64, 64]; near_copies, which take half of the time, only with ``copies``.

        frechet: distance to the style's 5,000. diversity: mean pairwise L2 distance. intra: the same among
        the samples nearest to each shot, the mean over shots with at least two. near_copies: the share as
        near to a shot as hardly any two pictures of the source are to one another, as fsgen eval has it.
        leakage: the share nearer to one of 5,000 source images than to any of the style's.
        """
        points = features(self.avatars, images)
        own = torch.from_numpy(nearest(points, features(self.avatars, self.shots)).indices)
        clusters = [points[own == row] for row in range(len(self.shots))]
        full = [mean_pairwise(some) for some in clusters if len(some) > 1]
        near = {"near_copies": self._copies(images)} if copies else {}
        return {
            "frechet": round(frechet(points, self.target), 1),
            "diversity": round(mean_pairwise(points), 2),
            "intra": round(sum(full) / len(full), 2),
            "clusters": len(full),
            **near,
            "leakage": leakage(points, self.source, self.target),
        }

    def _copies(self, images: Tensor) -> float:
        away = torch.cat(
            [self.discriminator.nearest(self.discriminator.maps(part))[0] for part in images.split(BATCH)]
        )
        return (away < self.discriminator.threshold).float().mean().item()


# ---- rows -------------------------------------------------------------------------------------------------


def write(results: Path, row: dict[str, Any]) -> None:
    """One line more, with what it was made with."""
    row |= {
        "torch": torch.__version__, "fsgen": fsgen.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def cells(some: list[dict[str, Any]]) -> str:
    """Of a table: how many rows, and the means of their distance, diversity and leakage."""
    frechet, diversity, leaked = (
        mean(row[key] for row in some) for key in ("frechet", "diversity", "leakage")
    )
    return f"{len(some)} | {frechet:.0f} | {diversity:.1f} | {leaked:.1%}"


def rows(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
