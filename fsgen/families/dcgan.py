"""DCGAN (Radford et al. 2016), conditional or not, with the keys of its public layout (``main.N.*``).

G's transposed convolutions map z to 4 px and double the resolution once for each further width; the last one
doubles it again or, once ``resolution`` is reached, is 1x1 and crops the border. D halves the resolution once
for each width and reduces the last map to one logit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from fsgen.families.adversarial import LogisticFamily
from fsgen.families.checks import check_size, checked_width, require
from fsgen.families.conversion import NO_DISCRIMINATOR, StateDict, check_networks, sort_networks, unsupported
from fsgen.families.parameters import grouped, parameter_names
from fsgen.families.priors import draw_latents
from fsgen.interfaces import (
    Converted,
    Draw,
    Filters,
    Foreign,
    Inputs,
    Layer,
    Networks,
    Spec,
    Trait,
)
from fsgen.nn.batchnorm import add_counters, refresh_stats


class Generator(nn.Module):
    """z (and labels) -> images; the label's embedding is concatenated to z, after Mirza & Osindero (2014)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.z_dim, self.c_dim = spec["z_dim"], spec["c_dim"]
        self.resolution, self.channels = spec["resolution"], spec["channels"]
        widths, embedded = spec["g_widths"], spec["g_embed_dim"]
        steps: list[nn.Module] = [_up(self.z_dim + embedded, widths[0], stride=1, padding=0)]
        for before, after in pairwise(widths):
            steps += [nn.BatchNorm2d(before), nn.ReLU(), _up(before, after)]
        side = 4 << len(widths) - 1  # px before the last convolution
        if side < self.resolution:
            last = _up(widths[-1], self.channels)
        else:
            border = (side - self.resolution) // 2
            last = nn.ConvTranspose2d(widths[-1], self.channels, 1, padding=border, bias=False)
        self.main = nn.Sequential(*steps, nn.BatchNorm2d(widths[-1]), nn.ReLU(), last, nn.Tanh())
        self.apply(_initialise)
        if self.c_dim:
            self.embed = nn.Linear(self.c_dim, embedded, bias=False)
            nn.init.normal_(self.embed.weight)

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """z ~ N(0, I), and a random class where there are classes."""
        return draw_latents(n, self.z_dim, self.c_dim, rng)

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: str = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] in [-1, 1]. ``truncation`` multiplies z; ``noise`` has no effect."""
        return self.main(self._latents(inputs, truncation))

    def taps(self, inputs: Inputs) -> list[Tensor]:
        """Feature maps after each ReLU, [n, C, H, W], coarse to fine."""
        maps, x = [], self._latents(inputs)
        for layer in self.main:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps

    def _latents(self, inputs: Inputs, truncation: float = 1.0) -> Tensor:
        """z and the embedding of the label, [n, z_dim + embedded, 1, 1]."""
        x = require(inputs, "z") * truncation
        if self.c_dim:
            x = torch.cat([x, self.embed(require(inputs, "y"))], dim=1)
        return x[:, :, None, None]


class Discriminator(nn.Module):
    """Images (and labels) -> logits, by projection (Miyato & Koyama 2018, equation 5).

    <embed(y), sum of the last features> is added to the unconditional logit.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.c_dim, widths = spec["c_dim"], spec["d_widths"]
        steps: list[nn.Module] = [_down(spec["channels"], widths[0]), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            steps += [_down(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        side = spec["resolution"] >> len(widths)  # of the last map, px; the 3 of 28 px are padded to 4
        last = nn.Conv2d(widths[-1], 1, side + side % 2, stride=2, padding=side % 2, bias=False)
        self.main = nn.Sequential(*steps, last)
        self.apply(_initialise)
        if self.c_dim:
            self.embed = nn.Linear(self.c_dim, widths[-1], bias=False)
            nn.init.normal_(self.embed.weight, std=0.02)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps after each leaky ReLU, fine to coarse."""
        return list(self.taps(images))

    def taps(self, images: Tensor) -> Iterator[Tensor]:
        """The maps of ``features``, computed one by one."""
        x = images
        for layer in list(self.main)[:-1]:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                yield x

    def forward(self, images: Tensor, inputs: Inputs | None = None) -> Tensor:
        """[n, C, H, W] -> [n, 1] logits; ``inputs.y`` holds the labels where there are classes."""
        x = self.main[:-1](images)
        logits = self.main[-1](x).flatten(1)
        if not self.c_dim:
            return logits
        return logits + (self.embed(require(inputs, "y")) * x.sum(dim=(2, 3))).sum(dim=1, keepdim=True)


def _up(inputs: int, outputs: int, stride: int = 2, padding: int = 1) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) (Radford et al. 2016, section 4); scales of normalisations N(1, 0.02), as in public code."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # slow, and of no effect on the meta device
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


@dataclass(frozen=True)
class Recipe:
    """The recipe of Radford et al. 2016, section 4, and pytorch/examples, for every size."""

    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    batch: int = 64
    r1_every: int = 0  # no lazy regulariser
    path_every: int = 0
    # The published code has no moving average (0 steps: g_ema = g). On digits the average, with running
    # statistics of its own, has the same Frechet distance and a higher Parzen likelihood.
    ema_half_life: float = 100.0
    ema_rampup: float = 0.25  # the half-life is at most this share of the steps so far


# px -> layers between z and the last convolution; 64 px: pytorch/examples; 28 and 32 px: the public MNIST and
# CIFAR-10 networks, whose last convolution is 1x1; 16 and 128 px: by the rule of 64 px.
DEPTHS = {16: 2, 28: 4, 32: 4, 64: 4, 128: 5}
WIDTH = 64  # channels of the layers next to the image, as published
EMBEDDED = 10  # length of a label's embedding; with 100, as z, each class of digits became a single image
STATISTICS = (16, 64)  # batches and their size for the running statistics after training


class DCGAN(LogisticFamily[Generator, Discriminator, Recipe]):
    """DCGAN: Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional GANs"."""

    name = "dcgan"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.TAPS, Trait.FILTERS,
        Trait.CLASSES, Trait.SCALES,
    })  # fmt: skip
    embeddings = ("embed.weight",)

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks[Generator, Discriminator]:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published architecture; ``width``: channels next to the image, doubled from layer to layer."""
        check_size("DCGAN", size, DEPTHS)
        width = checked_width(width, WIDTH)
        widths = [width << i for i in range(DEPTHS[size])]
        return {
            "resolution": size,
            "channels": channels,
            "z_dim": 100,
            "c_dim": classes,
            "g_embed_dim": EMBEDDED if classes else 0,
            "g_widths": widths[::-1],
            "d_widths": _mirrored(widths[::-1], size),
        }

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(_is_g(state) or _is_d(state) for state in _networks(foreign).values())

    def convert(self, foreign: Foreign) -> Converted:
        """Convert files of one network or of both; a generator with "ema" in its name is the average."""
        networks = _networks(foreign)
        found = sort_networks("DCGAN", networks, _is_g, _is_d).converted(add_counters, add_counters)
        spec, notes = _infer(found.generator, found.d)
        with torch.device("meta"):
            check_networks("DCGAN", self.build(spec), found)
        others = sorted(name for name, state in networks.items() if not _is_g(state) and not _is_d(state))
        notes += [f"'{name}' is left out: no network of DCGAN" for name in others]
        return Converted(spec, *found, tuple(notes))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """By convolution with its normalisation: five at 64 px, as in Li et al. 2020, figure 1."""
        embed = {"embed": ["embed.weight"]} if spec["c_dim"] else {}
        names = [name for name in parameter_names(Generator, spec) if name != "embed.weight"]
        return embed | grouped(names, lambda key: f"conv{_layer(key) + 1}")

    def resolution_of(self, key: str) -> int | None:
        return 4 << _layer(key) if key.startswith("main.") else None

    def stages(self, spec: Spec) -> list[list[str]]:
        """By convolution with its normalisation, without the last."""
        names = [name for name in parameter_names(Discriminator, spec) if name.startswith("main.")]
        return list(grouped(names, lambda key: (int(key.split(".")[1]) + 1) // 3).values())[:-1]

    def filters(self, spec: Spec) -> Filters:
        """Every convolution but the first and the last, with the scale and shift of its normalisation."""

        def layer(conv: int, norm: int) -> Layer:
            return Layer("convolutions", f"main.{conv}.weight", (f"main.{norm}.weight", f"main.{norm}.bias"))

        last = 3 * len(spec["d_widths"]) - 1
        g = [layer(i, i + 1) for i in range(3, 3 * len(spec["g_widths"]), 3)]
        d = [layer(i, i + 1) for i in range(2, last, 3)]
        return Filters({"g": g, "d": d}, frozenset(), frozenset({f"main.{last}.weight", "embed.weight"}))

    def scales(self, key: str) -> bool:
        return key.startswith("main.") and int(key.split(".")[1]) % 3 == 1

    def fakes(self, g: Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g(inputs)

    def refresh_statistics(self, g: Generator, draw: Draw) -> None:
        """Refresh the running statistics of batch normalisation over 1,024 inputs."""
        rng = torch.Generator().manual_seed(0)
        device = next(g.parameters()).device
        refresh_stats(g, (draw(STATISTICS[1], rng).to(device) for _ in range(STATISTICS[0])))


def _layer(key: str) -> int:
    """Index of a convolution and its normalisation: main.0, main.1 -> 0; main.3, main.4 -> 1."""
    return int(key.split(".")[1]) // 3


def _mirrored(g_widths: list[int], resolution: int) -> list[int]:
    """D's widths: G's reversed; at 28 px one layer fewer, as published."""
    return g_widths[::-1][: -1 if resolution == 28 else None]


def _networks(foreign: Foreign) -> dict[str, StateDict]:
    """Tensors by network; what precedes ``main.`` in a key (``netG.``) is taken as the network's name."""
    found: dict[str, StateDict] = {}
    for name, state in foreign.tensors.items():
        for key, value in state.items():
            before, main, after = key.rpartition("main.")
            network = f"{name}.{before}".replace("module.", "").strip(".")
            value = value.float() if value.is_floating_point() else value
            found.setdefault(network, {})[main + after] = value
    return found


def _is_g(state: StateDict) -> bool:
    """Tell whether ``state`` begins with convolution, normalisation, convolution."""
    first, second = state.get("main.0.weight"), state.get("main.3.weight")
    return first is not None and second is not None and first.ndim == second.ndim == 4


def _is_d(state: StateDict) -> bool:
    """Tell whether ``state`` begins with two convolutions."""
    first, second = state.get("main.0.weight"), state.get("main.2.weight")
    return first is not None and second is not None and first.ndim == second.ndim == 4


def _infer(g: StateDict, d: StateDict | None) -> tuple[Spec, list[str]]:
    """The spec of a generator and, where there is one, its discriminator; and a note for each guess."""
    convs = _convs(g, first=0)
    widths = [conv.shape[1] for conv in convs[:-1]]
    side, channels = 4 << len(widths) - 1, convs[-1].shape[1]
    notes = []
    d_convs = [] if d is None else _convs(d, first=2)  # without main.0
    if convs[-1].shape[-1] == 4:
        resolution = 2 * side
    elif side == 32 and d_convs:
        resolution = 28 if d_convs[-1].shape[-1] == 4 else 32  # 3 px are left for a 4x4, 2 px for a 2x2
    else:
        resolution = 28 if side == 32 and channels == 1 else side
        if side == 32:
            notes.append(
                f"taken for {resolution} px by its {channels} channels: the generators of the MNIST and of "
                "the CIFAR-10 layout have the same shapes"
            )
    if d is None:
        notes.append(NO_DISCRIMINATOR)
        d_widths = _mirrored(widths, resolution)
    else:
        d_widths = [d["main.0.weight"].shape[0], *(conv.shape[0] for conv in d_convs[:-1])]
    spec: Spec = {
        "resolution": resolution,
        "channels": channels,
        "z_dim": convs[0].shape[0],
        "c_dim": 0,
        "g_embed_dim": 0,
        "g_widths": widths,
        "d_widths": d_widths,
    }
    return spec, notes


def _convs(state: StateDict, first: int) -> list[Tensor]:
    """Weights of the convolutions: every third module of ``main`` from ``first`` on."""
    numbers = sorted({int(m[1]) for key in state if (m := re.fullmatch(r"main\.(\d+)\.weight", key))})
    convs = [state[f"main.{i}.weight"] for i in numbers if i >= first and (i - first) % 3 == 0]
    if len(convs) < 2 or any(conv.ndim != 4 for conv in convs):
        message = "a DCGAN whose layers are not convolution, normalisation, activation"
        raise unsupported(message, f"main.{first}.weight")
    return convs
