"""Randomness that depends on nothing but (seed, purpose, step).

Each draw has a generator of its own, seeded from what it is for and when. There is no state to save: a run
resumed at step n draws at step n what the uninterrupted run drew there.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generator(
    seed: int, purpose: str, step: int = 0, rank: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for one draw. Streams differ between kinds of device; on one device they are fixed.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for ("latents", "shots", ...): equal purposes share a stream.
        step: training step, or index of the draw.
        rank: process index in data-parallel training.
        device: where the numbers are made: the CPU for what a person names (a picture's seed), the
            training device for what nobody does (noise).
    """
    import torch

    digest = hashlib.sha256(f"{seed}/{purpose}/{step}/{rank}".encode()).digest()
    # torch takes 64-bit seeds; 63 bits keep it clear of the sign.
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
