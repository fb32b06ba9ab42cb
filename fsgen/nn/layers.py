"""Layers with an equalised learning rate (Karras et al. 2018, section 4.1).

Stored weights are of order 1 and scaled at run time, so that Adam changes every layer at the same relative
rate. Fisher information and EWC penalty use the stored ("raw") weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nn import fir

GAIN = math.sqrt(2)  # preserves the variance through the leaky ReLU
# lrelu(GAIN * x) = GAIN * lrelu(x): the layers below scale their small weights and biases instead of the
# large feature maps.


def lrelu(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU, slope 0.2, of an ``x`` that includes the GAIN, clamped to +-``clamp``."""
    x = F.leaky_relu(x, 0.2)
    return x if clamp is None else x.clamp(-clamp, clamp)


def normalise(x: Tensor) -> Tensor:
    """Divide each row by its root mean square: [n, k] -> [n, k]."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """x W^T * lr_mul / sqrt(fan_in) + b * lr_mul, optionally through ``lrelu``."""

    def __init__(
        self, inputs: int, outputs: int, *, lr_mul: float = 1.0, bias: float = 0.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs).div_(lr_mul))
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_mul))
        self.lr_mul = lr_mul
        self.scale = lr_mul / math.sqrt(inputs)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        gain = GAIN if self.activate else 1.0
        x = F.linear(x, self.weight * (self.scale * gain), self.bias * (self.lr_mul * gain))
        return lrelu(x) if self.activate else x


class EqualConv(nn.Module):
    """Convolution with W / sqrt(fan_in), optionally downsampling by 2; ``bare``: no bias and no ``lrelu``."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, down: bool = False, bare: bool = False,
        clamp: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = None if bare else nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs * size**2)
        self.down = down
        self.clamp = clamp

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """``gain`` multiplies the output, including the clamp."""
        if self.bias is not None:
            gain = gain * GAIN
        weight = self.weight * (self.scale * gain)
        size = weight.shape[-1]
        if not self.down:
            x = F.conv2d(x, weight, padding=size // 2)
        elif size == 1:  # the filter commutes with a 1x1 convolution: downsample first
            x = F.conv2d(fir.downsample(x), weight)
        else:
            x = F.conv2d(fir.blur(x, pad=(2, 2)), weight, stride=2)
        if self.bias is None:
            return x
        clamp = None if self.clamp is None else self.clamp * gain / GAIN
        return lrelu(x + (self.bias * gain)[:, None, None], clamp)


class ModulatedConv(nn.Module):
    """Weight (de)modulation (StyleGAN2, equations 1 and 3), applied to activations instead of weights.

    With style s, W'_oik = s_i W_oik and W''_oik = W'_oik / sqrt(sum_ik W'_oik^2 + eps). Scaling input
    channels by s and output channels by the denominator is equivalent with one weight for the whole batch:
    no grouped convolution, and cheap per-sample gradients.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, w_dim: int, *, up: bool = False, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.scale = 1 / math.sqrt(inputs * size**2)
        self.up = up
        self.demodulate = demodulate

    def convolve(self, x: Tensor, w: Tensor, gain: float = 1.0) -> Tensor:
        """x [n, inputs, H, W], w [n, w_dim] -> [n, outputs, H', W'] times ``gain``, H' = 2H with ``up``."""
        style = self.affine(w)  # [n, inputs]
        weight = self.weight
        if not self.demodulate:
            style = style * (self.scale * gain)
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = fir.blur(x, pad=(1, 1), gain=4.0)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            power = style.square() @ weight.square().sum(dim=(2, 3)).T  # [n, outputs]
            x = x * (gain * torch.rsqrt(power + 1e-8))[:, :, None, None]
        return x


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Append the batch's standard deviation as a channel (Karras et al. 2018, section 3).

    [n, C, H, W] -> [n, C + 1, H, W]. Sample i belongs to group i mod (n / G), with G the largest divisor of n
    up to ``group``: the published min(group, n) if that divides n.
    """
    n, _, height, width = x.shape
    size = next(g for g in range(min(group, n), 0, -1) if n % g == 0)
    grouped = x.reshape(size, n // size, *x.shape[1:])  # [G, n/G, C, H, W]
    variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)
    spread = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [n/G]
    return torch.cat([x, spread.repeat(size)[:, None, None, None].expand(n, 1, height, width)], dim=1)
