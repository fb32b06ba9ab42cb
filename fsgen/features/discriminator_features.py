"""A discriminator's feature maps as an embedding of images: no download, any domain it was trained on.

The maps are compared as in LPIPS (Zhang et al. 2018, equation 1), with equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fsgen.interfaces import Discriminator

POOLED = 8  # px: finer maps are average-pooled to this side, so that a copy shifted by a pixel stays near


@torch.no_grad()
def embed(d: Discriminator, images: Tensor, batch: int = 64) -> Tensor:
    """Compute points [n, k] on the CPU of images [n, C, H, W] in [-1, 1], whose distances compare images."""
    device = next(d.parameters()).device
    return torch.cat([pool_maps(d.features(part.to(device))).cpu() for part in images.split(batch)])


def pool_maps(maps: Sequence[Tensor]) -> Tensor:
    """Flatten a discriminator's feature maps [n, C, h, w] to points [n, k], pooled and normalised."""
    parts = []
    for x in maps:
        x = x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-8)  # unit length at every position
        side = min(POOLED, x.shape[-1])
        x = nn.functional.adaptive_avg_pool2d(x, side)
        parts.append(x.flatten(1) / side)  # distances are means over positions
    return torch.cat(parts, dim=1)
