"""BigGAN and IC-GAN: recipe, losses, conversion."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fsgen.families.adversarial import HingeFamily
from fsgen.families.biggan import convert
from fsgen.families.biggan.layers import SNLayer
from fsgen.families.biggan.networks import PUBLISHED, Discriminator, Generator
from fsgen.families.checks import check_channels, check_size, checked_width
from fsgen.families.conversion import (
    NO_DISCRIMINATOR,
    SINGLE_GENERATOR,
    check_networks,
    refuse_malformed,
    sort_networks,
)
from fsgen.families.parameters import grouped, parameter_names
from fsgen.interfaces import (
    Converted,
    Draw,
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
from fsgen.nn.batchnorm import refresh_buffers


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


class BigGAN(HingeFamily[Generator, Discriminator, Recipe]):
    """BigGAN (Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis"), also
    conditioned on instances (IC-GAN; Casanova et al. 2021, "Instance-Conditioned GAN")."""

    name = "biggan"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.FILTERS,
        Trait.CLASSES, Trait.INSTANCES, Trait.SCALES, Trait.STYLES,
    })  # fmt: skip
    mirrors = True
    embeddings = ("embed.weight", "embed.u")  # embed.u: of D, whose embedding has spectral norm one

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks[Generator, Discriminator]:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

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

    def refresh_statistics(self, g: Generator, draw: Draw) -> None:
        """Refresh the singular vectors and the standing statistics (Brock et al. 2019, appendix C)."""
        refresh_buffers(g, SNLayer, draw)

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

        def layer(key: str) -> str:
            side = self.resolution_of(key)
            return "rgb" if key.startswith(("norm.", "rgb.")) else f"b{side}" if side else key.split(".")[0]

        out = grouped(parameter_names(Generator, spec), layer)
        return {layer: out[layer] for layer in sorted(out, key=_position)}

    def resolution_of(self, key: str) -> int | None:
        if key.startswith("linear."):
            return 4
        block = _block(key)
        return None if block is None else 8 << block

    def stages(self, spec: Spec) -> list[list[str]]:
        """By block with its attention, as FreezeD counts those of SNGAN."""
        return list(grouped(parameter_names(Discriminator, spec), _block).values())

    def filters(self, spec: Spec) -> Filters:
        """The convolutions of all blocks but D's first, and the layers that compute G's gains and shifts."""
        g, d = parameter_names(Generator, spec), parameter_names(Discriminator, spec)

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

    def fakes(self, g: Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g(inputs)

    def discriminator_loss(self, context: StepContext, fakes: Tensor) -> dict[str, Tensor]:
        """The hinge loss. Generated and real images form one batch, as published: one power iteration."""
        images = torch.cat([context.augment(fakes, "fake_d"), context.augment(context.real_images, "real")])
        fake_logits, real_logits = context.d(images, _doubled(context.inputs)).chunk(2)
        context.real_logits = real_logits.detach()
        return {"d": self.loss_d(real_logits, fake_logits)}


def _doubled(inputs: Inputs) -> Inputs:
    """The labels and features of two batches in one."""
    parts = {name: part for name, part in inputs.parts().items() if name in ("y", "h")}
    return Inputs(**{name: torch.cat([part, part]) for name, part in parts.items()})


def _block(key: str) -> int | None:
    """The index of the block that a tensor of either network belongs to."""
    match = re.match(r"(?:blocks|attention)\.(\d+)\.", key)
    return int(match[1]) if match else None


def _position(layer: str) -> tuple[int, int]:
    """Sort key: embeddings, blocks by resolution, the last layer."""
    named = {"embed": (0, 0), "embed_h": (0, 1), "rgb": (2, 0)}
    return named.get(layer) or (1, int(layer.removeprefix("b")))
