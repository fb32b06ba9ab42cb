"""FastGAN as a family: recipe, losses, import."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen import rng as random
from fsgen.errors import FsgenError
from fsgen.families.fastgan import convert, networks
from fsgen.families.fastgan.networks import Looked, Pictures, quadrant, resize
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
from fsgen.nn.batchnorm import refresh_stats
from fsgen.nn.spectral_norm import SpectralConv

SIZES = (64, 128, 256, 512, 1024)
WIDTH = 64  # the published ngf and ndf
LATENT = 256  # the published nz
CONVERGED = 30  # power iterations after training
SETTLE = (16, 16)  # batches, pictures in each, behind the norms' statistics after training


@dataclass(frozen=True)
class Recipe:
    """The published recipe (the paper's code, at every size), for 50,000 steps from scratch; ``fsgen train``
    adds its flips and its differentiable augmentation.

    Two things differ. G learns from fakes of its own, drawn anew, where the published loop shows it those
    that D has just seen. The average starts short, so that a run of a few hundred steps has one.
    """

    lr: float = 0.0002
    beta1: float = 0.5
    beta2: float = 0.999
    batch: int = 8
    reconstruction: float = 1.0  # weight of the decoders' three terms; 0 switches them off
    r1_every: int = 0  # there are no lazy regularisers
    path_every: int = 0
    ema_half_life: float = 693.0  # steps: decay 0.999 a step
    ema_rampup: float = 0.25  # half-life at most this share of the steps so far


class FastGAN(Family):
    """Liu et al. 2021, "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image
    Synthesis".

    The published evaluation leaves G in training mode: pictures then depend on their batch. Here G is
    evaluated with the stored statistics, which ``refresh_statistics`` measures anew for the averaged weights.
    """

    name = "fastgan"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.FILTERS,
        Trait.RECONSTRUCTION, Trait.SCALES,
    })  # fmt: skip
    Recipe = Recipe
    training_methods: ClassVar = {"diffaugment": {"policy": "color,translation"}}
    mirrors = True

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks:
        return Networks(networks.Generator(spec), networks.Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published architecture; at 64 and 128 px without the blocks outside (see ``networks``).

        Args:
            size: of the picture's side in pixels.
            channels: 3, or 1 for grey.
            classes: none can be had.
            width: channels of G at 128 px, which the others are multiples of; default: 64, as published.
                With 16 a step of 8 pictures of 64 px takes half a second on one CPU core, with 64 several.
        """
        if size not in SIZES:
            known = ", ".join(map(str, SIZES))
            raise FsgenError(f"there is no FastGAN of {size} px", hint=f"one of {known}")
        if channels not in (1, 3):
            raise FsgenError(f"there is no FastGAN of {channels} channels", hint="1 (grey) or 3 (colour)")
        if classes:
            raise FsgenError("fastgan cannot be conditional", hint="stylegan2 and dcgan can")
        width = width or WIDTH
        head = {"resolution": size, "channels": channels, "z_dim": LATENT, "sle": True}
        return head | convert.g_widths(size, width) | convert.d_widths(size, width)

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(convert.is_g(state) for state in foreign.tensors.values())

    def convert(self, foreign: Foreign) -> Converted:
        """``N.pth``, ``all_N.pth``, or G alone.

        ``N.pth`` holds the averaged parameters under ``g``; ``all_N.pth`` the live ones, and the averaged
        ones in a list without names.
        """
        named = {name: state for name, state in foreign.tensors.items() if state}
        d = convert.discriminator(named["d"]) if "d" in named else None
        name = next(name for name in ("g", "g_ema", *named) if convert.is_g(named.get(name, {})))
        averages = named.get("g_ema", {})
        notes = ["no noise is stored in such files: drawn from seed 0"]
        g, g_ema = convert.generator(named[name]), None
        if averages and name != "g_ema":
            nameless = not convert.is_g(averages)
            averages = convert.averaged(named[name], list(averages.values())) if nameless else averages
            g_ema = convert.generator(averages)
        else:
            g, g_ema = None, g
            notes.append("a single generator in the file: taken for the averaged one, as it is published")
        if d is None:
            notes.append("no discriminator in the file: adapt starts a fresh one")
        try:
            spec = convert.infer(g_ema, d)
        except KeyError as error:
            raise FsgenError(f"a FastGAN checkpoint without the tensor {error}") from None
        except IndexError:
            raise FsgenError("a FastGAN checkpoint with weights that are no convolution's") from None
        with torch.device("meta"):
            empty = self.build(spec)
        for which, state in (("g", g), ("g_ema", g_ema)):
            if state is not None:
                convert.stored_noise(state)
                check(empty.g, state, f"a FastGAN '{which}'")
        if d is not None:
            check(empty.d, d, "a FastGAN 'd'")
        return Converted(spec, g, g_ema, d, tuple(notes))

    def refresh_statistics(self, g: nn.Module, draw: Callable[[int, torch.Generator], Inputs]) -> None:
        """Singular vectors and normalisation statistics of the weights as they are now."""
        for module in g.modules():
            if isinstance(module, SpectralConv):
                module.iterate(CONVERGED)
        device = next(g.parameters()).device
        count, size = SETTLE
        refresh_stats(g, (draw(size, random.generator(0, "settle", i)).to(device) for i in range(count)))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        with torch.device("meta"):
            g = networks.Generator(spec)
        out: dict[str, list[str]] = {}
        for key, _ in g.named_parameters():
            layer = re.match(r"b\d+\.\d|[a-z]+\d+", key)[0]
            out.setdefault(layer, []).append(key)
        return out

    def resolution_of(self, key: str) -> int | None:
        match = re.match(r"[a-z]+(\d+)\.", key)
        return int(match[1]) if match else None

    def stages(self, spec: Spec) -> list[list[str]]:
        """By the side of what comes out, those of the small pictures too; not the heads and decoders."""
        with torch.device("meta"):
            d = networks.Discriminator(spec)
        out: dict[int, list[str]] = {}
        for key, _ in d.named_parameters():
            part, number = re.match(r"([a-z]+)(?:\.?(\d+))?", key).groups()
            if part == "stem":
                out.setdefault(d.top, []).append(key)
            elif part in ("b", "gate"):
                out.setdefault(int(number), []).append(key)
            elif part == "branch":
                out.setdefault(d.small >> int(number) + 1, []).append(key)
        return [out[side] for side in sorted(out, reverse=True)]

    def filters(self, spec: Spec) -> Filters:
        """Every convolution that is normalised, with its normalisation's scale and shift, but G's first and
        those of the decoders, which count as D's head."""
        with torch.device("meta"):
            nets = self.build(spec)
        g, d = ([name for name, _ in net.named_parameters()] for net in nets)

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

    def fakes(self, g: nn.Module, inputs: Inputs, recipe: Any, rng: torch.Generator) -> Pictures:
        """The pictures twice: [n, C, S, S] and, from G's second output, [n, C, small, small]."""
        return g.pictures(inputs, "random", rng)

    def discriminator_loss(self, context: StepContext, fakes: Pictures) -> dict[str, Tensor]:
        """Equation 3, with random margins; its last part are the decoders' pictures against the reals."""
        real_images = context.augment(context.real_images, "real")
        looked = context.d.look(real_images)
        real_logits = context.d.judge(looked)
        context.real_logits = real_logits.detach()
        terms = self._rebuilt(context, real_images, looked) if context.recipe.reconstruction else {}
        fake_logits = context.d(_viewed(context, fakes, "fake_d"))
        d = losses.hinge(real_logits, _margins(real_logits, context.rng("margins real")))
        d = d + losses.hinge(-fake_logits, _margins(fake_logits, context.rng("margins fake")))
        return {"d": d} | terms

    def _rebuilt(self, context: StepContext, real_images: Tensor, looked: Looked) -> dict[str, Tensor]:
        """Equation 2 for three decoders, summed over the batch as published; its name says the distance."""
        rng = context.rng("part")
        part = int(torch.randint(4, [], generator=rng, device=rng.device))
        distance, name = (context.perceptual, "lpips") if context.perceptual else (l1, "l1")
        total = sum(
            distance(_coloured(rebuilt), _coloured(resize(target, rebuilt.shape[-1]))).sum()
            for rebuilt, target in zip(
                context.d.rebuild(looked, part),
                (real_images, real_images, quadrant(real_images, part)),
                strict=True,
            )
        )
        return {f"reconstruction_{name}": context.recipe.reconstruction * total}

    def generator_loss(self, context: StepContext, fakes: Pictures) -> dict[str, Tensor]:
        return {"g": self.loss_g(context.d(_viewed(context, fakes, "fake_g")))}

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The hinge at its mean margin; training draws a margin for each logit."""
        return losses.hinge(real_logits, MARGIN) + losses.hinge(-fake_logits, MARGIN)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """The mean logit of each sample, [n, 50] -> [n].

        A critic trained with a hinge gives no probability. Its logit takes the place of log D(x), up to scale
        and a constant, as the energy that G climbs: the Fisher squares the gradient of G's own loss.
        """
        return logits.mean(dim=1)

    def regularise(self, context: StepContext, who: NetworkName, step: int) -> dict[str, Tensor]:
        return {}


MARGIN = 0.9  # the mean of 0.8 + 0.2 r


def _margins(logits: Tensor, rng: torch.Generator) -> Tensor:
    """0.8 + 0.2 r with r ~ U[0, 1), for each logit (the published code; the paper has 1)."""
    return 0.8 + 0.2 * torch.rand(logits.shape, generator=rng, device=rng.device).to(logits.device)


def _viewed(context: StepContext, fakes: Pictures, who: Literal["fake_d", "fake_g"]) -> Pictures:
    """What the critic is shown of both sizes. A method's draws are those of one purpose for both."""
    big, small = fakes
    return context.augment(big, who), context.augment(small, who)


def _coloured(images: Tensor) -> Tensor:
    """Grey as RGB, since the distance looks at colours."""
    return images.expand(-1, 3, -1, -1)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each sample, [n]: in the place of LPIPS where its weights are not here."""
    return F.l1_loss(a, b, reduction="none").mean(dim=(1, 2, 3))
