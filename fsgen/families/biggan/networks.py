"""The two networks of BigGAN (Brock et al. 2019, arXiv 1809.11096) and of IC-GAN (Casanova et al. 2021,
arXiv 2109.05070), which conditions the same ones on the features of an instance, and on its class or not.

Shapes are the ``spec``: resolution, channels, z_dim, c_dim and h_dim (0: no classes, no instances),
g_embed_dim and h_embed_dim (what G makes of them), hier (False: all of z enters at 4 px; True if absent: z is
split into chunks), g_widths (channels at 4 px and after each block), d_widths
(after each block), d_halves (which of D's blocks halve the side), d_wide (whether their hidden layer is as
wide as what comes out, or as what goes in), g_attention and d_attention (the blocks that attention follows).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.errors import FsgenError
from fsgen.families.biggan.layers import Attention, ConditionalNorm, Conv, Embedding, Linear, cut_off
from fsgen.interfaces import Inputs, Spec


@dataclass(frozen=True)
class Plan:
    """A published architecture; widths in units of ``width`` channels."""

    width: int  # the published one
    z_dim: int
    g: tuple[int, ...]  # at 4 px and after each block
    d: tuple[int, ...]  # after each block
    halvings: int  # the first blocks of D, which halve the side
    g_attention: list[int]
    d_attention: list[int]
    d_sides: tuple[int, ...]  # px: the names of D's blocks in the published option for attention

    def discriminator(self, width: int) -> Spec:
        """D's widths and halvings in units of ``width`` channels."""
        halves = [i < self.halvings for i in range(len(self.d))]
        return {"d_widths": [width * times for times in self.d], "d_halves": halves, "d_wide": True}


PLANS = {  # by px; 32: the public BigGAN of CIFAR-10, which has no attention, with z in parts as the others
    32: Plan(64, 120, (4, 4, 4, 4), (4, 4, 4, 4), 2, [], [], (16, 16, 16, 16)),  # its maps: 16, 8, 8, 8 px
    64: Plan(64, 120, (16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4, [2], [0], (32, 16, 8, 4, 4)),
    128: Plan(96, 120, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5, [3], [0], (64, 32, 16, 8, 4, 4)),
    256: Plan(
        96, 119, (16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6, [3], [1], (128, 64, 32, 16, 8, 4, 4)
    ),
}


class Up(nn.Module):
    """Twice the side by nearest neighbours, between two convolutions of what is normalised; a shortcut."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = ConditionalNorm(inputs, condition), Conv(inputs, outputs, 3)
        self.bn2, self.conv2 = ConditionalNorm(outputs, condition), Conv(outputs, outputs, 3)
        self.conv_sc = Conv(inputs, outputs, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """[n, inputs, H, W], [n, condition] -> [n, outputs, 2H, 2W]"""
        shortcut = F.interpolate(self.conv_sc(x), scale_factor=2)  # 1x1: the same before as after
        x = self.conv1(F.interpolate(F.relu(self.bn1(x, c)), scale_factor=2))
        return self.conv2(F.relu(self.bn2(x, c))) + shortcut


class Generator(nn.Module):
    """z, labels and instances' features -> picture.

    z is split into chunks of equal length (section 3.1, "hierarchical"): the first makes the map of 4 px,
    each of the others joins the condition of one block. Without ``hier`` all of z makes the map of 4 px.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.h_dim = spec["z_dim"], spec["c_dim"], spec["h_dim"]
        widths = spec["g_widths"]
        hier = spec.get("hier", True)
        self.part = self.z_dim // len(widths) if hier else self.z_dim
        self.side = spec["resolution"] >> len(widths) - 1  # px before the first block
        condition = self.part if hier else 0
        if self.c_dim:
            condition += spec["g_embed_dim"]
            self.embed = nn.Linear(self.c_dim, spec["g_embed_dim"], bias=False)
            if not self.embed.weight.is_meta:
                nn.init.orthogonal_(self.embed.weight)
        if self.h_dim:
            condition += spec["h_embed_dim"]
            self.embed_h = Linear(self.h_dim, spec["h_embed_dim"])
        self.linear = Linear(self.part, widths[0] * self.side**2)
        self.blocks = nn.ModuleList(Up(*pair, condition) for pair in pairwise(widths))
        self.attention = nn.ModuleDict({str(i): Attention(widths[i + 1]) for i in spec["g_attention"]})
        self.norm = nn.BatchNorm2d(widths[-1])
        self.rgb = Conv(widths[-1], spec["channels"], 3)

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """z ~ N(0, I), and a class at random where there are classes. Instances are not in the weights."""
        z = torch.randn(n, self.z_dim, generator=rng, device=rng.device)
        if not self.c_dim:
            return Inputs(z=z)
        classes = torch.randint(self.c_dim, (n,), generator=rng, device=rng.device)
        return Inputs(z=z, y=F.one_hot(classes, self.c_dim).float())

    def condition(self, inputs: Inputs) -> list[Tensor]:
        """What the blocks are told of class and instance: [n, g_embed_dim], [n, h_embed_dim], if there are.

        Raises:
            FsgenError: no instances, where G cannot do without.
        """
        parts = [self.embed(inputs.y)] if self.c_dim else []
        if self.h_dim:
            if inputs.h is None:
                raise FsgenError(
                    "this generator makes pictures like a given one, and was given none",
                    hint="it needs an image's features",
                )
            parts.append(self.embed_h(inputs.h))
        return parts

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: str = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] in [-1, 1].

        ``truncation`` below 1 multiplies a z of values in [-2, 2]: the truncation trick (section 3.1) as
        the published programs do it. There is no noise to name.
        """
        z = inputs.z if truncation >= 1 else cut_off(inputs.z) * truncation
        first, *others = z.split(self.part, dim=1)
        shared = self.condition(inputs)
        x = self.linear(first).unflatten(1, (-1, self.side, self.side))
        for i, block in enumerate(self.blocks):
            x = block(x, torch.cat([*shared, *others[i : i + 1]], dim=1))
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        return self.rgb(F.relu(self.norm(x))).tanh()


class Down(nn.Module):
    """Two convolutions, then half the side if it ``halves``; a shortcut beside."""

    def __init__(self, inputs: int, outputs: int, hidden: int, *, halves: bool, first: bool) -> None:
        super().__init__()
        self.halves, self.first = halves, first
        self.conv1, self.conv2 = Conv(inputs, hidden, 3), Conv(hidden, outputs, 3)
        self.conv_sc = Conv(inputs, outputs, 1) if halves or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, H, W] -> [n, outputs, H', W']; the first block's pictures are not rectified."""
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.halves:  # the shortcut's convolution is 1x1: the same before as after
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return y + (x if self.conv_sc is None else self.conv_sc(x))


class Discriminator(nn.Module):
    """Picture, label and instance -> logit, by projection (Miyato & Koyama 2018, equation 5).

    With both, each has one half of the last features, the class the first (IC-GAN, section 3.3).
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.c_dim, self.h_dim, widths = spec["c_dim"], spec["h_dim"], spec["d_widths"]
        self.blocks = nn.ModuleList(
            Down(inputs, outputs, outputs if spec["d_wide"] else inputs, halves=halves, first=i == 0)
            for i, ((inputs, outputs), halves) in enumerate(
                zip(pairwise([spec["channels"], *widths]), spec["d_halves"], strict=True)
            )
        )
        self.attention = nn.ModuleDict({str(i): Attention(widths[i]) for i in spec["d_attention"]})
        self.linear = Linear(widths[-1], 1)
        each = widths[-1] // 2 if self.c_dim and self.h_dim else widths[-1]
        if self.c_dim:
            self.embed = Embedding(self.c_dim, each)
        if self.h_dim:
            self.embed_h = Linear(self.h_dim, each)

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
        """[n, C, H, W] -> [n, 1] logits; ``inputs`` has labels and features where there are such."""
        x = self.pooled(images)
        logits = self.linear(x)
        told = [self.embed(inputs.y)] if self.c_dim else []
        told += [self.embed_h(inputs.h)] if self.h_dim else []
        return logits + (torch.cat(told, dim=1) * x).sum(dim=1, keepdim=True) if told else logits
