"""Spectrally normalised convolutions (Miyato et al. 2018, "Spectral Normalization for GANs")."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIRST = 15  # power iterations on untrained weights: sufficient for images before the first step
EPSILON = 1e-12  # minimum norm of a vector to be normalised


class SpectralConv(nn.Module):
    """Convolution without bias, with weight W divided by sigma = u^T W v, an estimate of its largest singular
    value.

    In training, every forward pass first does one power iteration for u and v (algorithm 1); otherwise the
    stored ones are used. Gradients flow through sigma, not through u and v.

    Args:
        inputs: channels.
        outputs: channels.
        size: side of the kernel in pixels.
        stride: of the convolution.
        padding: zeros on each side.
        transposed: transposed convolution, whose matrix W also has ``outputs`` rows.
    """

    u: Tensor  # [outputs]
    v: Tensor  # [inputs * size^2]

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, padding: int = 0,
        transposed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        first, second = (inputs, outputs) if transposed else (outputs, inputs)
        self.weight = nn.Parameter(torch.empty(first, second, size, size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as in PyTorch's convolutions
        self.stride, self.padding, self.transposed = stride, padding, transposed
        self.register_buffer("u", torch.randn(outputs))
        self.register_buffer("v", torch.randn(inputs * size**2))
        if not self.weight.is_meta:  # a network of shapes only is built without this slow part
            self.u.copy_(F.normalize(self.u, dim=0))
            self.iterate(FIRST)

    @property
    def matrix(self) -> Tensor:
        """W as [outputs, inputs * size^2]."""
        return (self.weight.transpose(0, 1) if self.transposed else self.weight).flatten(1)

    @torch.no_grad()
    def iterate(self, times: int = 1) -> None:
        """Move u and v towards the singular vectors of the largest singular value."""
        matrix = self.matrix
        for _ in range(times):
            self.v.copy_(F.normalize(matrix.T @ self.u, dim=0, eps=EPSILON))
            self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=EPSILON))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, H, W] -> [n, outputs, H', W']"""
        u, v = self.u, self.v
        if self.training:
            self.iterate()
            u, v = u.clone(), v.clone()  # the next forward pass may precede this one's backward
        weight = self.weight / torch.dot(u, self.matrix @ v)
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        return convolve(x, weight, stride=self.stride, padding=self.padding)
