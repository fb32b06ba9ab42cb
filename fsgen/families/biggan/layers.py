"""Layers of BigGAN with spectral normalisation (Brock et al. 2019, appendix B)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6  # smallest divisor of a vector in power iteration
MOMENTUM = 0.1  # of running statistics
BN_EPSILON = 1e-5


class SNLayer(nn.Module):
    """A weight W divided by sigma = u W v^T, after one power iteration (Miyato et al. 2018, algorithm 1).

    The iteration runs in evaluation as well, but only training stores its result. Gradients flow through W
    in sigma, not through u and v.

    Args:
        shape: of W, rows first.
        bias: number of biases.
    """

    u: Tensor  # [1, rows]

    def __init__(self, *shape: int, bias: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(bias)) if bias else None
        self.register_buffer("u", torch.randn(1, len(self.matrix)))
        if not self.weight.is_meta:  # slow, and of no effect on the meta device
            nn.init.orthogonal_(self.weight)

    @property
    def matrix(self) -> Tensor:
        """W as [rows, columns]."""
        return self.weight.flatten(1)

    def step(self) -> tuple[Tensor, Tensor]:
        """One power iteration from the stored u: the new u, [1, rows], and sigma, a scalar."""
        matrix = self.matrix
        fixed = matrix.detach()
        v = F.normalize(self.u @ fixed, eps=EPSILON)
        u = F.normalize(v @ fixed.T, eps=EPSILON)
        return u, (v @ matrix.T * u).sum()

    @torch.no_grad()
    def iterate(self, times: int) -> None:
        """Store u after ``times`` power iterations."""
        for _ in range(times):
            self.u.copy_(self.step()[0])

    def scaled(self) -> Tensor:
        """W / sigma."""
        u, sigma = self.step()
        if self.training:
            self.u.copy_(u)
        return self.weight / sigma


class SNConv(SNLayer):
    """[n, inputs, H, W] -> [n, outputs, H, W], with a ``size`` x ``size`` kernel."""

    def __init__(self, inputs: int, outputs: int, size: int, *, bias: bool = True) -> None:
        super().__init__(outputs, inputs, size, size, bias=outputs if bias else 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scaled(), self.bias, padding=self.weight.shape[-1] // 2)


class SNLinear(SNLayer):
    """[n, inputs] -> [n, outputs]"""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(outputs, inputs, bias=outputs if bias else 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled(), self.bias)


class SNEmbedding(SNLayer):
    """Labels [n, classes] -> [n, outputs]; one column of W and one value of u for each class."""

    def __init__(self, classes: int, outputs: int) -> None:
        super().__init__(outputs, classes)

    @property
    def matrix(self) -> Tensor:
        return self.weight.T

    def forward(self, y: Tensor) -> Tensor:
        return F.linear(y, self.scaled())


class ConditionalNorm(nn.BatchNorm2d):
    """Batch normalisation with a scale, 1 + gain(c), and a shift(c), both linear in a condition c."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__(channels, eps=BN_EPSILON, momentum=MOMENTUM, affine=False)
        self.gain = SNLinear(condition, channels, bias=False)
        self.shift = SNLinear(condition, channels, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]  # a condition besides
        """[n, channels, H, W], [n, condition] -> [n, channels, H, W]"""
        if self.gain.training:
            x = super().forward(x)
        else:  # where only gain and shift are frozen, too: this module has no weights of its own
            x = F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return x * (1 + self.gain(c))[:, :, None, None] + self.shift(c)[:, :, None, None]


class Attention(nn.Module):
    """x + gamma o(attention) over all positions (Zhang et al. 2019, SAGAN, equations 1 to 3).

    Keys and values are max-pooled to half the resolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = SNConv(channels, narrow, 1, bias=False)
        self.phi = SNConv(channels, narrow, 1, bias=False)
        self.g = SNConv(channels, half, 1, bias=False)
        self.o = SNConv(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, H, W] -> [n, channels, H, W]"""
        queries = self.theta(x).flatten(2)  # [n, C/8, HW]
        keys = F.max_pool2d(self.phi(x), 2).flatten(2)  # [n, C/8, HW/4]
        values = F.max_pool2d(self.g(x), 2).flatten(2)  # [n, C/2, HW/4]
        weights = (queries.transpose(1, 2) @ keys).softmax(dim=2)  # [n, HW, HW/4]
        mixed = (values @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.o(mixed)


def truncated_normal(z: Tensor, bound: float = 2.0) -> Tensor:
    """Map z ~ N(0, 1) to the normal distribution truncated at +-``bound``, by quantiles."""
    inside = math.erf(bound / math.sqrt(2))  # the share of values within the bound
    return torch.special.ndtri(0.5 + (torch.special.ndtr(z.double()) - 0.5) * inside).to(z.dtype)
