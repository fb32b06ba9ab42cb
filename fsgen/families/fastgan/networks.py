"""Networks of FastGAN, from the paper (arXiv 2101.04775, section 3 and appendix).

Every convolution has spectral normalisation and no bias. Modules are named by the side of their output in
pixels. Keys of the ``spec``: resolution, channels, z_dim, sle (skip-layer excitation), g_widths (channels of
G's map of each side), d_widths (of D's; "4": the hidden layer of its head), decoder_widths (first to last).

The published resolutions are 256, 512 and 1024 px. Smaller networks keep the widths of their maps and lack
the outer blocks: small images and D's decoders have half the side, D's stem keeps the full side. 32 px is the
smallest that leaves D's branch for small images a layer, 64 px the smallest with skip-layer excitation.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.families.checks import require
from fsgen.families.priors import draw_latents
from fsgen.interfaces import Inputs, Spec
from fsgen.nn.spectral_norm import SpectralConv

Noise = Literal["const", "random", "none"]
Images = Tensor | tuple[Tensor, Tensor]
"""[n, C, S, S], or the same images in two sizes: [n, C, S, S] and [n, C, small, small]."""

LEAKY = 0.2
REACH = 16  # in G skip-layer excitation goes from a map to one of this many times its side,
D_REACH = 8  # in D to one of its side divided by this
EXCITED = (64, 128, 256, 512)  # px: G's maps with skip-layer excitation
STEM = 256  # px: the largest input of D's blocks
DEEPEST = 8  # px: D's last map


def sides(first: int, last: int) -> list[int]:
    """``first``, 2 ``first``, ..., ``last``."""
    return [first << k for k in range(int(math.log2(last // first)) + 1)]


def small_side(resolution: int) -> int:
    """The side of the small images: G's second output and D's second input."""
    return min(128, resolution // 2)


def is_deep(side: int) -> bool:
    """True if G's block of ``side`` px has two convolutions with noise (8, 32, 128, 512), not one without."""
    return bool(int(math.log2(side)) % 2)


def resize(images: Tensor, side: int) -> Tensor:
    """[n, C, H, W] -> [n, C, side, side] by nearest-neighbour interpolation, as published."""
    return images if images.shape[-1] == side else F.interpolate(images, (side, side))


def quadrant(x: Tensor, part: int) -> Tensor:
    """[n, C, H, W] -> [n, C, H/2, W/2]; part 0 to 3: top left, top right, bottom left, bottom right."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    top, left = part // 2 * height, part % 2 * width
    return x[:, :, top : top + height, left : left + width]


class SkipLayerExcitation(nn.Module):
    """Each channel of a map times a weight computed from a coarser map (equation 1)."""

    def __init__(self, coarse: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = SpectralConv(coarse, outputs, 4)
        self.excite = SpectralConv(outputs, outputs, 1)

    def forward(self, coarse: Tensor, x: Tensor) -> Tensor:
        """[n, coarse, h, w], [n, outputs, H, W] -> [n, outputs, H, W]"""
        pooled = F.adaptive_avg_pool2d(coarse, 4)
        return x * self.excite(F.silu(self.squeeze(pooled))).sigmoid()  # silu: the paper's Swish


# ---- G ---------------------------------------------------------------------------------------------------


class ConvGLU(nn.Module):
    """Convolution to twice the channels, noise if ``side`` is given, normalisation, gated linear unit."""

    noise_const: Tensor

    def __init__(self, conv: SpectralConv, outputs: int, side: int | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.noisy = side is not None
        if side is not None:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(side, side))
        self.norm = nn.BatchNorm2d(2 * outputs)

    def forward(self, x: Tensor, noise: Noise = "none", rng: torch.Generator | None = None) -> Tensor:
        x = self.conv(x)
        if self.noisy and noise != "none":
            x = x + self.noise_strength * self._noise(x, noise, rng)
        return F.glu(self.norm(x), dim=1)

    def _noise(self, x: Tensor, noise: Noise, rng: torch.Generator | None) -> Tensor:
        if noise == "const":
            return self.noise_const
        n, _, height, width = x.shape
        device = rng.device if rng is not None else x.device
        return torch.randn(n, 1, height, width, generator=rng, device=device, dtype=x.dtype).to(x.device)


def _conv_glu(inputs: int, outputs: int, side: int | None = None) -> ConvGLU:
    return ConvGLU(SpectralConv(inputs, 2 * outputs, 3, padding=1), outputs, side)


class UpBlock(nn.ModuleList):
    """Nearest-neighbour upsampling, then one or two ``ConvGLU``."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        both = [_conv_glu(inputs, outputs, side), _conv_glu(outputs, outputs, side)]
        super().__init__(both if is_deep(side) else [_conv_glu(inputs, outputs)])

    def forward(self, x: Tensor, noise: Noise, rng: torch.Generator | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2)
        for layer in self:
            x = layer(x, noise, rng)
        return x


class Generator(nn.Module):
    """z -> images, and the same images small."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.z_dim, self.resolution, self.channels = spec["z_dim"], spec["resolution"], spec["channels"]
        self.small = small_side(self.resolution)
        widths = {int(side): width for side, width in spec["g_widths"].items()}
        self.b4 = ConvGLU(SpectralConv(self.z_dim, 2 * widths[4], 4, transposed=True), widths[4])
        for side in sides(8, self.resolution):
            self.add_module(f"b{side}", UpBlock(widths[side // 2], widths[side], side))
            if spec["sle"] and side in EXCITED:
                self.add_module(f"gate{side}", SkipLayerExcitation(widths[side // REACH], widths[side]))
            if side == self.small:
                self.add_module(f"rgb{side}", SpectralConv(widths[side], self.channels, 1))
        self.add_module(
            f"rgb{self.resolution}", SpectralConv(widths[self.resolution], self.channels, 3, padding=1)
        )

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """z ~ N(0, I)."""
        return draw_latents(n, self.z_dim, 0, rng)

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: Noise = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W], about [-1, 1], not clipped.

        Args:
            inputs: z, [n, z_dim].
            truncation: multiplies z.
            noise: "random" as in the paper; "const", stored noise, makes images reproducible.
            rng: draws the noise if ``noise`` is "random".
        """
        return self._rgb(self.maps(require(inputs, "z") * truncation, noise, rng), self.resolution)

    def both_sizes(self, inputs: Inputs, noise: Noise, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Images for D in training: [n, C, S, S] and, from an earlier map, [n, C, small, small]."""
        maps = self.maps(require(inputs, "z"), noise, rng)
        return self._rgb(maps, self.resolution), self._rgb(maps, self.small)

    def maps(self, z: Tensor, noise: Noise, rng: torch.Generator | None) -> dict[int, Tensor]:
        """Feature maps by side, coarse to fine."""
        maps = {4: self.b4(z[:, :, None, None])}
        for side in sides(8, self.resolution):
            x = self.get_submodule(f"b{side}")(maps[side // 2], noise, rng)
            gate = getattr(self, f"gate{side}", None)
            maps[side] = x if gate is None else gate(maps[side // REACH], x)
        return maps

    def _rgb(self, maps: dict[int, Tensor], side: int) -> Tensor:
        x = self.get_submodule(f"rgb{side}")(maps[side])
        # As published: only at 1024 px both outputs pass a tanh.
        return x.tanh() if self.resolution == 1024 else x


# ---- D ---------------------------------------------------------------------------------------------------


class ConvLeakyReLU(nn.Module):
    """Convolution, normalisation unless ``bare``, leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, down: bool = False, bare: bool = False
    ) -> None:
        super().__init__()
        padding = 1 if size > 1 else 0
        self.conv = SpectralConv(inputs, outputs, size, stride=2 if down else 1, padding=padding)
        self.norm = nn.Identity() if bare else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), LEAKY)


class DownBlock(nn.Module):
    """Downsampling by two: the mean of two convolutions and of a pooled shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            ConvLeakyReLU(inputs, outputs, 4, down=True), ConvLeakyReLU(outputs, outputs, 3)
        )
        self.direct = ConvLeakyReLU(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.direct(F.avg_pool2d(x, 2))) / 2


class Decoder(nn.Module):
    """Reconstructs images in (-1, 1) from a map pooled to 8 px (section 3.2, figure 4)."""

    def __init__(self, inputs: int, widths: list[int], channels: int) -> None:
        super().__init__()
        self.up = nn.ModuleList(_conv_glu(before, after) for before, after in pairwise([inputs, *widths]))
        self.out = SpectralConv(widths[-1], channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, H, W] -> [n, C, 8 * 2^len(widths), ...]"""
        x = F.adaptive_avg_pool2d(x, DEEPEST)
        for layer in self.up:
            x = layer(F.interpolate(x, scale_factor=2))
        return self.out(x).tanh()


class Encoded(NamedTuple):
    """D's features of a batch."""

    maps: dict[int, Tensor]  # of the big images by side, fine to coarse; the last is 8 px
    small: Tensor  # [n, C, 8, 8] of the small images


class Discriminator(nn.Module):
    """Images in two sizes -> 50 logits, of 5x5 patches of each size.

    D is also an encoder: three decoders reconstruct the images from its maps.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.resolution, channels = spec["resolution"], spec["channels"]
        self.small = small_side(self.resolution)
        widths = {int(side): width for side, width in spec["d_widths"].items()}
        self.top = min(STEM, self.resolution)
        self.stem = _stem(self.resolution, widths, channels)
        self.sides = sides(DEEPEST, self.top)[-2::-1]  # of the maps below the stem's, fine to coarse
        for side in self.sides:
            self.add_module(f"b{side}", DownBlock(widths[2 * side], widths[side]))
            if spec["sle"] and side * D_REACH <= self.top:
                self.add_module(f"gate{side}", SkipLayerExcitation(widths[side * D_REACH], widths[side]))
        self.head = nn.Sequential(ConvLeakyReLU(widths[DEEPEST], widths[4], 1), SpectralConv(widths[4], 1, 4))

        # The branch for small images has at each side the width of the other at twice that side.
        first, *rest = sides(DEEPEST, self.small)[-2::-1]
        branch = [ConvLeakyReLU(channels, widths[2 * first], 4, down=True, bare=True)]
        branch += [ConvLeakyReLU(widths[4 * side], widths[2 * side], 4, down=True) for side in rest]
        self.branch = nn.Sequential(*branch)
        self.head_small = SpectralConv(widths[2 * DEEPEST], 1, 4)

        decoders = spec["decoder_widths"]
        self.decode_big = Decoder(widths[DEEPEST], decoders, channels)
        self.decode_small = Decoder(widths[2 * DEEPEST], decoders, channels)
        self.decode_part = Decoder(widths[2 * DEEPEST], decoders, channels)

    def forward(self, images: Images, inputs: Inputs | None = None) -> Tensor:
        """[n, 50] logits, those of the big images first. Images in one size are resized to the other."""
        return self.logits(self.encode(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the big images after each block, fine to coarse; the last is [n, C, 8, 8]."""
        return list(self.encode(images).maps.values())

    def encode(self, images: Images) -> Encoded:
        """Feature maps of both sizes; images in one size are resized to the other."""
        big, small = images if isinstance(images, tuple) else (images, images)
        maps = {self.top: self.stem(resize(big, self.resolution))}
        for side in self.sides:
            x = self.get_submodule(f"b{side}")(maps[2 * side])
            gate = getattr(self, f"gate{side}", None)
            maps[side] = x if gate is None else gate(maps[side * D_REACH], x)
        return Encoded(maps, self.branch(resize(small, self.small)))

    def logits(self, encoded: Encoded) -> Tensor:
        """[n, 50] logits."""
        heads = self.head(encoded.maps[DEEPEST]), self.head_small(encoded.small)
        return torch.cat([patches.flatten(1) for patches in heads], dim=1)

    def reconstruct(self, encoded: Encoded, part: int) -> tuple[Tensor, Tensor, Tensor]:
        """The big images, the small ones, and quadrant ``part`` of the big: each [n, C, small, small]."""
        return (
            self.decode_big(encoded.maps[DEEPEST]),
            self.decode_small(encoded.small),
            self.decode_part(quadrant(encoded.maps[2 * DEEPEST], part)),
        )


def _stem(resolution: int, widths: dict[int, int], channels: int) -> nn.Sequential:
    """Images -> map of at most 256 px."""
    if resolution <= STEM:
        return nn.Sequential(ConvLeakyReLU(channels, widths[resolution], 3, bare=True))
    if resolution == 2 * STEM:
        return nn.Sequential(ConvLeakyReLU(channels, widths[STEM], 4, down=True, bare=True))
    return nn.Sequential(
        ConvLeakyReLU(channels, widths[2 * STEM], 4, down=True, bare=True),
        ConvLeakyReLU(widths[2 * STEM], widths[STEM], 4, down=True),
    )
