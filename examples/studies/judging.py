"""What the studies of adaptation measure, in the avatars' features.pt: for development, not FID.

features.pt is a small network trained on the four avatar styles; no generator was trained with it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

import fsgen
from fsgen.data.images import load_images
from fsgen.evaluation.critic import Critic
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.metrics.memorisation import leakage, nearest

SAMPLES, REALS = 500, 5000
SIZE = 64
BATCH = 50


def features(avatars: Path, images: Tensor) -> Tensor:
    """[n, 192] of uint8 images [n, 3, 64, 64]."""
    network = torch.jit.load(avatars / "features.pt").eval()
    with torch.no_grad():
        return torch.cat([network(part.float() / 127.5 - 1) for part in images.split(250)])


def reals(avatars: Path, name: str, limit: int = REALS) -> Tensor:
    """The features of a style's first pictures."""
    return features(avatars, load_images(avatars / f"{name}64.zip", SIZE, limit=limit).pixels)


class Judge:
    """Of adaptations of peeps64 to a few pictures of one style.

    Args:
        avatars: the folder of the avatar sets.
        target: the style's name there.
        shots: the folder of the few pictures.
    """

    def __init__(self, avatars: Path, target: str, shots: Path) -> None:
        self.avatars = avatars
        self.shots = load_images(shots, SIZE).pixels
        self.target, self.source = reals(avatars, target), reals(avatars, "peeps")

    @cached_property
    def critic(self) -> Critic:
        return Critic.of(fsgen.load("peeps64", device="cpu").model, self.shots, torch.device("cpu"), BATCH)

    def figures(self, images: Tensor) -> dict[str, float]:
        """Of uint8 samples [n, 3, 64, 64].

        frechet: distance to the style's 5,000. diversity: mean pairwise L2 distance. intra: the same among
        the samples nearest to each shot, the mean over shots with at least two. near_copies: the share as
        near to a shot as hardly any two pictures of the source are to one another, as fsgen eval has it.
        leakage: the share nearer to one of 5,000 source images than to any of the style's.
        """
        points = features(self.avatars, images)
        own = torch.from_numpy(nearest(points, features(self.avatars, self.shots)).indices)
        clusters = [points[own == row] for row in range(len(self.shots))]
        full = [mean_pairwise(some) for some in clusters if len(some) > 1]
        away = torch.cat([self.critic.nearest(self.critic.maps(part))[0] for part in images.split(BATCH)])
        return {
            "frechet": round(frechet(points, self.target), 1),
            "diversity": round(mean_pairwise(points), 2),
            "intra": round(sum(full) / len(full), 2),
            "clusters": len(full),
            "near_copies": (away < self.critic.threshold).float().mean().item(),
            "leakage": leakage(points, self.source, self.target),
        }
