"""The two networks of StyleGAN2 in plain PyTorch, from the paper (arXiv 1912.04958).

Parameter names are those of the NVIDIA layout, without the constant filter buffers. Which shapes they have is
the ``spec``: resolution, z_dim, w_dim, c_dim, mapping_layers, channels (resolution -> width) for G; the same
for D with its architecture. Values not seen in any tensor (clamps, group size) stand there too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fsgen.interfaces import Inputs
from fsgen.nn import fir
from fsgen.nn.layers import GAIN, EqualConv, EqualLinear, ModulatedConv, lrelu, minibatch_std, normalise

Noise = Literal["const", "random", "none"]


def resolutions(resolution: int) -> list[int]:
    """4, 8, ..., ``resolution``."""
    return [2**k for k in range(2, int(math.log2(resolution)) + 1)]


class Mapping(nn.Module):
    """z and what conditions it -> w: [n, z_dim], label [n, c_dim], features [n, h_dim] -> [n, w_dim].

    Of D: the condition alone. Features of an instance are embedded beside the label (IC-GAN, Casanova et al.
    2021, on StyleGAN2), and both are normalised as one.
    """

    def __init__(
        self, z_dim: int, labels: tuple[int, int], features: tuple[int, int], w_dim: int, layers: int, *,
        lr_mul: float, average: bool,
    ) -> None:  # fmt: skip
        """``labels``, ``features``: how many numbers each has, and how many they are embedded in."""
        super().__init__()
        self.depth = layers
        if labels[0]:
            self.embed = EqualLinear(*labels)
        if features[0]:
            self.embed_feats = EqualLinear(*features)
        seen = z_dim + sum(wide for numbers, wide in (labels, features) if numbers)
        for i in range(layers):
            width = seen if i == 0 else w_dim
            self.add_module(f"fc{i}", EqualLinear(width, w_dim, lr_mul=lr_mul, activate=True))
        if average:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, y: Tensor | None, h: Tensor | None = None) -> Tensor:
        parts = [normalise(z)] if z is not None else []
        condition = [self.embed(y)] if hasattr(self, "embed") else []
        if hasattr(self, "embed_feats"):
            condition.append(self.embed_feats(h))
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
    """Modulated 1x1 convolution to the picture's channels, without demodulation."""

    def __init__(self, inputs: int, channels: int, w_dim: int, *, clamp: float | None) -> None:
        super().__init__(inputs, channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolve(x, w) + self.bias[:, None, None]
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution of G: (up-sampling convolution,) convolution, and its share of the picture."""

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
    """w per layer -> picture, summed over the resolutions (StyleGAN2, figure 7b)."""

    def __init__(
        self, resolution: int, w_dim: int, widths: dict[int, int], channels: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.resolutions = resolutions(resolution)
        before = 0
        for r in self.resolutions:
            self.add_module(f"b{r}", SynthesisBlock(before, widths[r], r, w_dim, channels, clamp))
            before = widths[r]

    def forward(
        self, ws: Tensor, noise: Noise, rng: torch.Generator | None, shift: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """[n, num_ws, w_dim] -> [n, C, H, W] and each block's (features, picture so far), coarse to fine."""
        blocks = [(x, picture) for x, picture in self.grow(ws, noise, rng, shift) if picture is not None]
        return blocks[-1][1], blocks

    def grow(
        self, ws: Tensor, noise: Noise, rng: torch.Generator | None, shift: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The output of each styled convolution, coarse to fine; with a block's last, the picture so far.

        ``shift``, [n, num_slots, w_dim], is added to w for each convolution and ToRGB in turn.
        """
        x = picture = None
        layer, slot = 0, count()

        def w(layer: int) -> Tensor:
            return ws[:, layer] if shift is None else ws[:, layer] + shift[:, next(slot)]

        for r in self.resolutions:
            block = self.get_submodule(f"b{r}")
            if x is None:
                x = block.const.expand(len(ws), -1, -1, -1)
            else:
                x = block.conv0(x, w(layer), noise, rng)
                yield x, None
                layer += 1
            x = block.conv1(x, w(layer), noise, rng)
            layer += 1
            # toRGB takes the w of the next block's first convolution: `layer` is not advanced.
            rgb = block.torgb(x, w(layer))
            picture = rgb if picture is None else fir.upsample(picture) + rgb
            yield x, picture


class Generator(nn.Module):
    """z, y, h -> picture."""

    constant = "synthesis.b4.const"  # name of the learned map that every picture starts from

    def __init__(self, spec: dict[str, Any]) -> None:
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
        """n inputs from the prior: z ~ N(0, I), and a class at random where there are classes."""
        z = torch.randn(n, self.z_dim, generator=rng, device=rng.device)
        if not self.c_dim:
            return Inputs(z=z)
        classes = torch.randint(self.c_dim, (n,), generator=rng, device=rng.device)
        return Inputs(z=z, y=nn.functional.one_hot(classes, self.c_dim).float())

    def map(self, inputs: Inputs, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """[n, num_ws, w_dim]; ``truncation`` pulls w to its mean, in the first ``cutoff`` layers or all."""
        w = self.mapping(inputs.z, inputs.y, inputs.h)
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
        """What each styled convolution makes, with the stored noise: [n, C, H, W], coarse to fine."""
        return [x for x, _ in self.synthesis.grow(self.map(inputs), "const", None, inputs.w_shift)]


class DiscriminatorBlock(nn.Module):
    """One resolution of D, halving it; ``orig``, ``skip`` or ``resnet`` (StyleGAN2, figure 7)."""

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
        """The next map, the picture at its side, and what the two convolutions made, times 1 and ``gain``."""
        if hasattr(self, "fromrgb"):
            seen = self.fromrgb(image)
            x = seen if x is None else x + seen
        image = fir.downsample(image) if self.architecture == "skip" else None
        first = self.conv0(x)
        second = self.conv1(first, self.gain)
        out = self.skip(x, self.gain) + second if self.architecture == "resnet" else second
        return out, image, (first, second)


class Epilogue(nn.Module):
    """4x4: minibatch spread, convolution, two linear layers; with labels, a projection (``cmap``)."""

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


def _conditions(spec: dict[str, Any], network: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of labels and of features: how many numbers, and how many ``network`` embeds them in.

    Models written before there were features say nothing of them.
    """
    labels = spec["c_dim"], spec[f"{network}_embed_dim"]
    return labels, (spec.get("h_dim", 0), spec.get(f"{network}_h_embed_dim", 0))


class Discriminator(nn.Module):
    """Picture (and its condition) -> logit."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        architecture, clamp, channels = spec["d_architecture"], spec["d_clamp"], spec["channels"]
        widths = {int(r): width for r, width in spec["d_widths"].items()}
        self.resolutions = resolutions(spec["resolution"])[:0:-1]  # from the picture down to 8
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
        """What each convolution of the blocks makes, before shortcuts are added: [n, C, H, W], fine to
        coarse, no further than asked for."""
        x, image = None, images
        for r in self.resolutions:
            block = self.get_submodule(f"b{r}")
            x, image, (first, second) = block(x, image)
            yield first
            yield second / block.gain

    def forward(self, images: Tensor, inputs: Inputs | None = None) -> Tensor:
        """[n, C, H, W] -> [n, 1] logits; ``inputs`` holds the label, the features, where there are any."""
        maps, image = self._trunk(images)
        cmap = self.mapping(None, inputs.y, inputs.h) if self.conditional else None
        return self.b4(maps[-1], image, cmap)
