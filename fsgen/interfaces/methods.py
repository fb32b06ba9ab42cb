"""The contract of a method, and the context training gives to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar, cast

from fsgen.interfaces.families import Family, ImageKind, NetworkName, Spec, StepContext, Trait
from fsgen.interfaces.networks import Discriminator, Generator, Inputs, Module

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Rng = Callable[[str], "torch.Generator"]
"""purpose -> generator of this step"""

Judge = Callable[..., "Tensor"]
"""(images, inputs) -> logits"""


class Claim(StrEnum):
    """A decision that only one method of a stack may make."""

    LATENTS = "which latents are drawn"  # the inputs G is trained on
    FREEZING = "how weights are constrained"  # a penalty or a parametrisation of the weights
    WEIGHTS_G = "which weights of G are trained"
    WEIGHTS_D = "which weights of D are trained"
    DISCRIMINATOR = "what computes the logits"
    LOSS = "the loss"  # in place of the adversarial loss

    __hash__ = str.__hash__


@dataclass(frozen=True)
class TrialRun:
    """A short training from theta_S that is thrown away."""

    g: Generator  # the moving average
    d: Discriminator
    change: Mapping[str, Tensor]  # theta - theta_S by parameter name of G
    pull: Mapping[str, Tensor]  # root mean square of the gradient of each trained parameter (Adam's)


@dataclass
class TrainingState:
    """Everything that changes in training; a resumed run gets it back exactly."""

    g: Any  # the family's generator
    d: Any  # its discriminator
    g_ema: Any  # the moving average of g
    opt_g: torch.optim.Optimizer
    opt_d: torch.optim.Optimizer
    trained: dict[NetworkName, dict[str, nn.Parameter]]  # the trained parameters of each network, by name
    scalars: dict[str, Tensor] = field(default_factory=dict)  # running means of the family's regularisers
    step: int = 0  # steps done
    real_logits: Tensor | None = None  # of the discriminator's last step


class TrialRuns(Protocol):
    def __call__(self, steps: int, method: Method | None = None) -> TrialRun:
        """Train for ``steps`` from theta_S with ``method``, or plainly."""


class Information(Protocol):
    def __call__(
        self, g: Generator, d: Discriminator, samples: int, seed: int, *, report_progress: bool = False
    ) -> dict[NetworkName, dict[str, Tensor]]:
        """The diagonal Fisher information of both networks as they are, by parameter name."""


class FrozenNetworks(Protocol):
    def __call__(self, name: str, **options: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        """The frozen network called ``name``: images [n, C, H, W] in [-1, 1] -> feature maps by layer.

        Raises:
            FsgenError: its weights are not on this machine.
        """


@dataclass(frozen=True)
class MethodContext:
    """The means of a method before step 0."""

    family: Family
    spec: Spec
    source: Any  # G at theta_S, frozen
    recipe: Any  # the family's
    steps: int
    shots: int  # how many images
    device: torch.device
    seed: int
    fisher: Callable[[int, str], Mapping[str, Tensor]]  # (samples, proxy) -> diagonal by parameter name of G
    trial_run: TrialRuns
    information: Information
    frozen_network: FrozenNetworks
    say: Callable[[str], None]  # a line for the user
    pretrained: frozenset[NetworkName] = frozenset({"g", "d"})  # networks that the source has trained


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that has none."""


OptionsT = TypeVar("OptionsT")
F = TypeVar("F", bound=Callable[..., Any])


def combined(how: Literal["each", "all", "merged", "chained", "stored"]) -> Callable[[F], F]:
    """Declare how a stack combines a hook of its methods, in the order given.

    each: call them all. all: True if all return True. merged: unite the returned dicts. chained: pass what
    one returns to the next as its first argument. stored: as merged, as ``METHOD.name``, last method first.
    """

    def declare(hook: F) -> F:
        hook.combined = how  # type: ignore[attr-defined]  # read by methods.stack
        return hook

    return declare


class Technique(Generic[OptionsT]):
    """A named way from images to a result, with options: a ``Method`` or a ``TrainingFree`` one."""

    name: ClassVar[str]
    summary: ClassVar[str]  # the mechanism in one line
    paper: ClassVar[str]
    trained: ClassVar[str] = "all of G and D"  # in words
    licence: ClassVar[str] = ""  # of the published code
    needs: frozenset[Trait] = frozenset()  # traits of the family it requires
    adapts: ClassVar[bool] = False  # makes no sense without a source
    starts: ClassVar[Literal["g", "g_ema"]] = "g"  # the source's generator to start from
    Options: ClassVar[type] = NoOptions
    """A frozen dataclass, one field a flag ``--NAME-FIELD``; ``help`` and ``choices`` in its metadata.

    A method replaces ``self.options`` by resolved ones where an option is ``auto``; runs record those.
    """

    def __init__(self, options: OptionsT | None = None) -> None:
        self.options: OptionsT = cast("OptionsT", self.Options()) if options is None else options


class TrainingFree(Technique[OptionsT]):
    """Trains nothing: new conditions for the source, or images in place of a model."""

    trained = "nothing"
    adapts = True


class Method(Technique[OptionsT]):
    """Chooses what is trained, added to the loss and shown to the discriminator. Defaults change nothing.

    Order of calls: ``recipe``; ``setup``, ``add_modules``, ``trains``; in each step ``before_step``,
    ``transform_inputs``, ``discriminator``, ``augment``, ``loss_terms``, ``mask_gradients`` before each
    optimiser step, ``after_step``; ``export`` at the end; ``prepare_inputs`` when the finished model draws.

    ``buffers`` holds every tensor that a resumed run needs; added modules are saved with the networks. In a
    resumed run ``buffers`` is filled before ``setup`` is called.
    """

    claims: frozenset[Claim] = frozenset()
    adversarial: ClassVar[bool] = True  # there is a discriminator in training
    adds_parameters: ClassVar[bool] = False  # ``add_modules`` adds parameters of G that are trained
    frozen_statistics: ClassVar[bool] = False  # G is trained in evaluation mode

    def __init__(self, options: OptionsT | None = None) -> None:
        super().__init__(options)
        self.buffers: dict[str, Tensor] = {}

    # ---- before step 0 -------------------------------------------------------------------------------

    @combined("merged")
    def recipe(self, family: Family, spec: Spec, shots: int) -> dict[str, Any]:
        """Fields of the family's recipe to replace, by name."""
        return {}

    @combined("each")
    def setup(self, context: MethodContext) -> None:
        """Prepare what takes time; with ``buffers`` filled, a run is resumed."""

    @combined("each")
    def add_modules(self, g: Module, d: Module) -> None:
        """Add what is trained besides: a module called ``name``, or a parametrisation of a weight."""

    @combined("all")
    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Tell whether the source's parameter ``name`` is trained. Added modules always are."""
        return True

    # ---- in each step --------------------------------------------------------------------------------

    @combined("each")
    def before_step(self, state: TrainingState) -> None:
        """Called before step ``state.step``."""

    @combined("chained")
    def transform_inputs(self, inputs: Inputs, g: Any, rng: torch.Generator, shown: bool) -> Inputs:
        """Replace the inputs of G in training; gradients may flow through.

        ``shown``: the discriminator sees the images; otherwise a regulariser or a loss term does.
        """
        return inputs

    @combined("chained")
    def discriminator(self, d: Any) -> Judge:
        """Replace the discriminator: (images, inputs) -> logits."""
        return d

    @combined("chained")
    def augment(self, images: Tensor, kind: ImageKind, rng: Rng) -> Tensor:
        """Transform images [n, C, H, W] before the discriminator sees them; gradients must flow through."""
        return images

    @combined("merged")
    def loss_terms(self, context: StepContext) -> dict[str, Tensor]:
        """Scalars to add to the generator's loss, by the name they have in the log."""
        return {}

    @combined("each")
    def mask_gradients(self, network: NetworkName, net: Module) -> None:
        """Change gradients, or weights, just before the optimiser step. No gradient: no change."""

    @combined("merged")
    def after_step(self, state: TrainingState) -> dict[str, Tensor]:
        """Update running statistics (``state.real_logits``); returns scalars for the log, by name."""
        return {}

    # ---- afterwards ----------------------------------------------------------------------------------

    @combined("stored")
    def export(self, net: Module) -> dict[str, Tensor]:
        """Undo ``add_modules``: fold it into ``net``; return, by name, what does not fold and is stored."""
        return {}

    @staticmethod
    def prepare_inputs(stored: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
        """The inputs of a finished model's G, given what ``export`` of G returned."""
        return inputs
