"""FUNIT as a family: recipe, losses, import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.errors import FsgenError
from fsgen.families.funit import convert, networks
from fsgen.families.strict_loading import check
from fsgen.interfaces import (
    Converted,
    Family,
    Foreign,
    Inputs,
    NetworkName,
    Networks,
    Spec,
    StepContext,
    Trait,
)
from fsgen.nn import losses

WIDTH = 64  # channels at the picture's end, as published
PUBLISHED = 128  # px: what the published networks were trained on
LEAST = 32  # px: below, D's last maps are too small to be padded
FACTOR = 8  # a content is that much smaller than its picture


@dataclass(frozen=True)
class Recipe:
    """The published recipe, at every size, for 100,000 steps from scratch.

    Three things differ. G learns from a batch of its own, where the published loop shows it the one that D
    has just seen. Pictures are not cropped at random (128 px of 140). The average starts short, so that a
    run of a few hundred steps has one.
    """

    lr: float = 1e-4  # of RMSProp
    alpha: float = 0.99  # decay a step of its mean square of the gradient
    weight_decay: float = 1e-4
    batch: int = 64
    adversarial: float = 1.0  # weights of the terms, here to the end
    reconstruction: float = 0.1
    matching: float = 1.0  # of D's features
    penalty: float = 10.0  # of D's gradient; 0 switches it off
    ema_half_life: float = 693.0  # steps: decay 0.999 a step
    ema_rampup: float = 0.25  # half-life at most this share of the steps so far


class Fakes(NamedTuple):
    """Translations, and what they were made of."""

    images: Tensor  # [n, C, H, W] in (-1, 1)
    contents: Tensor  # [n, C', h, w], their contents as G encodes them


class FUNIT(Family):
    """Liu et al. 2019, "Few-Shot Unsupervised Image-to-Image Translation".

    Training takes ``content`` with its labels ``content_y``, and ``style`` with its labels ``y``. Afterwards
    a content is translated to classes that were never seen, by k pictures of one (``style``) or by their
    mean class code (``h``), without labels.
    """

    name = "funit"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.DISCRIMINATOR, Trait.STAGES, Trait.TRANSLATION})
    Recipe = Recipe

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks:
        return Networks(networks.Generator(spec), networks.Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published layers at every size; at 64 px contents have 8 px and D judges 4x4 patches.

        Args:
            size: of the picture's side in pixels; 128 as published.
            channels: 3, or 1 for grey.
            classes: to learn translation from; at least 2, and better many.
            width: channels at the picture's end, which the others are multiples of; default: 64, as
                published. For two CPU cores 16 or less.
        """
        if size < LEAST or size % FACTOR:
            hint = f"a multiple of {FACTOR} px, and at least {LEAST}"
            raise FsgenError(f"there is no FUNIT of {size} px", hint=hint)
        if channels not in (1, 3):
            raise FsgenError(f"there is no FUNIT of {channels} channels", hint="1 (grey) or 3 (colour)")
        if classes < 2:
            raise FsgenError(f"funit learns to translate between classes, and there are {classes}",
                             hint="train on at least two: one sub-folder a class, and --classes")  # fmt: skip
        nf = WIDTH if width is None else width
        if nf < 1:
            raise FsgenError(f"--width {nf} is too narrow", hint=f"1 is the least, {WIDTH} as published")
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
        """``gen_N.pt`` (both generators), with or without what ``dis_N.pt`` holds; or one G alone."""
        found = convert.networks(foreign)
        generators = {name: state for name, state in found.items() if convert.is_g(state)}
        lives = [state for name, state in generators.items() if name.endswith("gen")]
        averages = [state for name, state in generators.items() if not name.endswith("gen")]
        discriminators = {name: state for name, state in found.items() if convert.is_d(state)}
        if not generators:
            raise FsgenError(
                "a FUNIT's discriminator alone", hint="pull the file of its generators, gen_*.pt"
            )
        if max(map(len, (lives, averages, discriminators))) > 1:
            raise FsgenError("a file with more networks than one FUNIT has")
        try:
            g, g_ema = (convert.generator(part[0]) if part else None for part in (lives, averages))
            d = convert.discriminator(*discriminators.values()) if discriminators else None
            spec = convert.infer(g_ema if g_ema is not None else g, d) | {"resolution": PUBLISHED}
        except KeyError as error:
            raise FsgenError(f"a FUNIT checkpoint without the tensor {error}") from None
        except IndexError:
            raise FsgenError("a FUNIT checkpoint with weights that are no convolution's") from None
        with torch.device("meta"):
            empty = self.build(spec)
        for state, net, what in ((g, empty.g, "gen"), (g_ema, empty.g, "gen_test"), (d, empty.d, "dis")):
            if state is not None:
                check(net, state, f"a FUNIT '{what}'")
        notes = [f"no tensor shows the size of the pictures: {PUBLISHED} px, as published"]
        if d is None:
            notes.append("no discriminator in the file, which alone knows how many classes there were "
                         "(dis_N.pt is read where it lies beside gen_N.pt)")  # fmt: skip
        others = sorted(found.keys() - generators.keys() - discriminators.keys())
        notes += [f"left out, since no network of a FUNIT is of that shape: '{name}'" for name in others]
        return Converted(spec, g, g_ema, d, tuple(notes))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def optimiser(self, free: list[nn.Parameter], recipe: Recipe, who: NetworkName) -> torch.optim.Optimizer:
        """RMSProp, as published, of the parameters ``free`` of either player."""
        decay = {"alpha": recipe.alpha, "weight_decay": recipe.weight_decay}
        return torch.optim.RMSprop([{"params": free}], lr=recipe.lr, foreach=True, **decay)

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """By convolution, residual block and linear layer, in the order of the data."""
        with torch.device("meta"):
            keys = [key for key, _ in networks.Generator(spec).named_parameters()]
        out: dict[str, list[str]] = {}
        for key in keys:
            parts = key.split(".")[:-1]  # decoder.blocks.0.1 -> decoder.blocks.0
            out.setdefault(".".join(parts[:3]), []).append(key)
        return out

    def stages(self, spec: Spec) -> list[list[str]]:
        """The first convolution, then as the network has them, without its head."""
        with torch.device("meta"):
            d = networks.Discriminator(spec)
        return [
            [f"{name}.{key}" for key, _ in part.named_parameters()]
            for name, part in [("stem", d.stem), *((f"stages.{i}", s) for i, s in enumerate(d.stages))]
        ]

    def fakes(self, g: nn.Module, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Fakes:
        contents = g.content(inputs.content)
        return Fakes(g.decode(contents, g.class_code(inputs)), contents)

    def discriminator_loss(self, context: StepContext, fakes: Fakes) -> dict[str, Tensor]:
        """The paper's L_GAN as a hinge: reals and translations, each judged as of their class ``y``.

        The penalty is that of Mescheder et al. 2018 on reals, of the mean logit of the batch: |grad|^2
        shrinks with the squares of the batch and of the patches, as published.
        """
        recipe, real_images = context.recipe, context.real_images.detach().requires_grad_()
        real_logits = context.d(context.augment(real_images, "real"), context.inputs)
        context.real_logits = real_logits.detach()
        fake_logits = context.d(context.augment(fakes.images, "fake_d"), context.inputs)
        terms = {"d": recipe.adversarial * self.loss_d(real_logits, fake_logits)}
        if recipe.penalty:
            terms["penalty"] = recipe.penalty * losses.r1(real_logits / real_logits.numel(), real_images)
        return terms

    def generator_loss(self, context: StepContext, fakes: Fakes) -> dict[str, Tensor]:
        """L_GAN, L_R and L_F: to be taken for real, to rebuild the content, to match D's features.

        Beside the translation a content is drawn as its own class, with itself for the one picture of it.
        Features are matched for both, as published; the L_F of the paper has the translation's alone.
        """
        recipe, inputs = context.recipe, context.inputs
        itself = replace(inputs, style=inputs.content[:, None])
        rebuilt = context.g.decode(fakes.contents, context.g.class_code(itself))

        def seen(images: Tensor) -> Tensor:
            # All as one kind, so that what is compared was shown in the same way: augmented alike, say.
            return context.d.look(context.augment(images, "fake_g"))

        translated, again = seen(fakes.images), seen(rebuilt)
        with torch.no_grad():
            content = _pooled(seen(inputs.content))
            style = torch.stack([_pooled(seen(images)) for images in inputs.style.unbind(dim=1)]).mean(dim=0)
        g = self.loss_g(context.d.judge(translated, inputs.y))
        g = (g + self.loss_g(context.d.judge(again, inputs.content_y))) / 2
        return {
            "g": recipe.adversarial * g,
            "reconstruction": recipe.reconstruction * F.l1_loss(rebuilt, inputs.content),
            "matching_content": recipe.matching * F.l1_loss(_pooled(again), content),
            "matching_style": recipe.matching * F.l1_loss(_pooled(translated), style),
        }

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.hinge(real_logits) + losses.hinge(-fake_logits)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """The mean logit of each sample, [n, patches] -> [n]: a hinge gives no probability, see FastGAN."""
        return logits.mean(dim=1)

    def regularise(self, context: StepContext, who: NetworkName, step: int) -> dict[str, Tensor]:
        return {}


def _pooled(features: Tensor) -> Tensor:
    """[n, C, h, w] -> [n, C]"""
    return features.mean(dim=(2, 3))
