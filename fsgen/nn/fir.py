"""Resampling with the binomial filter [1, 3, 3, 1] of StyleGAN2 (Karras et al. 2020, appendix B).

The filter is an outer product with sum 1; upsampling multiplies it by 4 to preserve the signal's level.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = (1.0, 3.0, 3.0, 1.0)


def binomial_kernel(like: Tensor, gain: float = 1.0) -> Tensor:
    """The 4x4 filter with sum ``gain``, in the dtype and on the device of ``like``."""
    taps = torch.tensor(TAPS, dtype=like.dtype, device=like.device)
    return torch.outer(taps, taps) * (gain / sum(TAPS) ** 2)


def blur(x: Tensor, pad: tuple[int, int], gain: float = 1.0, stride: int = 1) -> Tensor:
    """Filter each channel separately. ``pad``: zeros before and after rows and columns.

    [n, C, H, W] -> [n, C, (H + sum(pad) - 4) // stride + 1, ...]
    """
    channels = x.shape[1]
    weight = binomial_kernel(x, gain).expand(channels, 1, 4, 4)
    if pad[0] == pad[1]:
        return F.conv2d(x, weight, stride=stride, padding=pad[0], groups=channels)
    return F.conv2d(F.pad(x, (*pad, *pad)), weight, stride=stride, groups=channels)


def upsample(x: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, C, 2H, 2W]: zeros between the pixels, then the filter with gain 4."""
    channels = x.shape[1]
    weight = binomial_kernel(x, gain=4.0).expand(channels, 1, 4, 4)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


def downsample(x: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, C, H/2, W/2]: the filter, then every second pixel; adjoint of ``upsample`` / 4."""
    return blur(x, pad=(1, 1), stride=2)
