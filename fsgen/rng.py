"""Random generators that depend only on (seed, purpose, step).

Each draw has its own generator, so there is no state to save: a run resumed at step n draws the same numbers
as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generator(
    seed: int, purpose: str, step: int = 0, rank: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the generator of one draw. Its numbers are reproducible per kind of device.

    Args:
        seed: the run's seed.
        purpose: use of the numbers ("latents", "shots", ...); equal purposes share a stream.
        step: training step, or index of the draw.
        rank: process index in data-parallel training.
        device: the CPU for numbers that users reproduce by seed; the training device for noise.
    """
    import torch

    digest = hashlib.sha256(f"{seed}/{purpose}/{step}/{rank}".encode()).digest()
    # torch takes 64-bit seeds; 63 bits avoid the sign.
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
