"""A discriminator's feature maps as an embedding of images: no download, any domain it was trained on.

The maps are compared as LPIPS compares those of a classifier (Zhang et al. 2018, equation 1), with equal
weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLED = 8  # px: finer maps are averaged to this side, so that a shift by a pixel stays a copy


@torch.no_grad()
def embed(d: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Points [n, k] on the CPU of images [n, C, H, W] in [-1, 1], such that distances compare pictures."""
    device = next(d.parameters()).device
    return torch.cat([pooled(d.features(part.to(device))).cpu() for part in images.split(batch)])


def pooled(maps: list[Tensor]) -> Tensor:
    """Points [n, k] of a discriminator's feature maps: what is where, roughly, at every level."""
    parts = []
    for x in maps:
        x = x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-8)  # unit length at every position
        side = min(POOLED, x.shape[-1])
        x = nn.functional.adaptive_avg_pool2d(x, side)
        parts.append(x.flatten(1) / side)  # the mean over positions
    return torch.cat(parts, dim=1)
