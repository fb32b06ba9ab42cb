"""BigGAN and IC-GAN: recipe, losses, conversion."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.families.biggan import convert, networks
from fsgen.families.biggan.layers import SNLayer
from fsgen.families.biggan.networks import PUBLISHED
from fsgen.families.checks import check_channels, check_size, checked_width
from fsgen.families.conversion import (
    NO_DISCRIMINATOR,
    SINGLE_GENERATOR,
    check_networks,
    refuse_malformed,
    sort_networks,
)
from fsgen.interfaces import (
    Converted,
    Draw,
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
    """IC-GAN's recipe at 64 px; ``BigGAN.recipe`` sets the learning rate for larger images.

    Departures: the published batch at 128 and 256 px is 2,048; the published moving average starts at step
    20,000, here it starts at once with a short half-life, so that a shorter run has one.
    """

    lr: float = 1e-4  # of G; 4e-5 at 128 and 256 px
    lr_d: float = 1e-4
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-6  # Adam's
    batch: int = 256
    r1_every: int = 0  # no lazy regularisers
    path_every: int = 0
    ema_half_life: float = 6931.0  # steps: decay 0.9999 a step
    ema_rampup: float = 0.25  # the half-life is at most this share of the steps so far


CLASS, INSTANCE = 128, 512  # lengths of G's embeddings
POWER_ITERATIONS = 30  # after training
STATISTICS = (16, 16)  # batches and their size for the running statistics after training


class BigGAN(Family[networks.Generator, networks.Discriminator, Recipe]):
    """Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis"; with
    instances, Casanova et al. 2021, "Instance-Conditioned GAN"."""

    name = "biggan"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.FILTERS,
        Trait.CLASSES, Trait.INSTANCES, Trait.SCALES, Trait.STYLES,
    })  # fmt: skip
    mirrors = True
    embeddings = ("embed.weight", "embed.u")  # embed.u: of D, whose embedding has spectral norm one

    def build(
        self, spec: Spec, *, discriminator: bool = True
    ) -> Networks[networks.Generator, networks.Discriminator]:
        return Networks(networks.Generator(spec), networks.Discriminator(spec) if discriminator else None)

    def fresh(
        self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None, h_dim: int = 0
    ) -> Spec:
        """The published architecture at 32, 64, 128 or 256 px.

        Args:
            size: resolution in pixels.
            channels: 3, or 1 for grey.
            classes: number of classes; 0: unconditional.
            width: unit of all widths in channels; default: 64 up to 64 px and 96 above, as published.
            h_dim: length of the features of an instance (IC-GAN); 0: no instances.
        """
        check_size("BigGAN", size, PUBLISHED)
        check_channels("BigGAN", channels)
        published = PUBLISHED[size]
        width = checked_width(width, published.width)
        return {
            "resolution": size,
            "channels": channels,
            "z_dim": published.z_dim,
            "c_dim": classes,
            "h_dim": h_dim,
            "g_embed_dim": CLASS if classes else 0,
            "h_embed_dim": INSTANCE if h_dim else 0,
            "g_widths": [width * times for times in published.g],
            "g_attention": list(published.g_attention),
            "d_attention": list(published.d_attention),
            **published.discriminator(width),
        }

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(convert.is_g(state) or convert.is_d(state) for state in foreign.tensors.values())

    def convert(self, foreign: Foreign) -> Converted:
        """Convert files of one network, or a folder's (see ``fsgen.importers.archives``).

        A generator with "ema" in its name, and a single one, is the moving average.
        """
        found = sort_networks("BigGAN", foreign.tensors, convert.is_g, convert.is_d)
        notes = []
        if found.g_ema is None:
            found = found._replace(g=None, g_ema=found.g)
            notes.append(SINGLE_GENERATOR)
        found = found.converted(convert.renamed, convert.renamed)
        config = foreign.extras.get("config")
        settings = dict(config) if isinstance(config, dict) else {}
        for values in foreign.settings.values():
            settings |= values
        with refuse_malformed("BigGAN"):
            spec, guesses = convert.infer(found.generator, found.d, settings)
        if found.d is None:
            notes.append(NO_DISCRIMINATOR)
        found = found.converted(lambda g: convert.drop_unused(g, spec), lambda d: d)
        with torch.device("meta"):
            check_networks("BigGAN", self.build(spec), found)
        return Converted(spec, *found, (*notes, *guesses))

    def refresh_statistics(self, g: networks.Generator, draw: Draw) -> None:
        """Refresh the singular vectors and the standing statistics (Brock et al. 2019, appendix C)."""
        for module in g.modules():
            if isinstance(module, SNLayer):
                module.iterate(POWER_ITERATIONS)
        device, (count, size) = next(g.parameters()).device, STATISTICS
        refresh_stats(g, (draw(size, random.generator(0, "settle", i)).to(device) for i in range(count)))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe() if spec["resolution"] <= 64 else dataclasses.replace(Recipe(), lr=4e-5)

    def optimiser(
        self, parameters: list[nn.Parameter], recipe: Recipe, network: NetworkName
    ) -> torch.optim.Optimizer:
        """Adam with a learning rate for each network; ``foreach`` and the group as in ``Family``."""
        lr, betas = recipe.lr if network == "g" else recipe.lr_d, (recipe.beta1, recipe.beta2)
        return torch.optim.Adam([{"params": parameters}], lr=lr, betas=betas, eps=recipe.eps, foreach=True)

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """By embedding and by block with its attention."""
        with torch.device("meta"):
            g = networks.Generator(spec)
        out: dict[str, list[str]] = {}
        for key, _ in g.named_parameters():
            side = self.resolution_of(key)
            layer = "rgb" if key.startswith(("norm.", "rgb.")) else f"b{side}" if side else key.split(".")[0]
            out.setdefault(layer, []).append(key)
        return {layer: out.pop(layer) for layer in sorted(out, key=_position)}

    def resolution_of(self, key: str) -> int | None:
        if key.startswith("linear."):
            return 4
        match = re.match(r"(?:blocks|attention)\.(\d+)\.", key)
        return 8 << int(match[1]) if match else None

    def stages(self, spec: Spec) -> list[list[str]]:
        """By block with its attention, as FreezeD counts those of SNGAN."""
        with torch.device("meta"):
            d = networks.Discriminator(spec)
        out: list[list[str]] = [[] for _ in d.blocks]
        for key, _ in d.named_parameters():
            if match := re.match(r"(?:blocks|attention)\.(\d+)\.", key):
                out[int(match[1])].append(key)
        return out

    def filters(self, spec: Spec) -> Filters:
        """The convolutions of all blocks but D's first, and the layers that compute G's gains and shifts."""
        with torch.device("meta"):
            nets = networks.Generator(spec), networks.Discriminator(spec)
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
        """True of the layers that compute gains and shifts, and of the bias of the first map."""
        return key == "linear.bias" or bool(re.search(r"\.(gain|shift)\.", key))

    def fakes(self, g: networks.Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g(inputs)

    def discriminator_loss(self, context: StepContext, fakes: Tensor) -> dict[str, Tensor]:
        """The hinge loss. Generated and real images form one batch, as published: one power iteration."""
        images = torch.cat([context.augment(fakes, "fake_d"), context.augment(context.real_images, "real")])
        fake_logits, real_logits = context.d(images, _doubled(context.inputs)).chunk(2)
        context.real_logits = real_logits.detach()
        return {"d": self.loss_d(real_logits, fake_logits)}

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.hinge(real_logits) + losses.hinge(-fake_logits)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """The logit of each sample, [n, 1] -> [n], in place of log D(x).

        A discriminator trained with a hinge loss gives no probability. With its logit the Fisher information
        is the squared gradient of G's own loss.
        """
        return logits.flatten()

    def regularise(self, context: StepContext, network: NetworkName, step: int) -> dict[str, Tensor]:
        return {}


def _doubled(inputs: Inputs) -> Inputs:
    """The labels and features of two batches in one."""
    return Inputs(**{
        name: None if part is None else torch.cat([part, part])
        for name, part in (("y", inputs.y), ("h", inputs.h))
    })  # fmt: skip


def _position(layer: str) -> tuple[int, int]:
    """Sort key: embeddings, blocks by resolution, the last layer."""
    named = {"embed": (0, 0), "embed_h": (0, 1), "rgb": (2, 0)}
    return named.get(layer) or (1, int(layer.removeprefix("b")))
