"""Resampling and filtering of adaptive augmentation (Karras et al. 2020b, appendix B), with wavelet filters.

All operations are linear in the images, [n, C, H, W] of any range, and twice differentiable (R1). Matrices
map output to input coordinates, in pixels from the centre: x to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Decomposition low-pass filters of two wavelets, which are not symmetric.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
EDGE = len(SYM6) // 2  # margin in pixels that filtering needs
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # mean power of images in each band, coarse to fine
BAND_REACH = 21  # radius of the band filters in pixels


# ---- matrices --------------------------------------------------------------------------------------------


def affine(xx: Any, xy: Any, x: Any, yx: Any, yy: Any, y: Any, like: Tensor) -> Tensor:
    """[n, 3, 3] with the rows (xx, xy, x), (yx, yy, y), (0, 0, 1): numbers, or tensors [n] as ``like``."""
    entries = [torch.as_tensor(entry).to(like) for entry in (xx, xy, x, yx, yy, y, 0, 0, 1)]
    return torch.stack([entry.expand(len(like)) for entry in entries], dim=1).unflatten(1, (3, 3))


def scaling(x: Any, y: Any, like: Tensor) -> Tensor:
    return affine(x, 0, 0, 0, y, 0, like)


def shifting(x: Any, y: Any, like: Tensor) -> Tensor:
    return affine(1, 0, x, 0, 1, y, like)


def rotation(angle: Tensor) -> Tensor:
    """Rotation by ``angle`` [n], radians."""
    return affine(angle.cos(), -angle.sin(), 0, angle.sin(), angle.cos(), 0, angle)


# ---- resampling ------------------------------------------------------------------------------------------


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Warp ``images`` by ``matrices`` [n, 3, 3] at equal size, reflecting beyond the edges.

    Upsampling by 2, bilinear sampling, downsampling by 2, with an orthogonal wavelet's low-pass: integer
    shifts are exact; flips and rotations are not quite, since the filter is not symmetric.
    """
    (height, width), one = images.shape[2:], matrices[:, 0, 0]
    left, top, right, bottom = _margins(matrices, height, width)
    x = _twice(F.pad(images, (left, right, top, bottom), mode="reflect"))
    m = shifting((left - right) / 2, (top - bottom) / 2, one) @ matrices
    m = scaling(2, 2, one) @ m @ scaling(0.5, 0.5, one)
    m = shifting(-0.5, -0.5, one) @ m @ shifting(0.5, 0.5, one)
    canvas = 2 * (height + EDGE), 2 * (width + EDGE)
    m = scaling(2 / x.shape[3], 2 / x.shape[2], one) @ m @ scaling(canvas[1] / 2, canvas[0] / 2, one)
    grid = F.affine_grid(m[:, :2], [len(x), x.shape[1], *canvas], align_corners=False)
    return _half(_Sampled.apply(x, grid.to(x.dtype)))


def _margins(matrices: Tensor, height: int, width: int) -> list[int]:
    """Padding in pixels left, above, right and below, for the outermost corner in the batch."""
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = matrices.new_tensor([[-x, x, x, -x], [-y, -y, y, y], [1, 1, 1, 1]])
    reach = (matrices @ corners)[:, :2].transpose(0, 1).flatten(1)  # [2, n * 4]
    reach = torch.cat([-reach, reach]).amax(dim=1) + matrices.new_tensor([EDGE - x, EDGE - y] * 2)
    most = matrices.new_tensor([width - 1, height - 1] * 2)  # maximum for reflection
    return [int(margin) for margin in reach.clamp(min=0).minimum(most).ceil().tolist()]


def _twice(x: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, C, 2H, 2W]: zeros between the pixels, then the filter."""
    return _separably(x, [2 * tap / sum(SYM6) for tap in SYM6], F.conv_transpose2d, stride=2, padding=5)


def _half(x: Tensor) -> Tensor:
    """[n, C, 2(H + EDGE), 2(W + EDGE)] -> [n, C, H, W]: the reversed filter, then every second pixel."""
    return _separably(x[:, :, 1:-1, 1:-1], [tap / sum(SYM6) for tap in SYM6], F.conv2d, stride=2, padding=0)


def _separably(
    x: Tensor, taps: list[float], convolve: Callable[..., Tensor], stride: int, padding: int
) -> Tensor:
    """``convolve`` each channel separately, along columns, then rows."""
    weight, shape = x.new_tensor(taps), x.shape[:2]
    x = x.flatten(0, 1)[:, None]
    x = convolve(x, weight[None, None, :, None], stride=(stride, 1), padding=(padding, 0))
    x = convolve(x, weight[None, None, None, :], stride=(1, stride), padding=(0, padding))
    return x[:, 0].unflatten(0, shape)


class _Sampled(torch.autograd.Function):
    """Twice differentiable bilinear sampling, zeros outside, for older versions of torch: its gradient with
    respect to the images is ``_Spread``, whose gradient is this."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(gradient, ctx.saved_tensors[0], ctx.size), None


class _Spread(torch.autograd.Function):
    """Adjoint of ``_Sampled``: adds every sample to the pixels it was interpolated from."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        options = 0, 0, False, [True, False]  # bilinear, zeros, corners as above; no gradient of the grid
        return torch.ops.aten.grid_sampler_2d_backward(y, y.new_zeros(size), grid, *options)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sampled.apply(gradient, ctx.saved_tensors[0]), None, None


# ---- filtering -------------------------------------------------------------------------------------------


def amplify(images: Tensor, gains: Tensor) -> Tensor:
    """Scale four frequency bands per axis by ``gains`` [n, 4], coarse to fine; for images from 22 px.

    The gains are normalised one after another to preserve the power of an average image.
    """
    n, channels, *_ = images.shape
    power = 1 + gains.new_tensor(BAND_POWER) * (gains.square() - 1)  # [n, 4], with that band's gain alone
    gains = gains / power.prod(dim=1, keepdim=True).sqrt()
    taps = (gains @ _bands(gains)).repeat_interleave(channels, dim=0)[:, None, None]  # [n C, 1, 1, taps]
    x = F.pad(images, (BAND_REACH,) * 4, mode="reflect").flatten(0, 1)[None]
    x = F.conv2d(x, taps, groups=n * channels)
    x = F.conv2d(x, taps.transpose(2, 3), groups=n * channels)
    return x[0].unflatten(0, (n, channels))


def _bands(like: Tensor) -> Tensor:
    """Band filters [4, 43] that split a signal at 1/8, 1/4 and 1/2 of its bandwidth and sum to identity.

    With P(z) = H(z) H(1/z) / 2 of sym2 and Q(z) = P(-z), they are P(z) P(z^2) P(z^4), P(z) P(z^2) Q(z^4),
    P(z) Q(z^2) and Q(z).
    """
    h = torch.tensor(SYM2, dtype=torch.float64)
    low = F.conv1d(h[None, None], h[None, None], padding=len(h) - 1)[0, 0] / 2  # P, 7 taps
    high = low * torch.tensor([-1.0, 1.0] * 4, dtype=torch.float64)[: len(low)]  # Q
    coarse, bands = torch.ones(1, dtype=torch.float64), []
    for power in (1, 2, 4):
        bands.append(_product(coarse, high, power))
        coarse = _product(coarse, low, power)
    out = [F.pad(band, ((2 * BAND_REACH + 1 - len(band)) // 2,) * 2) for band in (coarse, *bands[::-1])]
    return torch.stack(out).to(like)


def _product(a: Tensor, b: Tensor, power: int) -> Tensor:
    """Coefficients of a(z) b(z^power); b is symmetric."""
    spread = b.new_zeros((len(b) - 1) * power + 1)
    spread[::power] = b
    return F.conv1d(a[None, None], spread[None, None], padding=len(spread) - 1)[0, 0]
