"""Networks of BigGAN (Brock et al. 2019, arXiv 1809.11096) and IC-GAN (Casanova et al. 2021, 2109.05070).

IC-GAN conditions the same networks on the features of an instance, with or without its class.

Keys of the ``spec``: resolution, channels, z_dim; c_dim and h_dim (0: no classes, no instances), g_embed_dim
and h_embed_dim (lengths of G's embeddings of them); hier (False: all of z enters at 4 px; True if absent: z
is split into chunks); g_widths (channels at 4 px and after each block), d_widths (after each block), d_halves
(blocks of D that halve the resolution), d_wide (their hidden layer is as wide as their output, else as their
input), g_attention and d_attention (indices of the blocks that attention follows).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.families.biggan.layers import (
    Attention,
    ConditionalNorm,
    SNConv,
    SNEmbedding,
    SNLinear,
    truncated_normal,
)
from fsgen.families.checks import require
from fsgen.families.priors import draw_latents
from fsgen.interfaces import Inputs, Spec


@dataclass(frozen=True)
class Architecture:
    """A published architecture; widths in units of ``width`` channels."""

    width: int  # the published one
    z_dim: int
    g: tuple[int, ...]  # at 4 px and after each block
    d: tuple[int, ...]  # after each block
    halvings: int  # the number of D's first blocks, which halve the resolution
    g_attention: list[int]
    d_attention: list[int]
    d_sides: tuple[int, ...]  # px: D's blocks as the published option for attention names them

    def discriminator(self, width: int) -> Spec:
        """D's widths and halvings in units of ``width`` channels."""
        halves = [i < self.halvings for i in range(len(self.d))]
        return {"d_widths": [width * times for times in self.d], "d_halves": halves, "d_wide": True}


PUBLISHED = {  # by px; 32: the public BigGAN of CIFAR-10, without attention, but with chunks of z
    32: Architecture(64, 120, (4, 4, 4, 4), (4, 4, 4, 4), 2, [], [], (16, 16, 16, 16)),  # maps: 16, 8, 8, 8
    64: Architecture(64, 120, (16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4, [2], [0], (32, 16, 8, 4, 4)),
    128: Architecture(
        96, 120, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5, [3], [0], (64, 32, 16, 8, 4, 4)
    ),
    256: Architecture(
        96, 119, (16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6, [3], [1], (128, 64, 32, 16, 8, 4, 4)
    ),
}  # fmt: skip


class GBlock(nn.Module):
    """Nearest-neighbour upsampling between two convolutions with conditional normalisation; a shortcut."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = ConditionalNorm(inputs, condition), SNConv(inputs, outputs, 3)
        self.bn2, self.conv2 = ConditionalNorm(outputs, condition), SNConv(outputs, outputs, 3)
        self.conv_sc = SNConv(inputs, outputs, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """[n, inputs, H, W], [n, condition] -> [n, outputs, 2H, 2W]"""
        shortcut = F.interpolate(self.conv_sc(x), scale_factor=2)  # 1x1: equal before and after upsampling
        x = self.conv1(F.interpolate(F.relu(self.bn1(x, c)), scale_factor=2))
        return self.conv2(F.relu(self.bn2(x, c))) + shortcut


class Generator(nn.Module):
    """z, labels and instance features -> images.

    z is split into chunks of equal length (section 3.1, "hierarchical"): the first makes the map of 4 px,
    each of the others joins the condition of one block. Without ``hier`` all of z makes the map of 4 px.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.h_dim = spec["z_dim"], spec["c_dim"], spec["h_dim"]
        widths, hier = spec["g_widths"], spec.get("hier", True)
        self.chunk = self.z_dim // len(widths) if hier else self.z_dim
        self.side = spec["resolution"] >> len(widths) - 1  # px before the first block
        condition = self.chunk if hier else 0
        if self.c_dim:
            condition += spec["g_embed_dim"]
            self.embed = nn.Linear(self.c_dim, spec["g_embed_dim"], bias=False)
            if not self.embed.weight.is_meta:
                nn.init.orthogonal_(self.embed.weight)
        if self.h_dim:
            condition += spec["h_embed_dim"]
            self.embed_h = SNLinear(self.h_dim, spec["h_embed_dim"])
        self.linear = SNLinear(self.chunk, widths[0] * self.side**2)
        self.blocks = nn.ModuleList(GBlock(*pair, condition) for pair in pairwise(widths))
        self.attention = nn.ModuleDict({str(i): Attention(widths[i + 1]) for i in spec["g_attention"]})
        self.norm = nn.BatchNorm2d(widths[-1])
        self.rgb = SNConv(widths[-1], spec["channels"], 3)

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """z ~ N(0, I) and a random class, if there are classes. Instance features are not in the weights."""
        return draw_latents(n, self.z_dim, self.c_dim, rng)

    def condition(self, inputs: Inputs) -> list[Tensor]:
        """Embeddings of class [n, g_embed_dim] and instance [n, h_embed_dim], where G is conditioned on them.

        Raises:
            FsgenError: ``inputs`` lack one.
        """
        parts = [self.embed(require(inputs, "y"))] if self.c_dim else []
        return [*parts, self.embed_h(require(inputs, "h"))] if self.h_dim else parts

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: str = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] in [-1, 1].

        ``truncation`` below 1 multiplies a z truncated to [-2, 2]: the truncation trick (section 3.1) as in
        the published code. ``noise`` has no effect.
        """
        z = require(inputs, "z")
        first, *others = (z if truncation >= 1 else truncated_normal(z) * truncation).split(self.chunk, dim=1)
        shared = self.condition(inputs)
        x = self.linear(first).unflatten(1, (-1, self.side, self.side))
        for i, block in enumerate(self.blocks):
            x = block(x, torch.cat([*shared, *others[i : i + 1]], dim=1))
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        return self.rgb(F.relu(self.norm(x))).tanh()


class DBlock(nn.Module):
    """Two convolutions and a shortcut, then average pooling if it ``halves`` the resolution."""

    def __init__(self, inputs: int, outputs: int, hidden: int, *, halves: bool, first: bool) -> None:
        super().__init__()
        self.halves, self.first = halves, first
        self.conv1, self.conv2 = SNConv(inputs, hidden, 3), SNConv(hidden, outputs, 3)
        self.conv_sc = SNConv(inputs, outputs, 1) if halves or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, H, W] -> [n, outputs, H', W']; the first block does not rectify the images."""
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.halves:  # the shortcut's convolution is 1x1: equal before and after pooling
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return y + (x if self.conv_sc is None else self.conv_sc(x))


class Discriminator(nn.Module):
    """Images, labels and instance features -> logits, by projection (Miyato & Koyama 2018, equation 5).

    With both conditions each has one half of the last features, the class the first (IC-GAN, section 3.3).
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.c_dim, self.h_dim, widths = spec["c_dim"], spec["h_dim"], spec["d_widths"]
        self.blocks = nn.ModuleList(
            DBlock(inputs, outputs, outputs if spec["d_wide"] else inputs, halves=halves, first=i == 0)
            for i, ((inputs, outputs), halves) in enumerate(
                zip(pairwise([spec["channels"], *widths]), spec["d_halves"], strict=True)
            )
        )
        self.attention = nn.ModuleDict({str(i): Attention(widths[i]) for i in spec["d_attention"]})
        self.linear = SNLinear(widths[-1], 1)
        each = widths[-1] // 2 if self.c_dim and self.h_dim else widths[-1]
        if self.c_dim:
            self.embed = SNEmbedding(self.c_dim, each)
        if self.h_dim:
            self.embed_h = SNLinear(self.h_dim, each)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps after each block (and its attention), fine to coarse."""
        maps, x = [], images
        for i, block in enumerate(self.blocks):
            x = block(x)
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
            maps.append(x)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """The last features, summed over all positions: [n, C, H, W] -> [n, width]"""
        return F.relu(self.features(images)[-1]).sum(dim=(2, 3))

    def forward(self, images: Tensor, inputs: Inputs | None = None) -> Tensor:
        """[n, C, H, W] -> [n, 1] logits; ``inputs`` holds the labels and features D is conditioned on."""
        x = self.pooled(images)
        logits = self.linear(x)
        parts = [self.embed(require(inputs, "y"))] if self.c_dim else []
        parts += [self.embed_h(require(inputs, "h"))] if self.h_dim else []
        return logits + (torch.cat(parts, dim=1) * x).sum(dim=1, keepdim=True) if parts else logits
