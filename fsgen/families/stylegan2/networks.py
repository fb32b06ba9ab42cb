"""Networks of StyleGAN2 in plain PyTorch, from the paper (arXiv 1912.04958).

Parameter names are those of the NVIDIA layout, without the constant filter buffers. Keys of the ``spec``:
resolution, channels, z_dim, w_dim, c_dim, g_embed_dim, mapping_layers, mapping_lr_mul, g_widths (channels by
resolution), g_clamp; d_widths, d_architecture, d_clamp, d_group (size of minibatch-stddev groups; 0: none),
d_embed_dim, d_cmap_dim, d_mapping_layers; with instance features h_dim, g_h_embed_dim, d_h_embed_dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import Literal

import torch
from torch import Tensor, nn

from fsgen.families.checks import require
from fsgen.families.priors import draw_latents
from fsgen.interfaces import Inputs, Spec
from fsgen.nn import fir
from fsgen.nn.layers import GAIN, EqualConv, EqualLinear, ModulatedConv, lrelu, minibatch_std, normalise

Noise = Literal["const", "random", "none"]


def block_resolutions(resolution: int) -> list[int]:
    """4, 8, ..., ``resolution``."""
    return [2**k for k in range(2, int(math.log2(resolution)) + 1)]


class Mapping(nn.Module):
    """z [n, z_dim], labels [n, c_dim], features [n, h_dim] -> w [n, w_dim]; in D without z.

    Instance features are embedded like labels (IC-GAN, Casanova et al. 2021, on StyleGAN2), and both
    embeddings are normalised together.
    """

    w_avg: Tensor  # [w_dim], of G

    def __init__(
        self, z_dim: int, labels: tuple[int, int], features: tuple[int, int], w_dim: int, layers: int, *,
        lr_mul: float, average: bool,
    ) -> None:  # fmt: skip
        """``labels``, ``features``: their length and that of their embedding; 0: without."""
        super().__init__()
        self.depth = layers
        if labels[0]:
            self.embed = EqualLinear(*labels)
        if features[0]:
            self.embed_feats = EqualLinear(*features)
        inputs = z_dim + sum(embedded for length, embedded in (labels, features) if length)
        for i in range(layers):
            width = w_dim if i else inputs
            self.add_module(f"fc{i}", EqualLinear(width, w_dim, lr_mul=lr_mul, activate=True))
        if average:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, y: Tensor | None, h: Tensor | None = None) -> Tensor:
        given = Inputs(y=y, h=h)
        parts = [normalise(z)] if z is not None else []
        condition = [self.embed(require(given, "y"))] if hasattr(self, "embed") else []
        if hasattr(self, "embed_feats"):
            condition.append(self.embed_feats(require(given, "h")))
        if condition:
            parts.append(normalise(torch.cat(condition, dim=1)))
        x = torch.cat(parts, dim=1)
        for i in range(self.depth):
            x = self.get_submodule(f"fc{i}")(x)
        return x


class StyledConv(ModulatedConv):
    """Modulated 3x3 convolution, noise, bias, activation, clamp."""

    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, *, up: bool, clamp: float | None
    ) -> None:
        super().__init__(inputs, outputs, 3, w_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor, noise: Noise, rng: torch.Generator | None) -> Tensor:
        x = self.convolve(x, w, GAIN)
        strength = self.noise_strength * GAIN
        if noise == "const":
            x = x + self.noise_const * strength
        elif noise == "random":
            n, _, height, width = x.shape
            device = rng.device if rng is not None else x.device
            drawn = torch.randn(n, 1, height, width, generator=rng, device=device, dtype=x.dtype)
            x = x + drawn.to(x.device) * strength
        return lrelu(x + (self.bias * GAIN)[:, None, None], self.clamp)


class ToRGB(ModulatedConv):
    """Modulated 1x1 convolution to the image's channels, without demodulation."""

    def __init__(self, inputs: int, channels: int, w_dim: int, *, clamp: float | None) -> None:
        super().__init__(inputs, channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolve(x, w) + self.bias[:, None, None]
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution of G: upsampling convolution or, first, the constant; convolution; ToRGB."""

    def __init__(
        self, inputs: int, outputs: int, resolution: int, w_dim: int, channels: int, clamp: float | None
    ) -> None:
        super().__init__()
        if inputs:
            self.conv0 = StyledConv(inputs, outputs, w_dim, resolution, up=True, clamp=clamp)
        else:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        self.conv1 = StyledConv(outputs, outputs, w_dim, resolution, up=False, clamp=clamp)
        self.torgb = ToRGB(outputs, channels, w_dim, clamp=clamp)


class Synthesis(nn.Module):
    """w for each layer -> images, summed over the resolutions (StyleGAN2, figure 7b)."""

    def __init__(
        self, resolution: int, w_dim: int, widths: dict[int, int], channels: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.resolutions = block_resolutions(resolution)
        before = 0
        for r in self.resolutions:
            self.add_module(f"b{r}", SynthesisBlock(before, widths[r], r, w_dim, channels, clamp))
            before = widths[r]

    def forward(
        self, ws: Tensor, noise: Noise, rng: torch.Generator | None, shift: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """[n, num_ws, w_dim] -> [n, C, H, W] and each block's (features, image so far), coarse to fine."""
        blocks = [(x, image) for x, image in self.outputs(ws, noise, rng, shift) if image is not None]
        return blocks[-1][1], blocks

    def outputs(
        self, ws: Tensor, noise: Noise, rng: torch.Generator | None, shift: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The output of each styled convolution, coarse to fine; with a block's last, the image so far.

        ``shift``, [n, num_slots, w_dim], is added to w for each convolution and ToRGB in turn.
        """
        x = image = None
        layer, slot = 0, count()

        def w(layer: int) -> Tensor:
            return ws[:, layer] if shift is None else ws[:, layer] + shift[:, next(slot)]

        for r in self.resolutions:
            block = self.get_submodule(f"b{r}")
            assert isinstance(block, SynthesisBlock)
            if x is None:
                x = block.const.expand(len(ws), -1, -1, -1)
            else:
                x = block.conv0(x, w(layer), noise, rng)
                yield x, None
                layer += 1
            x = block.conv1(x, w(layer), noise, rng)
            layer += 1
            # ToRGB takes the w of the next block's first convolution: `layer` is not advanced.
            rgb = block.torgb(x, w(layer))
            image = rgb if image is None else fir.upsample(image) + rgb
            yield x, image


class Generator(nn.Module):
    """z, labels and instance features -> images."""

    constant = "synthesis.b4.const"  # name of the learned map that every image starts from

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = spec["z_dim"], spec["c_dim"], spec["w_dim"]
        self.resolution = spec["resolution"]
        self.channels = spec["channels"]
        self.num_ws = 2 * int(math.log2(self.resolution)) - 2
        self.num_slots = 3 * int(math.log2(self.resolution)) - 4  # convolutions and ToRGBs
        widths = {int(r): width for r, width in spec["g_widths"].items()}
        self.mapping = Mapping(
            self.z_dim, *_conditions(spec, "g"), self.w_dim, spec["mapping_layers"],
            lr_mul=spec["mapping_lr_mul"], average=True,
        )  # fmt: skip
        self.synthesis = Synthesis(self.resolution, self.w_dim, widths, self.channels, spec["g_clamp"])

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """z ~ N(0, I), and a random class where there are classes."""
        return draw_latents(n, self.z_dim, self.c_dim, rng)

    def map(self, inputs: Inputs, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """[n, num_ws, w_dim]; ``truncation`` pulls w to its mean in the first ``cutoff`` layers, or all."""
        w = self.mapping(require(inputs, "z"), inputs.y, inputs.h)
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation == 1:
            return ws
        pulled = self.mapping.w_avg + truncation * (ws - self.mapping.w_avg)
        return pulled if cutoff is None else torch.cat([pulled[:, :cutoff], ws[:, cutoff:]], dim=1)

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: Noise = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W], about [-1, 1], not clipped. ``rng`` draws the noise where ``noise`` is "random"."""
        return self.synthesis(self.map(inputs, truncation), noise, rng, inputs.w_shift)[0]

    def taps(self, inputs: Inputs) -> list[Tensor]:
        """The output of each styled convolution, with the stored noise: [n, C, H, W], coarse to fine."""
        return [x for x, _ in self.synthesis.outputs(self.map(inputs), "const", None, inputs.w_shift)]


class DiscriminatorBlock(nn.Module):
    """Halves D's resolution; architecture "orig", "skip" or "resnet" (StyleGAN2, figure 7)."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, channels: int, architecture: str, clamp: float | None
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.gain = math.sqrt(0.5) if architecture == "resnet" else 1.0  # (main + skip) / sqrt 2
        if not inputs or architecture == "skip":
            self.fromrgb = EqualConv(channels, middle, 1, clamp=clamp)
        self.conv0 = EqualConv(middle, middle, 3, clamp=clamp)
        self.conv1 = EqualConv(middle, outputs, 3, down=True, clamp=clamp)
        if architecture == "resnet":
            self.skip = EqualConv(middle, outputs, 1, down=True, bare=True)

    def forward(
        self, x: Tensor | None, image: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """The next map, the image at its resolution, both convolutions' outputs (the second times gain)."""
        if hasattr(self, "fromrgb"):
            rgb = self.fromrgb(image)
            x = rgb if x is None else x + rgb
        image = fir.downsample(image) if self.architecture == "skip" and image is not None else None
        first = self.conv0(x)
        second = self.conv1(first, self.gain)
        out = self.skip(x, self.gain) + second if self.architecture == "resnet" else second
        return out, image, (first, second)


class Epilogue(nn.Module):
    """At 4x4: minibatch stddev, convolution, two linear layers; conditional, a projection (``cmap``)."""

    def __init__(
        self, width: int, outputs: int, channels: int, architecture: str, group: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.group = group
        if architecture == "skip":
            self.fromrgb = EqualConv(channels, width, 1, clamp=clamp)
        self.conv = EqualConv(width + (1 if group else 0), width, 3, clamp=clamp)
        self.fc = EqualLinear(width * 16, width, activate=True)
        self.out = EqualLinear(width, outputs)

    def forward(self, x: Tensor, image: Tensor | None, cmap: Tensor | None) -> Tensor:
        if hasattr(self, "fromrgb"):
            x = x + self.fromrgb(image)
        if self.group:
            x = minibatch_std(x, self.group)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(cmap.shape[1])
        return x


def _conditions(spec: Spec, network: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Lengths of labels and of their embedding in ``network``; the same of features, absent in old specs."""
    labels = spec["c_dim"], spec[f"{network}_embed_dim"]
    return labels, (spec.get("h_dim", 0), spec.get(f"{network}_h_embed_dim", 0))


class Discriminator(nn.Module):
    """Images (and labels, instance features) -> logits."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        architecture, clamp, channels = spec["d_architecture"], spec["d_clamp"], spec["channels"]
        widths = {int(r): width for r, width in spec["d_widths"].items()}
        self.resolutions = block_resolutions(spec["resolution"])[:0:-1]  # from the image down to 8 px
        before = 0
        for r in self.resolutions:
            block = DiscriminatorBlock(before, widths[r], widths[r // 2], channels, architecture, clamp)
            self.add_module(f"b{r}", block)
            before = widths[r // 2]
        labels, features = _conditions(spec, "d")
        self.conditional = bool(labels[0] or features[0])
        cmap = spec["d_cmap_dim"] if self.conditional else 1
        if self.conditional:
            self.mapping = Mapping(
                0, labels, features, cmap, spec["d_mapping_layers"],
                lr_mul=spec["mapping_lr_mul"], average=False,
            )  # fmt: skip
        self.b4 = Epilogue(widths[4], cmap, channels, architecture, spec["d_group"], clamp)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps after each block, fine to coarse; the last is [n, C, 4, 4]."""
        return self._trunk(images)[0]

    def _trunk(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        maps: list[Tensor] = []
        x, image = None, images
        for r in self.resolutions:
            x, image, _ = self.get_submodule(f"b{r}")(x, image)
            maps.append(x)
        return maps, image

    def taps(self, images: Tensor) -> Iterator[Tensor]:
        """The output of each convolution in the blocks before the shortcut is added, computed one by one:
        [n, C, H, W], fine to coarse."""
        x, image = None, images
        for r in self.resolutions:
            block = self.get_submodule(f"b{r}")
            x, image, (first, second) = block(x, image)
            yield first
            yield second / block.gain

    def forward(self, images: Tensor, inputs: Inputs | None = None) -> Tensor:
        """[n, C, H, W] -> [n, 1] logits; ``inputs`` holds the labels and features D is conditioned on."""
        maps, image = self._trunk(images)
        y, h = (None, None) if inputs is None else (inputs.y, inputs.h)
        cmap = self.mapping(None, y, h) if self.conditional else None
        return self.b4(maps[-1], image, cmap)
