"""Resampling and convolution as their definitions say, by loops, in float64: slow and hard to get wrong."""

from __future__ import annotations

import torch
from torch import Tensor

BINOMIAL = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)


def kernel() -> Tensor:
    """The 4x4 outer product, sum 1."""
    full = BINOMIAL[:, None] * BINOMIAL[None, :]
    return full / full.sum()


def zero_insert(x: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, C, 2H, 2W]: each pixel followed by a zero, in rows and columns."""
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, 2 * h, 2 * w)
    for i in range(h):
        for j in range(w):
            out[:, :, 2 * i, 2 * j] = x[:, :, i, j]
    return out


def pad(x: Tensor, before: int, after: int) -> Tensor:
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, h + before + after, w + before + after)
    out[:, :, before : before + h, before : before + w] = x
    return out


def filtered(x: Tensor, gain: float = 1.0) -> Tensor:
    """Every channel correlated with the binomial kernel, without padding."""
    k = kernel() * gain
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, h - 3, w - 3)
    for i in range(h - 3):
        for j in range(w - 3):
            out[:, :, i, j] = (x[:, :, i : i + 4, j : j + 4] * k).sum(dim=(2, 3))
    return out


def upsample(x: Tensor) -> Tensor:
    return filtered(pad(zero_insert(x), 2, 1), gain=4.0)


def downsample(x: Tensor) -> Tensor:
    return filtered(pad(x, 1, 1))[:, :, ::2, ::2]


def conv(x: Tensor, weight: Tensor, padding: int, stride: int = 1) -> Tensor:
    """[n, I, H, W] with [O, I, k, k]: out[o, i, j] = sum of weight[o] * the patch at (i, j)."""
    size = weight.shape[-1]
    x = pad(x, padding, padding)
    rows, cols = ((length - size) // stride + 1 for length in x.shape[2:])
    out = x.new_zeros(len(x), len(weight), rows, cols)
    for i in range(rows):
        for j in range(cols):
            patch = x[:, None, :, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, :, i, j] = (patch * weight[None]).sum(dim=(2, 3, 4))
    return out


def conv_transpose(x: Tensor, weight: Tensor) -> Tensor:
    """Stride 2, [n, I, H, W] with [O, I, k, k]: every pixel stamps the kernel, [n, O, 2H + k - 2, ...]."""
    size = weight.shape[-1]
    n, _, h, w = x.shape
    out = x.new_zeros(n, len(weight), 2 * (h - 1) + size, 2 * (w - 1) + size)
    for i in range(h):
        for j in range(w):
            stamp = torch.einsum("ni,oiab->noab", x[:, :, i, j], weight)
            out[:, :, 2 * i : 2 * i + size, 2 * j : 2 * j + size] += stamp
    return out
