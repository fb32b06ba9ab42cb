"""The first conditional GAN (Mirza & Osindero 2014): two perceptrons for images of MNIST's size.

Without classes only the branches of the label are absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError
from fsgen.families.adversarial import LogisticFamily
from fsgen.families.checks import check_size, checked_width, require
from fsgen.families.parameters import grouped, parameter_names
from fsgen.families.priors import draw_latents
from fsgen.interfaces import (
    Converted,
    Foreign,
    Inputs,
    Networks,
    Spec,
    StepContext,
    Trait,
)

SPREAD = 12**0.5  # scales uniform z to variance 1; with less, the label dominates: one image a class


class Maxout(nn.Module):
    """The maximum of ``pieces`` affine maps for each unit (Goodfellow et al. 2013).

    [n, inputs] -> [n, units]
    """

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, units * pieces)
        self.shape = (units, pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, self.shape).amax(dim=2)


def drop(x: Tensor, share: float, rng: torch.Generator | None) -> Tensor:
    """Dropout of a ``share`` of the units, or none without ``rng``.

    The mask depends on ``rng`` alone, so that resuming a run reproduces it.
    """
    if rng is None or not share:
        return x
    kept = torch.rand(x.shape, generator=rng, device=rng.device) >= share
    return x * kept.to(x.device) / (1 - share)


class Generator(nn.Module):
    """z and label, each through a layer of its own, joined in a third; a sigmoid gives the image."""

    uniform = True  # z is uniform in the unit cube

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.z_dim, self.c_dim = spec["z_dim"], spec["c_dim"]
        self.shape = (spec["channels"], spec["resolution"], spec["resolution"])
        widths = spec["g_widths"]
        self.z = nn.Linear(self.z_dim, widths["z"])
        if self.c_dim:
            self.y = nn.Linear(self.c_dim, widths["y"])
        self.joint = nn.Linear(widths["z"] + (widths["y"] if self.c_dim else 0), widths["joint"])
        self.out = nn.Linear(widths["joint"], spec["channels"] * spec["resolution"] ** 2)

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """z uniform in the unit cube, and a random class where there are classes."""
        return draw_latents(n, self.z_dim, self.c_dim, rng, torch.rand)

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: str = "const",
        rng: torch.Generator | None = None, dropout: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] in [-1, 1].

        ``truncation`` pulls z to the middle of the cube; ``noise`` has no effect. ``rng`` draws the masks of
        dropout, which drops a share ``dropout`` of each layer in training.
        """
        hidden = [self.z((require(inputs, "z") - 0.5) * (truncation * SPREAD))]
        if self.c_dim:
            hidden.append(self.y(require(inputs, "y")))
        x = drop(torch.cat(hidden, dim=1).relu(), dropout, rng)
        x = drop(self.joint(x).relu(), dropout, rng)
        return self.out(x).sigmoid().unflatten(1, self.shape) * 2 - 1


class Discriminator(nn.Module):
    """Image and label, each through a maxout layer of its own, joined in a third."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.c_dim = spec["c_dim"]
        widths, pieces = spec["d_widths"], spec["d_pieces"]
        self.x = Maxout(spec["channels"] * spec["resolution"] ** 2, widths["x"], pieces["x"])
        if self.c_dim:
            self.y = Maxout(self.c_dim, widths["y"], pieces["y"])
        inputs = widths["x"] + (widths["y"] if self.c_dim else 0)
        self.joint = Maxout(inputs, widths["joint"], pieces["joint"])
        self.out = nn.Linear(widths["joint"], 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """The image's maxout layer, as a map of one position: [n, units, 1, 1]."""
        return [self._image_units(images)[:, :, None, None]]

    def _image_units(self, images: Tensor) -> Tensor:
        return self.x((images.flatten(1) + 1) / 2)  # the paper's images are in [0, 1]

    def forward(
        self, images: Tensor, inputs: Inputs | None = None, *, rng: torch.Generator | None = None,
        dropout: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] -> [n, 1] logits; ``rng`` and ``dropout`` as in the generator."""
        hidden = [self._image_units(images)]
        if self.c_dim:
            hidden.append(self.y(require(inputs, "y")))
        x = drop(torch.cat(hidden, dim=1), dropout, rng)
        return self.out(drop(self.joint(x), dropout, rng))


@dataclass(frozen=True)
class Recipe:
    """Batch and dropout of Mirza & Osindero 2014, section 4.1, with another optimiser.

    The paper uses SGD with a learning rate from 0.1 to 1e-6, divided by 1.00004 a step, and a momentum from
    0.5 to 0.7. Adam learns scikit-learn's digits in 1,000 steps, correct and varied for each class; the
    paper's optimiser learns none in as many.
    """

    lr: float = 1e-3  # DCGAN's 2e-4 learns no digits in 1,000 steps
    beta1: float = 0.5
    beta2: float = 0.999
    batch: int = 100
    dropout: float = 0.5  # share of each layer's units, in both networks
    r1_every: int = 0  # no lazy regularisers
    path_every: int = 0
    # The paper has no moving average (0 steps: g_ema = g); it has the higher Parzen likelihood.
    ema_half_life: float = 100.0
    ema_rampup: float = 0.25


SIZES = (8, 16, 28, 32)  # px; the paper has MNIST's 28
G_WIDTHS = {"z": 200, "y": 1000, "joint": 1200}
D_WIDTHS = {"x": 240, "y": 50, "joint": 240}


class CGAN(LogisticFamily[Generator, Discriminator, Recipe]):
    """The conditional GAN of Mirza & Osindero 2014, "Conditional Generative Adversarial Nets"."""

    name = "cgan"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.LATENT, Trait.DISCRIMINATOR, Trait.CLASSES})
    embeddings = ("y.weight", "y.linear.weight")  # of G, of D

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks[Generator, Discriminator]:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published layers; ``width``: units of G's joint layer, the others in proportion."""
        check_size("cGAN", size, SIZES)
        share = checked_width(width, G_WIDTHS["joint"], least=24) / G_WIDTHS["joint"]
        return {
            "resolution": size,
            "channels": channels,
            "z_dim": 100,
            "c_dim": classes,
            "g_widths": {name: round(share * units) for name, units in G_WIDTHS.items()},
            "d_widths": {name: round(share * units) for name, units in D_WIDTHS.items()},
            "d_pieces": {"x": 5, "y": 5, "joint": 4},
        }

    def recognise(self, foreign: Foreign) -> bool:
        return False  # there are no public checkpoints

    def convert(self, foreign: Foreign) -> Converted:
        raise FsgenError("there is no public checkpoint layout of cGAN", code=Code.UNSUPPORTED, where="cgan")

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        return grouped(parameter_names(Generator, spec), lambda key: key.partition(".")[0])

    def fakes(self, g: Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g(inputs, rng=rng, dropout=recipe.dropout)

    def discriminator_loss(self, context: StepContext, fakes: Tensor) -> dict[str, Tensor]:
        real_logits = self._logits(context, context.augment(context.real_images, "real"), "dropout real")
        context.real_logits = real_logits.detach()
        fake_logits = self._logits(context, context.augment(fakes, "fake_d"), "dropout fake d")
        return {"d": self.loss_d(real_logits, fake_logits)}

    def generator_loss(self, context: StepContext, fakes: Tensor) -> dict[str, Tensor]:
        return {"g": self.loss_g(self._logits(context, context.augment(fakes, "fake_g"), "dropout fake g"))}

    def _logits(self, context: StepContext, images: Tensor, purpose: str) -> Tensor:
        return context.d(images, context.inputs, rng=context.rng(purpose), dropout=context.recipe.dropout)
