"""The contract of a family, and the context of a training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

from fsgen.interfaces.networks import Discriminator, Generator, Inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Spec = dict[str, Any]
"""A family's architecture as plain values (JSON): all that ``Family.build`` needs."""

ImageKind = Literal["real", "fake_d", "fake_g"]
"""Images shown to the discriminator: real ones, generated ones in its own step or in the generator's step."""

NetworkName = Literal["g", "d"]
"""One of the two networks."""

Draw = Callable[[int, "torch.Generator"], Inputs]
"""(n, generator) -> n inputs"""


class Trait(StrEnum):
    """A capability of a family that methods may need."""

    LATENT = "latent"  # draws from a prior over z
    DISCRIMINATOR = "discriminator"  # is trained against a discriminator
    CLASSES = "classes"  # may be conditioned on labels
    INSTANCES = "instances"  # may be conditioned on features of an image (IC-GAN)
    TRANSLATION = "translation"  # redraws images as another class (FUNIT)
    RECONSTRUCTION = "reconstruction"  # D rebuilds real images (FastGAN)
    STAGES = "stages"  # ``Family.stages``: parts of D that can be frozen in order
    RESOLUTIONS = "resolutions"  # ``Family.resolution_of``: G has layers of several resolutions
    FILTERS = "filters"  # ``Family.filters``: filters of both networks can be selected
    SCALES = "scales"  # ``Family.scales``: some of G's parameters scale and shift channels
    STYLES = "styles"  # those are computed from the inputs (styles, conditional normalisation)
    W_SPACE = "w_space"  # ``StyleGenerator``: a mapping network and a style for each layer
    CONSTANT = "constant"  # G starts from a learned map
    TAPS = "taps"  # ``TappedGenerator`` and ``TappedDiscriminator``

    __hash__ = str.__hash__  # "latent" finds Trait.LATENT in a set


class TrainingRecipe(Protocol):
    """The fields of a recipe that the training loop reads, whatever the family."""

    @property
    def batch(self) -> int:
        """Images a step."""

    @property
    def lr(self) -> float:
        """Adam's learning rate."""

    @property
    def ema_half_life(self) -> float:
        """Half-life of the moving average of G, in steps."""

    @property
    def ema_rampup(self) -> float:
        """The half-life is at most this share of the steps so far."""


G = TypeVar("G", bound=Generator)
D = TypeVar("D", bound=Discriminator)
R = TypeVar("R", bound=TrainingRecipe)


class Networks(NamedTuple, Generic[G, D]):
    """Both networks of one family, freshly built or loaded."""

    g: G
    d: D | None


class Layer(NamedTuple):
    """A layer whose filters are selected one by one; its module knows which axis counts them."""

    pool: str  # filters are ranked within a pool of one network: "convolutions", "modulations"
    weight: str  # a parameter's name
    also: tuple[str, ...] = ()  # other parameters, [filters] each, that go with the filters: a bias


class Filters(NamedTuple):
    """The layers of a family between the first and the last, for methods that select filters."""

    layers: Mapping[NetworkName, Sequence[Layer]]
    beside: frozenset[str]  # parameters of G's layers that belong to no filter, or are never frozen with one
    head: frozenset[str]  # of D: the layers from the last features to the logit


@dataclass(frozen=True)
class Foreign:
    """Another program's checkpoint, read without executing anything in it, not yet converted."""

    layout: str  # file format: "nvidia-pkl", "torch", "safetensors"
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
    notes: tuple[str, ...] = ()  # absent, inferred or computed parts, for the user to read


class Family(ABC, Generic[G, D, R]):
    """Networks, losses and conversion of one kind of generator. Holds no tensors.

    ``class StyleGAN2(Family[Generator, Discriminator, Recipe])``
    """

    name: ClassVar[str]
    traits: ClassVar[frozenset[Trait]]
    training_methods: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # of its published training: options
    mirrors: ClassVar[bool] = False  # its published training also shows each image flipped
    embeddings: ClassVar[tuple[str, ...]] = ()  # G's and D's tensors [k, classes], a column for each class

    @abstractmethod
    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks[G, D]:
        """Build untrained networks of ``spec``."""

    @abstractmethod
    def recognise(self, foreign: Foreign) -> bool:
        """Tell from keys and shapes alone whether ``foreign`` is a checkpoint of this family."""

    @abstractmethod
    def convert(self, foreign: Foreign) -> Converted:
        """Convert ``foreign`` to this family's keys; the architecture is inferred.

        Raises:
            FsgenError: tensors are missing, or do not fit together.
        """

    @abstractmethod
    def recipe(self, spec: Spec) -> R:
        """The published training recipe, a frozen dataclass, scaled to the resolution of ``spec``."""

    @abstractmethod
    def layers(self, spec: Spec) -> dict[str, list[str]]:
        """G's parameters by layer, first to last, for tables and plots."""

    def stages(self, spec: Spec) -> list[list[str]]:
        """D's parameters by stage, from the image to the logit, in the order of construction; trait STAGES.

        Parameters in no stage are always trained.
        """
        raise NotImplementedError

    def filters(self, spec: Spec) -> Filters:
        """The layers whose filters methods may select; trait FILTERS."""
        raise NotImplementedError

    def resolution_of(self, key: str) -> int | None:
        """The resolution in pixels of the layer that G's tensor ``key`` belongs to; None outside of layers.

        With the trait RESOLUTIONS there are several.
        """
        return None

    def scales(self, key: str) -> bool:
        """Tell whether G's tensor ``key`` scales or shifts whole channels, or computes what does."""
        return False

    @abstractmethod
    def fakes(self, g: G, inputs: Inputs, recipe: R, rng: torch.Generator) -> Any:
        """Generate images for training: [n, C, H, W], or several sizes of them, as the losses take them."""

    def refresh_statistics(self, g: G, draw: Draw) -> None:
        """Refresh values derived from the weights (``w_avg``, running statistics) after training.

        ``draw`` gives the inputs that images of the finished model are drawn from.
        """

    def fresh(self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None) -> Spec:
        """The published architecture at ``size`` px, to be trained from scratch.

        Args:
            size: side of the images, pixels.
            channels: 3, or 1 for grey.
            classes: number of labels to condition on; 0: none.
            width: channels, in the family's own measure; default: as published.

        Raises:
            FsgenError: no such size, or no such number of channels or classes, in this family.
        """
        raise NotImplementedError

    def embedding_gain(self, classes: int) -> float:
        """The factor by which a network multiplies its ``embeddings`` (equalised learning rates)."""
        return 1.0

    def discriminator_loss(self, context: StepContext, fakes: Any) -> dict[str, Tensor]:
        """Losses of D by name; their sum is minimised, ``d`` is the adversarial part.

        Sets ``context.real_logits``.
        """
        real_logits = context.d(context.augment(context.real_images, "real"), context.inputs)
        context.real_logits = real_logits.detach()
        fake_logits = context.d(context.augment(fakes, "fake_d"), context.inputs)
        return {"d": self.loss_d(real_logits, fake_logits)}

    def generator_loss(self, context: StepContext, fakes: Any) -> dict[str, Tensor]:
        """Losses of G by name before methods add theirs; ``g`` is the adversarial part."""
        return {"g": self.loss_g(context.d(context.augment(fakes, "fake_g"), context.inputs))}

    def optimiser(
        self, parameters: list[nn.Parameter], recipe: Any, network: NetworkName
    ) -> torch.optim.Optimizer:
        """The optimiser of one network's trained ``parameters``: Adam by default.

        Lazy regularisation takes additional steps; Adam is corrected for them (StyleGAN2, appendix B).
        """
        import torch

        every = recipe.path_every if network == "g" else recipe.r1_every
        ratio = every / (every + 1) if every else 1.0
        betas = (recipe.beta1**ratio, recipe.beta2**ratio)
        # foreach: a quarter of the time on the CPU too. Not fused: on the CPU that silently mixes up tensors
        # whose memory layouts differ. A group, since a bare list may not be empty.
        return torch.optim.Adam([{"params": parameters}], lr=recipe.lr * ratio, betas=betas, foreach=True)

    @abstractmethod
    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The discriminator's adversarial loss, a scalar."""

    @abstractmethod
    def loss_g(self, fake_logits: Tensor) -> Tensor:
        """The generator's adversarial loss, a scalar."""

    @abstractmethod
    def log_likelihood(self, logits: Tensor) -> Tensor:
        """log D(x) of each sample, [n], for the adversarial Fisher information."""

    def regularise(self, context: StepContext, network: NetworkName, step: int) -> dict[str, Tensor]:
        """Lazy regularisers due at ``step``, by name, multiplied by weight and interval; default: none."""
        return {}


@dataclass
class StepContext:
    """One training step, as a family's losses and a method's terms see it."""

    g: Any  # the family's generator
    d: Any  # its discriminator, or what a method puts in its place: (images, inputs) -> logits
    recipe: Any  # the family's
    real_images: Tensor  # [n, C, H, W] in [-1, 1], before ``augment``
    inputs: Inputs  # of this step; their labels are the real images' as well
    draw: Draw  # further inputs, for regularisers and terms
    augment: Callable[[Any, ImageKind], Any]  # images as the discriminator sees them; gradients flow through
    rng: Callable[[str], torch.Generator]  # purpose -> generator of this step
    scalars: dict[str, Tensor]  # running means of regularisers (path length); saved with the state
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None  # LPIPS of images in [-1, 1] -> [n]
    real_logits: Tensor | None = None  # of D's own step, once known; no gradient
