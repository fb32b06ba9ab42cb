"""FUNIT: recipe, losses, conversion."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.errors import Code, FsgenError
from fsgen.families.adversarial import HingeFamily
from fsgen.families.checks import check_channels, checked_width, require
from fsgen.families.conversion import check_networks, refuse_malformed, sort_networks
from fsgen.families.funit import convert
from fsgen.families.funit.networks import Discriminator, Generator
from fsgen.families.parameters import grouped, parameter_names
from fsgen.interfaces import (
    Converted,
    Foreign,
    Inputs,
    NetworkName,
    Networks,
    Spec,
    StepContext,
    Trait,
)
from fsgen.nn import losses

WIDTH = 64  # channels next to the image, as published
PUBLISHED = 128  # px: resolution of the published training images
LEAST = 32  # px: below, D's last maps are too small to be padded
FACTOR = 8  # ratio of the sides of an image and its content


@dataclass(frozen=True)
class Recipe:
    """The published recipe, at every size, for 100,000 steps from scratch.

    Departures: G's step draws a batch of its own, where the published loop reuses that of D's step. Images
    are not cropped at random (128 px of 140). The moving average starts with a short half-life, so that a run
    of a few hundred steps has one.
    """

    lr: float = 1e-4  # of RMSProp
    alpha: float = 0.99  # decay a step of RMSProp's mean squared gradient
    weight_decay: float = 1e-4
    batch: int = 64
    adversarial: float = 1.0  # this and the next three: weights of the loss terms
    reconstruction: float = 0.1
    matching: float = 1.0  # of D's features
    penalty: float = 10.0  # on D's gradient; 0 switches it off
    ema_half_life: float = 693.0  # steps: decay 0.999 a step
    ema_rampup: float = 0.25  # the half-life is at most this share of the steps so far


class TranslatedImages(NamedTuple):
    """Translated images with their encoded contents."""

    images: Tensor  # [n, C, H, W] in (-1, 1)
    contents: Tensor  # [n, C', h, w]


class FUNIT(HingeFamily[Generator, Discriminator, Recipe]):
    """FUNIT: Liu et al. 2019, "Few-Shot Unsupervised Image-to-Image Translation".

    Inputs in training: ``content`` with its labels ``content_y``, and ``style`` with its labels ``y``.
    Afterwards a content is translated to an unseen class, given by k images (``style``) or by their mean
    class code (``h``), without labels.
    """

    name = "funit"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.DISCRIMINATOR, Trait.STAGES, Trait.TRANSLATION})

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks[Generator, Discriminator]:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published layers at every size; at 64 px contents have 8 px and D judges 4x4 patches.

        Args:
            size: resolution in pixels; 128 as published.
            channels: 3, or 1 for grey.
            classes: number of classes to translate between; at least 2, preferably many.
            width: channels next to the image, the unit of the others; default: 64, as published. For two CPU
                cores 16 or less.
        """
        if size < LEAST or size % FACTOR:
            raise FsgenError(f"FUNIT has no architecture for --size {size}", code=Code.OUT_OF_RANGE,
                             where="--size", hint=f"a multiple of {FACTOR}, at least {LEAST}")  # fmt: skip
        check_channels("FUNIT", channels)
        if classes < 2:
            raise FsgenError(f"funit translates between classes, and there are {classes}", code=Code.TOO_FEW,
                             where="--classes",
                             hint="train on at least two: one sub-folder a class, and --classes")  # fmt: skip
        nf = checked_width(width, WIDTH)
        return {
            "resolution": size, "channels": channels, "c_dim": classes,
            "content_widths": [nf, 2 * nf, 4 * nf, 8 * nf], "content_blocks": 2,
            "class_widths": [nf, 2 * nf, 4 * nf, 4 * nf, 4 * nf], "latent_dim": 64, "mlp_widths": [256, 256],
            "decoder_blocks": 2, "decoder_widths": [4 * nf, 2 * nf, nf],
            "d_widths": convert.d_widths(nf),
        }  # fmt: skip

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(convert.is_g(s) or convert.is_d(s) for s in convert.networks(foreign).values())

    def convert(self, foreign: Foreign) -> Converted:
        """Convert ``gen_N.pt`` (both generators), with or without the network of ``dis_N.pt``; or one G."""
        states = convert.networks(foreign)
        found = sort_networks(
            "FUNIT", states, convert.is_g, convert.is_d, lambda name: not name.endswith("gen")
        )
        with refuse_malformed("FUNIT"):
            found = found.converted(convert.convert_g, convert.convert_d)
            spec = convert.infer(found.generator, found.d) | {"resolution": PUBLISHED}
        with torch.device("meta"):
            check_networks("FUNIT", self.build(spec), found, ("gen", "gen_test", "dis"))
        notes = [f"no tensor depends on the resolution: taken for {PUBLISHED} px, as published"]
        if found.d is None:
            notes.append("no discriminator in the file, and so no number of classes (dis_N.pt is read where "
                         "it lies beside gen_N.pt)")  # fmt: skip
        others = sorted(
            name for name, state in states.items() if not convert.is_g(state) and not convert.is_d(state)
        )
        notes += [f"'{name}' is left out: no network of FUNIT" for name in others]
        return Converted(spec, *found, tuple(notes))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def optimiser(
        self, parameters: list[nn.Parameter], recipe: Recipe, network: NetworkName
    ) -> torch.optim.Optimizer:
        """RMSProp, as published, for either network."""
        return torch.optim.RMSprop(
            [{"params": parameters}],
            lr=recipe.lr,
            alpha=recipe.alpha,
            weight_decay=recipe.weight_decay,
            foreach=True,
        )

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """By convolution, residual block and linear layer, in the order of the data."""
        names = parameter_names(Generator, spec)  # decoder.blocks.0.1.bias belongs to decoder.blocks.0
        return grouped(names, lambda key: ".".join(key.split(".")[:-1][:3]))

    def stages(self, spec: Spec) -> list[list[str]]:
        """The first convolution, then the network's own stages; without its head."""
        names = [name for name in parameter_names(Discriminator, spec) if not name.startswith("head.")]
        return list(grouped(names, lambda key: re.findall(r"stem|stages\.\d+", key)[0]).values())

    def fakes(self, g: Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> TranslatedImages:
        contents = g.content(require(inputs, "content"))
        return TranslatedImages(g.decode(contents, g.class_code(inputs)), contents)

    def discriminator_loss(self, context: StepContext, fakes: TranslatedImages) -> dict[str, Tensor]:
        """The paper's L_GAN as a hinge loss; real images and translations are judged as of class ``y``.

        The penalty is R1 (Mescheder et al. 2018) on the mean logit of the batch: |grad|^2 shrinks with the
        squares of batch and patches, as published.
        """
        recipe, real_images = context.recipe, context.real_images.detach().requires_grad_()
        real_logits = context.d(context.augment(real_images, "real"), context.inputs)
        context.real_logits = real_logits.detach()
        fake_logits = context.d(context.augment(fakes.images, "fake_d"), context.inputs)
        terms = {"d": recipe.adversarial * self.loss_d(real_logits, fake_logits)}
        if recipe.penalty:
            terms["penalty"] = recipe.penalty * losses.r1(real_logits / real_logits.numel(), real_images)
        return terms

    def generator_loss(self, context: StepContext, fakes: TranslatedImages) -> dict[str, Tensor]:
        """L_GAN, L_R (reconstruct the content image) and L_F (match D's features).

        Each content image is also translated to its own class, given by itself. Features are matched for
        both, as published; the paper's L_F has the translation's alone.
        """
        recipe, inputs = context.recipe, context.inputs
        content, style = require(inputs, "content"), require(inputs, "style")
        rebuilt = context.g.decode(
            fakes.contents, context.g.class_code(replace(inputs, style=content[:, None]))
        )

        def features(images: Tensor) -> Tensor:
            # The same kind for all, so that the compared images are augmented alike.
            return context.d.last_features(context.augment(images, "fake_g"))

        translated, again = features(fakes.images), features(rebuilt)
        with torch.no_grad():
            of_content = _pooled(features(content))
            of_style = torch.stack([_pooled(features(images)) for images in style.unbind(dim=1)]).mean(dim=0)
        g = self.loss_g(context.d.logits(translated, require(inputs, "y")))
        g = (g + self.loss_g(context.d.logits(again, require(inputs, "content_y")))) / 2
        return {
            "g": recipe.adversarial * g,
            "reconstruction": recipe.reconstruction * F.l1_loss(rebuilt, content),
            "matching_content": recipe.matching * F.l1_loss(_pooled(again), of_content),
            "matching_style": recipe.matching * F.l1_loss(_pooled(translated), of_style),
        }


def _pooled(features: Tensor) -> Tensor:
    """[n, C, h, w] -> [n, C]"""
    return features.mean(dim=(2, 3))
