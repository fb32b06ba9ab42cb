"""Inputs drawn from a prior, with random labels for conditional networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fsgen.interfaces import Inputs


def draw_latents(
    n: int, z_dim: int, c_dim: int, rng: torch.Generator, prior: Callable[..., Tensor] = torch.randn
) -> Inputs:
    """n inputs on the device of ``rng``: z ~ N(0, I), or of another ``prior``, and a random one-hot label.

    Args:
        n: number of inputs.
        z_dim: length of z.
        c_dim: number of classes; 0: no labels.
        rng: source of randomness.
        prior: ``torch.randn`` or ``torch.rand``.
    """
    z = prior(n, z_dim, generator=rng, device=rng.device)
    if not c_dim:
        return Inputs(z=z)
    classes = torch.randint(c_dim, (n,), generator=rng, device=rng.device)
    return Inputs(z=z, y=F.one_hot(classes, c_dim).float())
