"""FastGAN: recipe, losses, conversion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fsgen.errors import Code, FsgenError
from fsgen.families.adversarial import HingeFamily
from fsgen.families.checks import check_channels, check_size, checked_width
from fsgen.families.conversion import (
    NO_DISCRIMINATOR,
    SINGLE_GENERATOR,
    FoundNetworks,
    check_networks,
    refuse_malformed,
)
from fsgen.families.fastgan import convert
from fsgen.families.fastgan.networks import (
    STEM,
    Discriminator,
    Encoded,
    Generator,
    Images,
    quadrant,
    resize,
    small_side,
)
from fsgen.families.parameters import grouped, parameter_names
from fsgen.interfaces import (
    Converted,
    Draw,
    Filters,
    Foreign,
    Inputs,
    Layer,
    Networks,
    Spec,
    StepContext,
    Trait,
)
from fsgen.nn import losses
from fsgen.nn.batchnorm import refresh_buffers
from fsgen.nn.spectral_norm import SpectralConv

SIZES = (64, 128, 256, 512, 1024)
WIDTH = 64  # the published ngf and ndf
LATENT = 256  # the published nz


@dataclass(frozen=True)
class Recipe:
    """The published recipe (the paper's code, at every size), for 50,000 steps from scratch; ``fsgen train``
    adds its flips and its differentiable augmentation.

    Departures: G's step generates images of its own, where the published loop reuses those of D's step. The
    moving average starts with a short half-life, so that a run of a few hundred steps has one.
    """

    lr: float = 0.0002
    beta1: float = 0.5
    beta2: float = 0.999
    batch: int = 8
    reconstruction: float = 1.0  # weight of the decoders' three terms; 0 switches them off
    r1_every: int = 0  # no lazy regularisers
    path_every: int = 0
    ema_half_life: float = 693.0  # steps: decay 0.999 a step
    ema_rampup: float = 0.25  # the half-life is at most this share of the steps so far


class FastGAN(HingeFamily[Generator, Discriminator, Recipe]):
    """FastGAN: Liu et al. 2021, "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image
    Synthesis".

    Departure: the published evaluation keeps G in training mode, so that images depend on their batch. Here
    G is evaluated with running statistics, which ``refresh_statistics`` refreshes for the averaged weights.
    """

    name = "fastgan"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.FILTERS,
        Trait.RECONSTRUCTION, Trait.SCALES,
    })  # fmt: skip
    training_methods: ClassVar = {"diffaugment": {"policy": "color,translation"}}
    mirrors = True
    margin = 0.9  # the mean of 0.8 + 0.2 r: training draws a margin for each logit

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks[Generator, Discriminator]:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published architecture; at 64 and 128 px without the outer blocks (see ``networks``).

        Args:
            size: resolution in pixels.
            channels: 3, or 1 for grey.
            classes: must be 0.
            width: channels of G at 128 px, the unit of the others; default: 64, as published. A step of 8
                images of 64 px on one CPU core takes half a second with 16, several seconds with 64.
        """
        check_size("FastGAN", size, SIZES)
        check_channels("FastGAN", channels)
        if classes:
            raise FsgenError("fastgan cannot be conditioned on classes", code=Code.INCOMPATIBLE,
                             where="--classes", hint="stylegan2 and dcgan can")  # fmt: skip
        width = checked_width(width, WIDTH)
        head = {"resolution": size, "channels": channels, "z_dim": LATENT, "sle": True}
        return head | convert.g_widths(size, width) | convert.d_widths(size, width)

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(convert.is_g(state) for state in foreign.tensors.values())

    def convert(self, foreign: Foreign) -> Converted:
        """Convert ``N.pth``, ``all_N.pth``, or G alone.

        ``N.pth`` holds the averaged parameters under ``g``; ``all_N.pth`` the live ones, and the averaged
        ones as a list without names.
        """
        named = {name: state for name, state in foreign.tensors.items() if state}
        name = next(name for name in ("g", "g_ema", *named) if convert.is_g(named.get(name, {})))
        averages = named.get("g_ema", {})
        notes = ["no noise is stored in such files: drawn from seed 0"]
        g, g_ema = None, named[name]
        if averages and name != "g_ema":
            g, g_ema = g_ema, averages
            if not convert.is_g(averages):
                g_ema = convert.averaged(g, list(averages.values()))
        else:
            notes.append(SINGLE_GENERATOR)
        found = FoundNetworks(g, g_ema, named.get("d")).converted(convert.convert_g, convert.convert_d)
        if found.d is None:
            notes.append(NO_DISCRIMINATOR)
        with refuse_malformed("FastGAN"):
            spec = convert.infer(found.generator, found.d)
        for state in (found.g, found.g_ema):
            if state is not None:
                convert.add_stored_noise(state)
        with torch.device("meta"):
            check_networks("FastGAN", self.build(spec), found)
        return Converted(spec, *found, tuple(notes))

    def refresh_statistics(self, g: Generator, draw: Draw) -> None:
        """Refresh the singular vectors and the running statistics."""
        refresh_buffers(g, SpectralConv, draw)

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        names = parameter_names(Generator, spec)
        return grouped(names, lambda key: re.findall(r"b\d+\.\d|[a-z]+\d+", key)[0])

    def resolution_of(self, key: str) -> int | None:
        match = re.match(r"[a-z]+(\d+)\.", key)
        return int(match[1]) if match else None

    def stages(self, spec: Spec) -> list[list[str]]:
        """By output resolution, with those for the small images; without heads and decoders."""
        resolution = spec["resolution"]

        def side(key: str) -> int | None:
            if key.startswith("stem."):
                return min(STEM, resolution)
            if match := re.match(r"branch\.(\d+)\.", key):
                return small_side(resolution) >> int(match[1]) + 1
            match = re.match(r"(?:b|gate)(\d+)\.", key)
            return int(match[1]) if match else None

        out = grouped(parameter_names(Discriminator, spec), side)
        return [out[side] for side in sorted(out, reverse=True)]

    def filters(self, spec: Spec) -> Filters:
        """Every convolution with a normalisation, together with its scale and shift, except for G's first;
        the decoders count as D's head."""
        g, d = parameter_names(Generator, spec), parameter_names(Discriminator, spec)

        def layers(names: list[str], pattern: str) -> list[Layer]:
            owners = [m[1] for name in names if (m := re.fullmatch(rf"({pattern})norm\.weight", name))]
            return [Layer("convolutions", f"{owner}conv.weight", (f"{owner}norm.weight", f"{owner}norm.bias"))
                    for owner in owners]  # fmt: skip

        return Filters(
            {"g": layers(g, r"b\d+\.\d\."), "d": layers(d, r"(?:b\d+|branch)\..*")},
            frozenset(name for name in g if re.match(r"b\d+\.\d\.noise_strength", name)),
            frozenset(name for name in d if re.match("head|decode", name)),
        )

    def scales(self, key: str) -> bool:
        return ".norm." in key

    def fakes(self, g: Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Images:
        """Images in two sizes: [n, C, S, S] and, from G's second output, [n, C, small, small]."""
        return g.both_sizes(inputs, "random", rng)

    def discriminator_loss(self, context: StepContext, fakes: Images) -> dict[str, Tensor]:
        """The hinge loss with random margins (equation 3), and the reconstruction of the real images."""
        real_images = context.augment(context.real_images, "real")
        encoded = context.d.encode(real_images)
        real_logits = context.d.logits(encoded)
        context.real_logits = real_logits.detach()
        terms = self._reconstruction(context, real_images, encoded) if context.recipe.reconstruction else {}
        fake_logits = context.d(_augmented(context, fakes, "fake_d"))
        d = losses.hinge(real_logits, _margins(real_logits, context.rng("margins real")))
        d = d + losses.hinge(-fake_logits, _margins(fake_logits, context.rng("margins fake")))
        return {"d": d} | terms

    def _reconstruction(
        self, context: StepContext, real_images: Tensor, encoded: Encoded
    ) -> dict[str, Tensor]:
        """The reconstruction loss (equation 2) of three decoders, summed over the batch as published.

        Its name in the log is that of the distance.
        """
        rng = context.rng("part")
        part = int(torch.randint(4, [], generator=rng, device=rng.device))
        distance, name = (context.perceptual, "lpips") if context.perceptual else (l1, "l1")
        targets = (real_images, real_images, quadrant(real_images, part))
        terms = [
            distance(_as_rgb(image), _as_rgb(resize(target, image.shape[-1]))).sum()
            for image, target in zip(context.d.reconstruct(encoded, part), targets, strict=True)
        ]
        return {f"reconstruction_{name}": context.recipe.reconstruction * (terms[0] + terms[1] + terms[2])}

    def generator_loss(self, context: StepContext, fakes: Images) -> dict[str, Tensor]:
        return {"g": self.loss_g(context.d(_augmented(context, fakes, "fake_g")))}


def _margins(logits: Tensor, rng: torch.Generator) -> Tensor:
    """0.8 + 0.2 r with r ~ U[0, 1) for each logit, as in the published code; the paper has 1."""
    return 0.8 + 0.2 * torch.rand(logits.shape, generator=rng, device=rng.device).to(logits.device)


def _augmented(
    context: StepContext, fakes: Images, kind: Literal["fake_d", "fake_g"]
) -> tuple[Tensor, Tensor]:
    """Both sizes as D sees them; a method draws the same random numbers for both."""
    big, small = fakes
    return context.augment(big, kind), context.augment(small, kind)


def _as_rgb(images: Tensor) -> Tensor:
    """Grey images as RGB, for the perceptual distance."""
    return images.expand(-1, 3, -1, -1)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each sample, [n]; used where the weights of LPIPS are missing."""
    return F.l1_loss(a, b, reduction="none").mean(dim=(1, 2, 3))
