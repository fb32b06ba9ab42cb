"""What a method says of itself, and what the engine hands to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fsgen.interfaces.families import Family, ImageKind, Inputs, NetworkName, Spec, StepContext

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CLAIMS = frozenset({"what latents are drawn", "how weights are held", "which weights of G stay",
                    "which weights of D stay", "what judges", "the loss"})  # fmt: skip
"""What a method may claim: see ``Method.claims``."""


@dataclass(frozen=True)
class TrialRun:
    """A short training from theta_S that is thrown away."""

    g: nn.Module  # the moving average
    d: nn.Module
    change: Mapping[str, Tensor]  # theta - theta_S by parameter name of G
    pull: Mapping[str, Tensor]  # root mean square of the gradient of each that was trained, as Adam has it


@dataclass
class TrainingState:
    """All that changes while training; what a resumed run must get back exactly."""

    g: nn.Module
    d: nn.Module
    g_ema: nn.Module
    opt_g: torch.optim.Optimizer
    opt_d: torch.optim.Optimizer
    free: dict[str, dict[str, nn.Parameter]]  # of "g" and of "d": what is trained, by name
    scalars: dict[str, Tensor] = field(default_factory=dict)  # running means of the family's regularisers
    step: int = 0  # steps done


@dataclass(frozen=True)
class MethodContext:
    """What a method may ask of the engine before step 0."""

    family: Family
    spec: Spec
    source: nn.Module  # G at theta_S, frozen
    layers: dict[str, list[str]]
    recipe: Any
    steps: int
    shots: int
    device: torch.device
    seed: int
    fisher: Callable[[int, str], Mapping[str, Tensor]]  # (samples, proxy) -> diagonal by parameter name
    trial_run: Callable[..., TrialRun]  # (steps, a method or none) -> what so many steps of it do
    information: Callable[
        ..., dict[NetworkName, dict[str, Tensor]]
    ]  # (g, d, samples, seed) -> Fisher of both
    say: Callable[[str], None]  # a line for the person at the terminal
    pretrained: frozenset[NetworkName] = frozenset({"g", "d"})  # which networks a source has trained
    vgg: Callable[..., Callable[[Tensor], dict[str, Tensor]]] | None = None  # see ``fsgen.features.vgg``


class Method:
    """What to train, what to add to the loss and what the critic sees. The defaults change nothing.

    In the order in which they are called: ``enter`` (or, in a resumed run, ``restore``), ``fit``, ``trains``;
    in each step ``before``, ``draw``, ``critic``, ``view``, ``judged``, then ``objective`` and ``terms``,
    and ``hold`` before each optimiser moves; ``leave`` at the end, and ``feed`` whenever a picture of the
    finished model is drawn. ``state`` must hold all that ``enter`` worked out and ``judged`` or ``before``
    changed; what a method puts into the networks with ``fit`` is saved with them.

    In a stack weights are trained if every method trains them, terms add up, views and draws are composed in
    the order given, and two methods with a claim in common are refused.
    """

    name: ClassVar[str]
    summary: ClassVar[str]  # the mechanism in one line
    paper: ClassVar[str]
    trained: ClassVar[str] = "all of G and D"  # what is, in words
    licence: ClassVar[str] = ""  # of the published code, a note in one line
    needs: ClassVar[frozenset[str]] = frozenset()  # traits of the family it cannot do without
    claims: ClassVar[frozenset[str]] = frozenset()  # of CLAIMS: what only one method of a stack may decide
    adapts: ClassVar[bool] = False  # of no sense without a source to start from
    conditions: ClassVar[bool] = False  # trains nothing: the shots are what is drawn after
    redraws: ClassVar[bool] = False  # makes pictures of the source's by its ``redraw``, and no model
    adversarial: ClassVar[bool] = True  # whether there is a critic in training
    at_rest: ClassVar[bool] = False  # G is trained as it runs afterwards: its statistics stay the source's
    starts: ClassVar[Literal["g", "g_ema"]] = "g"  # which of the source's generators it starts from

    @dataclass(frozen=True)
    class Options:
        """One field a flag: ``--NAME-FIELD``; ``help`` and ``choices`` stand in the field's metadata."""

    def __init__(self, options: Any = None) -> None:
        self.options = options if options is not None else self.Options()

    # ---- before step 0 -------------------------------------------------------------------------------

    def recipe(self, family: Family, spec: Spec, shots: int) -> dict[str, Any]:
        """What it trains with in place of the family's recipe, by the names of that."""
        return {}

    def enter(self, context: MethodContext) -> None:
        """Prepare whatever takes time."""

    def state(self) -> dict[str, Tensor]:
        """Tensors a resumed run needs."""
        return {}

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        """The inverse of ``state``; takes the place of ``enter``."""

    def chosen(self) -> dict[str, Any]:
        """What ``auto`` options came out as, for the resolved configuration."""
        return {}

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        """Add to the networks what the method trains besides: a module called ``name``, or another
        parametrisation of a weight."""

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Whether the parameter ``name`` of ``network`` is trained; the others keep their source's values.

        Asked for the source's parameters only: what a method adds is always trained.
        """
        return not self.conditions

    # ---- in each step --------------------------------------------------------------------------------

    def before(self, state: TrainingState) -> None:
        """Told that the step ``state.step`` begins, with the networks as they are."""

    def draw(self, g: nn.Module, inputs: Inputs, rng: torch.Generator, shown: bool) -> Inputs:
        """What G is fed in training in place of ``inputs``; gradients may flow through.

        ``shown``: the critic sees what becomes of them; what a regulariser or a term draws it does not.
        """
        return inputs

    def discriminator(self, d: nn.Module) -> Callable[..., Tensor]:
        """What judges in place of ``d``: (images, inputs) -> logits."""
        return d

    def view(self, images: Tensor, who: ImageKind, rng: torch.Generator) -> Tensor:
        """What the critic is shown of ``images`` ([n, C, H, W]); gradients must flow through."""
        return images

    def judged(self, real_logits: Tensor) -> None:
        """Told what the critic made of the reals in its own step."""

    def objective(self, context: StepContext) -> dict[str, Tensor]:
        """What G descends on where there is no critic (``adversarial`` is False), by name."""
        return {}

    def terms(self, context: StepContext) -> dict[str, Tensor]:
        """Scalars to add to the generator's loss, by name; they appear in the log under these names."""
        return {}

    def meters(self) -> dict[str, Tensor]:
        """Scalars that the log is to have besides losses, by name."""
        return {}

    def hold(self, network: NetworkName, net: nn.Module) -> None:
        """Change gradients, or weights, just before the optimiser of ``net`` moves them. What has no
        gradient does not move."""

    # ---- afterwards ----------------------------------------------------------------------------------

    def leave(self, net: nn.Module) -> dict[str, Tensor]:
        """Undo ``fit``: give ``net`` the keys of its source; what does not fold into them, to be stored
        beside, by name."""
        return {}

    @staticmethod
    def feed(stored: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
        """What a finished model's G is fed in place of ``inputs``, given what ``leave`` of G had stored."""
        return inputs
