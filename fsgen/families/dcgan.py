"""DCGAN (Radford et al. 2016), conditional or not, with the keys of its public layout (``main.N.*``).

Which layers there are is read off the widths: transposed convolutions take z to 4 px and double it once a
width; the last one doubles it again or, where ``resolution`` is reached, is 1x1 and cuts the border off. D
halves the picture once a width and sees what is left in one convolution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from fsgen.errors import FsgenError
from fsgen.families.strict_loading import check
from fsgen.interfaces import (
    Converted,
    Family,
    Filters,
    Foreign,
    Inputs,
    Layer,
    NetworkName,
    Networks,
    Spec,
    StepContext,
    Trait,
)
from fsgen.nn import losses
from fsgen.nn.batchnorm import add_counters, refresh_stats

State = dict[str, Tensor]


class Generator(nn.Module):
    """z (and a label's embedding) -> picture.

    The embedding is joined to z, as Mirza & Osindero (2014) join label and noise.
    """

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
        """n inputs from the prior: z ~ N(0, I), and a class at random where there are classes."""
        z = torch.randn(n, self.z_dim, generator=rng, device=rng.device)
        if not self.c_dim:
            return Inputs(z=z)
        classes = torch.randint(self.c_dim, (n,), generator=rng, device=rng.device)
        return Inputs(z=z, y=nn.functional.one_hot(classes, self.c_dim).float())

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: str = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] in [-1, 1]. ``truncation`` multiplies z; there is no noise to name."""
        return self.main(self._start(inputs, truncation))

    def taps(self, inputs: Inputs) -> list[Tensor]:
        """Feature maps after each ReLU, [n, C, H, W], coarse to fine."""
        maps, x = [], self._start(inputs)
        for layer in self.main:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps

    def _start(self, inputs: Inputs, truncation: float = 1.0) -> Tensor:
        """z and what its label embeds, [n, z_dim + embedded, 1, 1]."""
        x = inputs.z * truncation
        if self.c_dim:
            x = torch.cat([x, self.embed(inputs.y)], dim=1)
        return x[:, :, None, None]


class Discriminator(nn.Module):
    """Picture (and label) -> logit; the label by projection (Miyato & Koyama 2018, equation 5).

    <embed(y), sum of the last features> is added to the logit, and everything else is as without classes.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.c_dim, widths = spec["c_dim"], spec["d_widths"]
        steps: list[nn.Module] = [_down(spec["channels"], widths[0]), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            steps += [_down(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        side = spec["resolution"] >> len(widths)  # px that are left; from 28 px those are 3, seen as 4
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
        """The same, no further than asked for."""
        x = images
        for layer in self.main[:-1]:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                yield x

    def forward(self, images: Tensor, inputs: Inputs | None = None) -> Tensor:
        """[n, C, H, W] -> [n, 1] logits; ``inputs.y`` is the label where there are classes."""
        x = self.main[:-1](images)
        logits = self.main[-1](x).flatten(1)
        if not self.c_dim:
            return logits
        return logits + (self.embed(inputs.y) * x.sum(dim=(2, 3))).sum(dim=1, keepdim=True)


def _up(inputs: int, outputs: int, stride: int = 2, padding: int = 1) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) (Radford et al. 2016, section 4); scales of normalisations N(1, 0.02), as in public code."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # where there are shapes alone, this is all that takes time
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


@dataclass(frozen=True)
class Recipe:
    """Radford et al. 2016, section 4, and pytorch/examples: Adam and batch for every size."""

    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    batch: int = 64
    r1_every: int = 0  # no lazy regulariser
    path_every: int = 0
    # The published code keeps no average; 0 steps would be that: g_ema = g. With statistics of its own
    # (``refresh_statistics``) the average is as near to digits by Frechet distance, and likelier by Parzen
    # windows.
    ema_half_life: float = 100.0
    ema_rampup: float = 0.25  # half-life at most this share of the steps so far


# px -> layers between z and the last convolution; 64 px: pytorch/examples; 28 and 32 px: the public MNIST and
# CIFAR-10 networks, whose last convolution is 1x1; 16 and 128 px: by the rule of 64 px.
DEPTHS = {16: 2, 28: 4, 32: 4, 64: 4, 128: 5}
WIDTH = 64  # channels at the picture's end, as published
EMBEDDED = 10  # numbers a label; with 100, as many as z has, each class of digits came out as one picture
SETTLE = (16, 64)  # batches, and inputs a batch, behind the final statistics of batch normalisation


class DCGAN(Family):
    """Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional GANs"."""

    name = "dcgan"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.TAPS, Trait.FILTERS,
        Trait.CLASSES, Trait.SCALES,
    })  # fmt: skip
    Recipe = Recipe
    embeddings = ("embed.weight",)

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """``width``: channels of the layers at the picture's end, 64 as published; doubled a layer."""
        if size not in DEPTHS:
            raise FsgenError(f"there is no DCGAN of {size} px", hint=f"one of {', '.join(map(str, DEPTHS))}")
        least = WIDTH if width is None else width
        if least < 1:
            raise FsgenError(f"--width {least} is too narrow", hint=f"1 is the least, {WIDTH} as published")
        widths = [least << i for i in range(DEPTHS[size])]
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
        """Files of one network or of both; a generator whose name has "ema" in it is the average."""
        found = _networks(foreign)
        generators = {name: state for name, state in found.items() if _is_g(state)}
        averages = [state for name, state in generators.items() if "ema" in name.lower()]
        lives = [state for name, state in generators.items() if "ema" not in name.lower()]
        discriminators = [state for state in found.values() if _is_d(state)]
        if not generators:
            raise FsgenError("a DCGAN's discriminator alone", hint="pull the file of its generator (netG)")
        if max(map(len, (averages, lives, discriminators))) > 1:
            raise FsgenError("a file with more networks than one DCGAN has")
        g, g_ema, d = (add_counters(part[0]) if part else None for part in (lives, averages, discriminators))
        spec, notes = _infer(g if g is not None else g_ema, d)
        with torch.device("meta"):
            nets = self.build(spec)
        for state, net, what in (
            (g, nets.g, "generator"), (g_ema, nets.g, "average generator"), (d, nets.d, "discriminator"),
        ):  # fmt: skip
            if state is not None:
                check(net, state, f"a DCGAN {what}")
        others = sorted(name for name, state in found.items() if not _is_g(state) and not _is_d(state))
        notes += [f"left out, since no network of a DCGAN is of that shape: '{name}'" for name in others]
        return Converted(spec, g, g_ema, d, tuple(notes))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """By convolution, each with its normalisation: five at 64 px, as in Li et al. 2020, figure 1."""
        with torch.device("meta"):
            keys = [key for key, _ in Generator(spec).named_parameters()]
        out: dict[str, list[str]] = {"embed": ["embed.weight"]} if spec["c_dim"] else {}
        for key in keys:
            if key != "embed.weight":
                out.setdefault(f"conv{_layer(key) + 1}", []).append(key)
        return out

    def resolution_of(self, key: str) -> int | None:
        return 4 << _layer(key) if key.startswith("main.") else None

    def stages(self, spec: Spec) -> list[list[str]]:
        """By convolution, each with its normalisation, without the last."""
        with torch.device("meta"):
            keys = [key for key, _ in Discriminator(spec).named_parameters() if key.startswith("main.")]
        out: list[list[str]] = [[] for _ in range(len(spec["d_widths"]) + 1)]
        for key in keys:
            out[(int(key.split(".")[1]) + 1) // 3].append(key)
        return out[:-1]

    def filters(self, spec: Spec) -> Filters:
        """Every convolution but the first and the last, each with its normalisation's scale and shift."""

        def layer(conv: int, norm: int) -> Layer:
            return Layer("convolutions", f"main.{conv}.weight", (f"main.{norm}.weight", f"main.{norm}.bias"))

        last = 3 * len(spec["d_widths"]) - 1
        g = [layer(i, i + 1) for i in range(3, 3 * len(spec["g_widths"]), 3)]
        d = [layer(i, i + 1) for i in range(2, last, 3)]
        return Filters({"g": g, "d": d}, frozenset(), frozenset({f"main.{last}.weight", "embed.weight"}))

    def scales(self, key: str) -> bool:
        return key.startswith("main.") and int(key.split(".")[1]) % 3 == 1

    def fakes(self, g: nn.Module, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g(inputs)

    def refresh_statistics(self, g: nn.Module, draw: Callable[[int, torch.Generator], Inputs]) -> None:
        """Measure the statistics of batch normalisation anew, over 1,024 inputs."""
        rng = torch.Generator().manual_seed(0)
        device = next(g.parameters()).device
        refresh_stats(g, (draw(SETTLE[1], rng).to(device) for _ in range(SETTLE[0])))

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.logistic_d(real_logits, fake_logits)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return losses.nonsaturating_g(fake_logits)

    def log_likelihood(self, logits: Tensor) -> Tensor:
        return losses.log_sigmoid(logits)

    def regularise(self, context: StepContext, who: NetworkName, step: int) -> dict[str, Tensor]:
        return {}


def _layer(key: str) -> int:
    """main.0, main.1 -> 0; main.3, main.4 -> 1: a convolution and its normalisation."""
    return int(key.split(".")[1]) // 3


def _mirrored(g_widths: list[int], resolution: int) -> list[int]:
    """Widths of a discriminator like the generator; at 28 px it has a layer less, as published."""
    return g_widths[::-1][: -1 if resolution == 28 else None]


def _networks(foreign: Foreign) -> dict[str, State]:
    """Tensors by network, without what stands before ``main.`` in their keys (``netG.``, ``module.``)."""
    found: dict[str, State] = {}
    for name, state in foreign.tensors.items():
        for key, value in state.items():
            before, main, after = key.rpartition("main.")
            network = f"{name}.{before}".replace("module.", "").strip(".")
            value = value.float() if value.is_floating_point() else value
            found.setdefault(network, {})[main + after] = value
    return found


def _is_g(state: State) -> bool:
    """Transposed convolution, normalisation, and again."""
    first, second = state.get("main.0.weight"), state.get("main.3.weight")
    return first is not None and second is not None and first.ndim == second.ndim == 4


def _is_d(state: State) -> bool:
    """Two convolutions, then a normalisation."""
    first, second = state.get("main.0.weight"), state.get("main.2.weight")
    return first is not None and second is not None and first.ndim == second.ndim == 4


def _infer(g: State, d: State | None) -> tuple[Spec, list[str]]:
    """The spec of a generator and, where there is one, its discriminator; and what had to be guessed."""
    convs = _convs(g, first=0)
    widths = [conv.shape[1] for conv in convs[:-1]]
    side, channels = 4 << len(widths) - 1, convs[-1].shape[1]
    notes = []
    seen = None if d is None else _convs(d, first=2)  # main.0 is not among them
    if convs[-1].shape[-1] == 4:
        resolution = 2 * side
    elif side == 32 and seen is not None:
        resolution = 28 if seen[-1].shape[-1] == 4 else 32  # 3 px are left for a 4x4, 2 px for a 2x2
    else:
        resolution = 28 if side == 32 and channels == 1 else side
        if side == 32:
            notes.append(
                f"{resolution} px, since it draws in {'grey' if channels == 1 else 'colour'}: "
                "the generators of the MNIST and of the CIFAR-10 layout look alike"
            )
    if d is None:
        notes.append("no discriminator in the file: adapt starts a fresh one")
        d_widths = _mirrored(widths, resolution)
    else:
        d_widths = [d["main.0.weight"].shape[0], *(conv.shape[0] for conv in seen[:-1])]
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


def _convs(state: State, first: int) -> list[Tensor]:
    """The convolutions' weights, every third tensor of ``main`` from ``first`` on."""
    numbers = sorted({int(m[1]) for key in state if (m := re.fullmatch(r"main\.(\d+)\.weight", key))})
    convs = [state[f"main.{i}.weight"] for i in numbers if i >= first and (i - first) % 3 == 0]
    if len(convs) < 2 or any(conv.ndim != 4 for conv in convs):
        raise FsgenError("a DCGAN whose layers are not convolution, normalisation, activation")
    return convs
