"""BigGAN and IC-GAN as a family: recipe, losses, import."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.errors import FsgenError
from fsgen.families.biggan import convert, networks
from fsgen.families.biggan.layers import Spectral
from fsgen.families.biggan.networks import PLANS
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


@dataclass(frozen=True)
class Recipe:
    """IC-GAN's recipe at 64 px; ``BigGAN.recipe`` has the rates of the larger ones.

    Published is a batch of 2,048 at 128 and 256 px, on as many machines as that takes. The published
    average starts at step 20,000; here it starts short, so that a shorter run has one.
    """

    lr: float = 1e-4  # of G; 4e-5 at 128 and 256 px
    lr_d: float = 1e-4
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-6  # Adam's
    batch: int = 256
    r1_every: int = 0  # there are no lazy regularisers
    path_every: int = 0
    ema_half_life: float = 6931.0  # steps: decay 0.9999 a step
    ema_rampup: float = 0.25  # half-life at most this share of the steps so far


CLASS, INSTANCE = 128, 512  # numbers that G makes of a class, of an instance
CONVERGED = 30  # power iterations after training
SETTLE = (16, 16)  # batches, pictures in each, behind the norms' statistics after training


class BigGAN(Family):
    """Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis"; with
    instances, Casanova et al. 2021, "Instance-Conditioned GAN"."""

    name = "biggan"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.FILTERS, Trait.CLASSES,
        Trait.INSTANCES, Trait.SCALES, Trait.STYLES,
    })  # fmt: skip
    Recipe = Recipe
    mirrors = True
    embeddings = ("embed.weight", "embed.u")  # embed.u: of D, whose embedding has spectral norm one

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks:
        return Networks(networks.Generator(spec), networks.Discriminator(spec) if discriminator else None)

    def fresh(
        self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None, h_dim: int = 0
    ) -> Spec:
        """``width``: channels that others are multiples of, 64 as published up to 64 px and 96 above.

        ``h_dim``: length of the features that an instance is told by; 0: no instances (BigGAN).
        """
        if size not in PLANS:
            known = ", ".join(map(str, PLANS))
            raise FsgenError(f"there is no BigGAN of {size} px", hint=f"one of {known}")
        if channels not in (1, 3):
            raise FsgenError(f"there is no BigGAN of {channels} channels", hint="1 (grey) or 3 (colour)")
        plan = PLANS[size]
        one = plan.width if width is None else width
        if one < 1:
            raise FsgenError(
                f"--width {one} is too narrow", hint=f"1 is the least, {plan.width} as published"
            )
        return {
            "resolution": size,
            "channels": channels,
            "z_dim": plan.z_dim,
            "c_dim": classes,
            "h_dim": h_dim,
            "g_embed_dim": CLASS if classes else 0,
            "h_embed_dim": INSTANCE if h_dim else 0,
            "g_widths": [one * times for times in plan.g],
            "g_attention": list(plan.g_attention),
            "d_attention": list(plan.d_attention),
            **plan.discriminator(one),
        }

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(convert.is_g(state) or convert.is_d(state) for state in foreign.tensors.values())

    def convert(self, foreign: Foreign) -> Converted:
        """Files of one network, or a folder's (see ``fsgen.importers.archives``).

        A generator whose name has "ema" in it, and one that is alone, is the average.
        """
        generators = {name: state for name, state in foreign.tensors.items() if convert.is_g(state)}
        discriminators = [state for state in foreign.tensors.values() if convert.is_d(state)]
        averages = [state for name, state in generators.items() if "ema" in name.lower()]
        lives = [state for name, state in generators.items() if "ema" not in name.lower()]
        if not generators:
            raise FsgenError("a BigGAN's discriminator alone", hint="pull the file of its generator (G_ema)")
        if max(map(len, (averages, lives, discriminators))) > 1:
            raise FsgenError("a file with more networks than one BigGAN has")
        notes = []
        if not averages:
            averages, lives = lives, []
            notes.append("a single generator in the file: taken for the averaged one, as it is published")
        g, g_ema, d = (
            convert.renamed(part[0]) if part else None for part in (lives, averages, discriminators)
        )
        config = foreign.extras.get("config")
        told = dict(config) if isinstance(config, dict) else {}
        for settings in foreign.settings.values():
            told |= settings
        try:
            spec, guessed = convert.infer(g_ema, d, told)
        except KeyError as error:
            raise FsgenError(f"a BigGAN checkpoint without the tensor {error}") from None
        except IndexError:
            raise FsgenError("a BigGAN checkpoint with weights that are no convolution's") from None
        if d is None:
            notes.append("no discriminator in the file: adapt starts a fresh one")
        g, g_ema = (None if state is None else convert.used(state, spec) for state in (g, g_ema))
        with torch.device("meta"):
            nets = self.build(spec)
        for state, net, what in ((g, nets.g, "'g'"), (g_ema, nets.g, "'g_ema'"), (d, nets.d, "'d'")):
            if state is not None:
                check(net, state, f"a BigGAN {what}")
        return Converted(spec, g, g_ema, d, (*notes, *guessed))

    def refresh_statistics(self, g: nn.Module, draw: Callable[[int, torch.Generator], Inputs]) -> None:
        """Singular vectors, and the standing statistics (Brock et al. 2019, appendix C), of the weights as
        they are now."""
        for module in g.modules():
            if isinstance(module, Spectral):
                module.iterate(CONVERGED)
        device, (count, size) = next(g.parameters()).device, SETTLE
        refresh_stats(g, (draw(size, random.generator(0, "settle", i)).to(device) for i in range(count)))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe() if spec["resolution"] <= 64 else dataclasses.replace(Recipe(), lr=4e-5)

    def optimiser(self, free: list[nn.Parameter], recipe: Recipe, who: NetworkName) -> torch.optim.Optimizer:
        """Adam with a rate for each player; ``foreach`` and the group as for other families."""
        lr, betas = recipe.lr if who == "g" else recipe.lr_d, (recipe.beta1, recipe.beta2)
        return torch.optim.Adam([{"params": free}], lr=lr, betas=betas, eps=recipe.eps, foreach=True)

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """By block and its attention, the embeddings apart."""
        with torch.device("meta"):
            g = networks.Generator(spec)
        out: dict[str, list[str]] = {}
        for key, _ in g.named_parameters():
            side = self.resolution_of(key)
            layer = "rgb" if key.startswith(("norm.", "rgb.")) else f"b{side}" if side else key.split(".")[0]
            out.setdefault(layer, []).append(key)
        return {layer: out.pop(layer) for layer in sorted(out, key=_place)}

    def resolution_of(self, key: str) -> int | None:
        if key.startswith("linear."):
            return 4
        match = re.match(r"(?:blocks|attention)\.(\d+)\.", key)
        return 8 << int(match[1]) if match else None

    def stages(self, spec: Spec) -> list[list[str]]:
        """By block, each with its attention, as FreezeD counts those of SNGAN."""
        with torch.device("meta"):
            d = networks.Discriminator(spec)
        out: list[list[str]] = [[] for _ in d.blocks]
        for key, _ in d.named_parameters():
            if match := re.match(r"(?:blocks|attention)\.(\d+)\.", key):
                out[int(match[1])].append(key)
        return out

    def filters(self, spec: Spec) -> Filters:
        """The convolutions of all blocks but D's first, and what G's scales and shifts are made by."""
        with torch.device("meta"):
            nets = self.build(spec)
        g, d = ([name for name, _ in net.named_parameters()] for net in nets)

        def layers(names: list[str], first: int) -> list[Layer]:
            owners = [m[1] for name in names if (m := re.fullmatch(r"(blocks\.(\d+)\.conv\w+)\.weight", name))
                      and int(m[2]) >= first]  # fmt: skip
            return [Layer("convolutions", f"{owner}.weight", (f"{owner}.bias",)) for owner in owners]

        modulations = [Layer("modulations", name) for name in g if re.search(r"\.(gain|shift)\.", name)]
        return Filters(
            {"g": layers(g, 0) + modulations, "d": layers(d, 1)}, frozenset(),
            frozenset(name for name in d if not name.startswith(("blocks.", "attention."))),
        )  # fmt: skip

    def scales(self, key: str) -> bool:
        """What makes the scales and shifts of the blocks' normalisations, and the shift of the first map."""
        return key == "linear.bias" or bool(re.search(r"\.(gain|shift)\.", key))

    def fakes(self, g: nn.Module, inputs: Inputs, recipe: Any, rng: torch.Generator) -> Tensor:
        return g(inputs)

    def discriminator_loss(self, context: StepContext, fakes: Tensor) -> dict[str, Tensor]:
        """D sees fakes and reals in one batch, as published: one step of its power iteration for both."""
        seen = torch.cat([context.augment(fakes, "fake_d"), context.augment(context.real_images, "real")])
        fake_logits, real_logits = context.d(seen, _twice(context.inputs)).chunk(2)
        context.real_logits = real_logits.detach()
        return {"d": self.loss_d(real_logits, fake_logits)}

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.hinge(real_logits) + losses.hinge(-fake_logits)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """The logit of each sample, [n, 1] -> [n].

        A critic trained with a hinge gives no probability. Its logit takes the place of log D(x), up to scale
        and a constant, as the energy that G climbs: the Fisher squares the gradient of G's own loss.
        """
        return logits.flatten()

    def regularise(self, context: StepContext, who: NetworkName, step: int) -> dict[str, Tensor]:
        return {}


def _twice(inputs: Inputs) -> Inputs:
    """The same conditions for two batches in one."""
    return Inputs(**{
        name: None if part is None else torch.cat([part, part])
        for name, part in (("y", inputs.y), ("h", inputs.h))
    })  # fmt: skip


def _place(layer: str) -> tuple[int, int]:
    """Embeddings, then blocks by their side, then the end."""
    named = {"embed": (0, 0), "embed_h": (0, 1), "rgb": (2, 0)}
    return named.get(layer) or (1, int(layer.removeprefix("b")))
