"""What a family says of itself, and what one training step hands to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Spec = dict[str, Any]
"""A family's architecture as plain values (JSON): what ``Family.build`` needs and nothing else."""

ImageKind = Literal["real", "fake_d", "fake_g"]
"""Whose images the critic is about to see: reals, fakes in its own step, fakes in the generator's step."""

NetworkName = Literal["g", "d"]
"""Which of the two networks."""


@dataclass(frozen=True)
class Inputs:
    """One batch of generator inputs; absent parts are None."""

    z: Tensor | None = None  # [n, z_dim] latents
    y: Tensor | None = None  # [n, classes] float: one-hot or soft labels
    h: Tensor | None = None  # [n, h_dim] features of an instance (IC-GAN)
    content: Tensor | None = None  # [n, C, H, W] in [-1, 1], what is to be translated (FUNIT)
    content_y: Tensor | None = None  # [n, classes] its label, for training
    style: Tensor | None = None  # [n, k, C, H, W] in [-1, 1], k images of the class it is translated to
    rows: Tensor | None = None  # [n] whole numbers: the real images that belong to them, where the data says
    mix: Tensor | None = None  # [n, z_dim] what styles are mixed with in training; else from the prior

    def __getitem__(self, rows: slice) -> Inputs:
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device | str) -> Inputs:
        return self._each(lambda part: part.to(device))

    def repeated(self, n: int, **changes: Tensor) -> Inputs:
        """One input n times, but for ``changes``, which hold n rows each."""
        return replace(self._each(lambda part: part.expand(n, *part.shape[1:])), **changes)

    def parts(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return Inputs(**{name: change(part) for name, part in self.parts().items()})


class Networks(NamedTuple):
    """The two players of one family, freshly built or loaded."""

    g: nn.Module  # Inputs -> [n, C, H, W] in about [-1, 1]
    d: nn.Module | None  # [n, C, H, W], Inputs -> [n, k] logits


class Layer(NamedTuple):
    """A layer whose filters are taken one by one; which axis counts them, its module knows."""

    pool: str  # what its filters are ranked with, of one network: "convolutions", "modulations"
    weight: str  # a parameter's name
    also: tuple[str, ...] = ()  # others, [filters] each, that share its filters' fate: a bias


class Filters(NamedTuple):
    """The layers of a family between the first and the last, for methods that choose among filters."""

    layers: Mapping[NetworkName, Sequence[Layer]]
    beside: frozenset[str]  # parameters of G's layers that belong to no filter, or are never held with one
    head: frozenset[str]  # of D: what makes a logit of the last features


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of somebody else's, read without executing anything in it, not yet understood."""

    layout: str  # "nvidia-pkl", "torch", "safetensors": how the file is written
    tensors: dict[str, dict[str, Tensor]]  # network name as the file has it -> key -> tensor
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # network -> dotted attribute -> value
    extras: dict[str, Any] = field(default_factory=dict)  # loose top-level values (latent_avg, ...)


@dataclass(frozen=True)
class Converted:
    """A foreign checkpoint in a family's own keys."""

    spec: Spec
    g: dict[str, Tensor] | None
    g_ema: dict[str, Tensor] | None
    d: dict[str, Tensor] | None
    notes: tuple[str, ...] = ()  # what was absent, inferred or computed, for the user to read


class Family(ABC):
    """Knows its networks, its losses and how to read other people's checkpoints of it. Holds no tensors."""

    name: ClassVar[str]
    traits: ClassVar[frozenset[str]]  # what a method may need: "latent", "discriminator", "w_space", ...
    Recipe: ClassVar[type]  # frozen dataclass of training defaults; ``recipe(spec)`` scales it
    helps: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # methods of its published training, their options
    mirrors: ClassVar[bool] = False  # whether its published training shows each image also flipped
    embeddings: ClassVar[tuple[str, ...]] = ()  # G's and D's tensors [k, classes]: a column for each class

    @abstractmethod
    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks:
        """Untrained networks of ``spec``."""

    @abstractmethod
    def recognise(self, foreign: Foreign) -> bool:
        """Whether ``foreign`` is a checkpoint of this family, by its keys and shapes alone."""

    @abstractmethod
    def convert(self, foreign: Foreign) -> Converted:
        """``foreign`` in this family's own keys; everything about the architecture is inferred."""

    @abstractmethod
    def recipe(self, spec: Spec) -> Any:
        """The published training recipe, scaled to the resolution of ``spec``."""

    @abstractmethod
    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """Parameters of G by layer, first to last, for per-layer tables and plots."""

    def stages(self, spec: Spec) -> list[list[str]]:
        """Parameters of D by stage, from the picture to the logit and in the order in which they are built,
        for methods that freeze the first of them; trait "stages". What is in none is always trained."""
        raise NotImplementedError

    def filters(self, spec: Spec) -> Filters:
        """What methods may choose filters from; of families with the trait of that name."""
        raise NotImplementedError

    def resolution_of(self, key: str) -> int | None:
        """The resolution in pixels at which the layer of G's tensor ``key`` works; None for the others.
        Trait "resolutions": there are several."""
        return None

    def scales(self, key: str) -> bool:
        """Whether G's tensor ``key`` scales or shifts whole channels, or makes what does."""
        return False

    @abstractmethod
    def fakes(self, g: nn.Module, inputs: Inputs, recipe: Any, rng: torch.Generator) -> Any:
        """Images as training makes them, [n, C, H, W], or several sizes of them: whatever the losses take."""

    def settle(  # noqa: B027 (not every family has something to do)
        self, g: nn.Module, draw: Callable[[int, torch.Generator], Inputs]
    ) -> None:
        """Recompute what is derived from the weights (a mean latent) once training is over; ``draw`` is what
        pictures are drawn from."""

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published architecture at ``size`` px, to be trained from scratch.

        Args:
            size: of the picture's side, pixels.
            channels: 3, or 1 for grey.
            classes: labels to be conditioned on; 0: none.
            width: channels, in the family's own measure; default: as published.

        Raises:
            FsgenError: no such size, or no such number of channels or classes, in this family.
        """
        raise NotImplementedError

    def embedding_gain(self, classes: int) -> float:
        """What a network multiplies its ``embeddings`` by when it runs (equalised learning rates)."""
        return 1.0

    def discriminator_loss(self, context: StepContext, fakes: Any) -> dict[str, Tensor]:
        """What the critic descends on, by name, added up: ``d`` is the adversarial part."""
        real_logits = context.d(context.view(context.real_images, "real"), context.inputs)
        context.judged(real_logits)
        fake_logits = context.d(context.view(fakes, "fake_d"), context.inputs)
        return {"d": self.loss_d(real_logits, fake_logits)}

    def generator_loss(self, context: StepContext, fakes: Any) -> dict[str, Tensor]:
        """What the generator descends on before a method adds its terms: ``g`` is the adversarial part."""
        return {"g": self.loss_g(context.d(context.view(fakes, "fake_g"), context.inputs))}

    def optimiser(self, free: list[nn.Parameter], recipe: Any, who: NetworkName) -> torch.optim.Optimizer:
        """What trains the parameters ``free`` of one player: Adam, where the family has no other.

        Lazy regularisation adds a step now and then; StyleGAN2, appendix B, corrects Adam for it.
        """
        import torch

        every = recipe.path_every if who == "g" else recipe.r1_every
        ratio = every / (every + 1) if every else 1.0
        betas = (recipe.beta1**ratio, recipe.beta2**ratio)
        # foreach: a quarter of the time on the CPU too. Not fused: on the CPU that silently mixes up tensors
        # whose memory layouts differ. A group, since a bare list may not be empty.
        return torch.optim.Adam([{"params": free}], lr=recipe.lr * ratio, betas=betas, foreach=True)

    @abstractmethod
    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The critic's adversarial loss, a scalar."""

    @abstractmethod
    def loss_g(self, fake_logits: Tensor) -> Tensor:
        """The generator's adversarial loss, a scalar."""

    @abstractmethod
    def log_likelihood(self, logits: Tensor) -> Tensor:
        """log D(x) of each sample, [n]: what the adversarial Fisher squares the gradient of."""

    @abstractmethod
    def regularise(self, context: StepContext, who: NetworkName, step: int) -> dict[str, Tensor]:
        """Lazy regularisers due at ``step``, by name, already multiplied by weight and interval."""


@dataclass
class StepContext:
    """What one training step works on; handed to a family's regularisers and to a method's terms."""

    g: nn.Module
    d: nn.Module
    recipe: Any
    real_images: Tensor  # [n, C, H, W] in [-1, 1], before any ``view``
    inputs: Inputs  # this step's draw; its labels also stand for the reals'
    draw: Callable[[int, torch.Generator], Inputs]  # more of them: (n, generator) -> n inputs
    view: Callable[[Tensor, ImageKind], Tensor]  # what the critic is shown of a batch
    rng: Callable[[str], torch.Generator]  # purpose -> generator of this step
    scalars: dict[str, Tensor]  # running means that outlive a step (path length); saved with the state
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None  # LPIPS of images in [-1, 1] -> [n]
    judged: Callable[[Tensor], None] = lambda real_logits: None  # told what the critic made of the reals
