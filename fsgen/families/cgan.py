"""The first conditional GAN (Mirza & Osindero 2014): two perceptrons for pictures of MNIST's size.

Without classes the branches of the label are absent and nothing else differs, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fsgen.errors import FsgenError
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

SPREAD = 12**0.5  # a uniform z of unit variance: a smaller one drowns in the label, one picture a class


class Maxout(nn.Module):
    """The largest of ``pieces`` affine maps, by unit (Goodfellow et al. 2013): [n, inputs] -> [n, units]."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, units * pieces)
        self.shape = (units, pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, self.shape).amax(dim=2)


def drop(x: Tensor, share: float, rng: torch.Generator | None) -> Tensor:
    """Dropout of a ``share`` of the units, the rest scaled up; all of them without ``rng``.

    The mask comes from ``rng`` alone, so that a resumed run drops what the uninterrupted one did.
    """
    if rng is None or not share:
        return x
    kept = torch.rand(x.shape, generator=rng, device=rng.device) >= share
    return x * kept.to(x.device) / (1 - share)


class Generator(nn.Module):
    """z and label, each through a layer of its own, joined in a third; a sigmoid draws."""

    uniform = True  # z fills a cube

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
        """n inputs from the prior: z uniform in the unit cube, and a class at random where there are some."""
        z = torch.rand(n, self.z_dim, generator=rng, device=rng.device)
        if not self.c_dim:
            return Inputs(z=z)
        classes = torch.randint(self.c_dim, (n,), generator=rng, device=rng.device)
        return Inputs(z=z, y=nn.functional.one_hot(classes, self.c_dim).float())

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: str = "const",
        rng: torch.Generator | None = None, dropout: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] in [-1, 1].

        ``truncation`` pulls z to the middle of the cube; there is no noise to name. ``rng`` draws what
        training drops: a share ``dropout`` of each layer.
        """
        hidden = [self.z((inputs.z - 0.5) * (truncation * SPREAD))]
        if self.c_dim:
            hidden.append(self.y(inputs.y))
        x = drop(torch.cat(hidden, dim=1).relu(), dropout, rng)
        x = drop(self.joint(x).relu(), dropout, rng)
        return self.out(x).sigmoid().unflatten(1, self.shape) * 2 - 1


class Discriminator(nn.Module):
    """Picture and label, each through maxout units of its own, joined in a third layer of them."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.c_dim = spec["c_dim"]
        widths, pieces = spec["d_widths"], spec["d_pieces"]
        self.x = Maxout(spec["channels"] * spec["resolution"] ** 2, widths["x"], pieces["x"])
        if self.c_dim:
            self.y = Maxout(self.c_dim, widths["y"], pieces["y"])
        seen = widths["x"] + (widths["y"] if self.c_dim else 0)
        self.joint = Maxout(seen, widths["joint"], pieces["joint"])
        self.out = nn.Linear(widths["joint"], 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """What the picture's own units say, as one map of one position: [n, units, 1, 1]."""
        return [self._seen(images)[:, :, None, None]]

    def _seen(self, images: Tensor) -> Tensor:
        return self.x((images.flatten(1) + 1) / 2)  # the paper's pictures are in [0, 1]

    def forward(
        self, images: Tensor, inputs: Inputs | None = None, *, rng: torch.Generator | None = None,
        dropout: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """[n, C, H, W] -> [n, 1] logits; ``rng`` and ``dropout`` as in the generator."""
        hidden = [self._seen(images)]
        if self.c_dim:
            hidden.append(self.y(inputs.y))
        x = drop(torch.cat(hidden, dim=1), dropout, rng)
        return self.out(drop(self.joint(x), dropout, rng))


@dataclass(frozen=True)
class Recipe:
    """Batch and dropout of Mirza & Osindero 2014, section 4.1; the optimiser is not theirs.

    They descend by SGD with a learning rate from 0.1 to 1e-6, divided by 1.00004 an update, and a momentum
    from 0.5 to 0.7. Here it is Adam, the optimiser of all families: on scikit-learn's digits, with the input
    of unit variance, classes come out right and varied after 1,000 steps, where theirs has not begun to draw.
    """

    lr: float = 1e-3  # with DCGAN's 2e-4 it draws no digits after 1,000 steps, at 1e-3 it does
    beta1: float = 0.5
    beta2: float = 0.999
    batch: int = 100
    dropout: float = 0.5  # share of each layer's units, in both networks
    r1_every: int = 0  # no lazy regulariser
    path_every: int = 0
    # Not in the paper; 0 steps would be that: g_ema = g. The average is the better one by Parzen windows.
    ema_half_life: float = 100.0
    ema_rampup: float = 0.25


SIZES = (8, 16, 28, 32)  # px; the paper's are MNIST's 28
G_WIDTHS = {"z": 200, "y": 1000, "joint": 1200}
D_WIDTHS = {"x": 240, "y": 50, "joint": 240}


class CGAN(Family):
    """Mirza & Osindero 2014, "Conditional Generative Adversarial Nets"."""

    name = "cgan"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.LATENT, Trait.DISCRIMINATOR, Trait.CLASSES})
    Recipe = Recipe
    embeddings = ("y.weight", "y.linear.weight")  # of G, of D

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """``width``: units of the generator's joint layer, 1200 as published; the others in proportion."""
        if size not in SIZES:
            raise FsgenError(
                f"there is no conditional perceptron of {size} px",
                hint=f"one of {', '.join(map(str, SIZES))}",
            )
        share = 1.0 if width is None else width / G_WIDTHS["joint"]
        if share < 0.02:
            raise FsgenError(f"--width {width} is too narrow", hint="24 is the least, 1200 as published")
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
        return False  # nobody's files of it are public

    def convert(self, foreign: Foreign) -> Converted:
        raise FsgenError("there is no public checkpoint layout of Mirza & Osindero's networks")

    def recipe(self, spec: Spec) -> Recipe:
        return Recipe()

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        with torch.device("meta"):
            g = Generator(spec)
        out: dict[str, list[str]] = {}
        for key, _ in g.named_parameters():
            out.setdefault(key.partition(".")[0], []).append(key)
        return out

    def fakes(self, g: nn.Module, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g(inputs, rng=rng, dropout=recipe.dropout)

    def discriminator_loss(self, context: StepContext, fakes: Tensor) -> dict[str, Tensor]:
        real_logits = self._judge(context, context.augment(context.real_images, "real"), "dropout real")
        context.real_logits = real_logits.detach()
        fake_logits = self._judge(context, context.augment(fakes, "fake_d"), "dropout fake d")
        return {"d": self.loss_d(real_logits, fake_logits)}

    def generator_loss(self, context: StepContext, fakes: Tensor) -> dict[str, Tensor]:
        return {"g": self.loss_g(self._judge(context, context.augment(fakes, "fake_g"), "dropout fake g"))}

    def _judge(self, context: StepContext, images: Tensor, purpose: str) -> Tensor:
        return context.d(images, context.inputs, rng=context.rng(purpose), dropout=context.recipe.dropout)

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.logistic_d(real_logits, fake_logits)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return losses.nonsaturating_g(fake_logits)

    def log_likelihood(self, logits: Tensor) -> Tensor:
        return losses.log_sigmoid(logits)

    def regularise(self, context: StepContext, who: NetworkName, step: int) -> dict[str, Tensor]:
        return {}
