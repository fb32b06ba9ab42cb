"""Elastic weight consolidation for few-shot generation (Li et al. 2020).

L = L_adv + lambda * sum_i F_i (theta_i - theta_S,i)^2: what the source generator's output depends on most
(large Fisher information) is kept, what it hardly depends on is free to follow the ten images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen.errors import FsgenError
from fsgen.interfaces import Method, MethodContext, StepContext, TrainingState

if TYPE_CHECKING:
    from torch import Tensor

PILOT = 25  # auto: steps of plain fine-tuning that show where and how hard the images pull
HELD = 0.1  # auto: share of the weights held harder than they are pulled


class EWC(Method):
    """Equation 4 of the paper, over all parameters of G."""

    name = "ewc"
    summary = "penalise drift of the weights by their Fisher information"
    paper = "Li et al. 2020, Few-shot Image Generation with Elastic Weight Consolidation, arXiv 2012.02780"
    licence = "none is public: fsgen's is from the paper"
    needs = frozenset({"latent"})
    claims = frozenset({"how weights are held"})
    adapts = True

    @dataclass(frozen=True)
    class Options:
        lambda_: str = field(
            default="auto",
            metadata={"help": "Weight of the penalty: auto, or a number (the paper's is 5e8)."},
        )
        samples: int = field(default=256, metadata={"help": "Samples behind the Fisher information."})
        proxy: str = field(
            default="adversarial",
            metadata={
                "help": "What stands for the log-likelihood.",
                "choices": ("adversarial", "reconstruction", "perceptual"),
            },
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.weight: float | None = None  # lambda, once known
        self.fisher: dict[str, Tensor] = {}  # F, by parameter name
        self.anchor: dict[str, Tensor] = {}  # theta_S
        self.held: tuple[list[Tensor], ...] = ()  # in a run: G's weights, theta_S, F
        if self.options.lambda_ != "auto":
            self.weight = _number(self.options.lambda_)

    def enter(self, context: MethodContext) -> None:
        self._hold(context, context.fisher(self.options.samples, self.options.proxy))
        if self.weight is None:
            self.weight = self._choose(context)

    def _choose(self, context: MethodContext) -> float:
        """lambda such that the penalty matters for a set share of the weights, whatever F's scale.

        A pilot of plain fine-tuning shows where the images pull (Delta_i) and how hard (g_i, the root mean
        square of the adversarial gradient). With lambda_i = g_i / (2 F_i |Delta_i|) the penalty's gradient
        balances that pull in weight i; the chosen lambda is the ``HELD`` quantile of the lambda_i. It does
        not change when D's logits, the parametrisation or the number of weights are rescaled (as F does),
        and a target that pulls further gets a smaller one. Weights that the images do not pull at all, such
        as the embeddings of other classes, have no lambda_i.
        """
        import torch

        trial_run = context.trial_run(PILOT)
        rows = (torch.cat([some[name].flatten() for name in self.fisher])
                for some in (self.fisher, trial_run.change, trial_run.pull))  # fmt: skip
        fisher, change, pull = rows  # of all weights, [P]
        pulled = change != 0
        balance = pull[pulled] / (2 * fisher[pulled] * change[pulled].abs()).clamp(min=1e-30)
        rank = max(1, round(HELD * balance.numel()))
        weight = torch.kthvalue(balance.cpu(), rank).values.item()
        context.say(
            f"lambda {weight:.3g}: {PILOT} steps of plain fine-tuning show where the images pull; with it "
            f"{HELD:.0%} of the weights are held harder than they are pulled"
        )
        return weight

    def _hold(self, context: MethodContext, fisher: Mapping[str, Tensor]) -> None:
        self.anchor = {name: value.detach() for name, value in context.source.named_parameters()}
        self.fisher = {name: fisher[name] for name in self.anchor}

    def before(self, state: TrainingState) -> None:
        """Once: theta_S and F in the order in which G's weights lie in memory, any other costs more."""
        import torch

        if self.held:
            return
        weights = dict(state.g.named_parameters())
        now = {name: weights[name] for name in self.anchor}

        def beside(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: torch.empty_like(weight, requires_grad=False).copy_(values[name])
                for name, weight in now.items()
            }

        self.anchor, self.fisher = beside(self.anchor), beside(self.fisher)  # in place of those, not besides
        self.held = tuple(list(some.values()) for some in (now, self.anchor, self.fisher))

    def terms(self, context: StepContext) -> dict[str, Tensor]:
        from fsgen.nn.losses import ewc_penalty

        return {"ewc": self.weight * ewc_penalty(*self.held)}

    def state(self) -> dict[str, Tensor]:
        import torch

        fisher = {f"fisher.{name}": value for name, value in self.fisher.items()}
        return fisher | {"lambda": torch.tensor(self.weight, dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        self._hold(context, {name.removeprefix("fisher."): value for name, value in state.items()})
        self.weight = state["lambda"].item()

    def chosen(self) -> dict[str, Any]:
        return {} if self.weight is None else {"lambda_": repr(self.weight)}


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise FsgenError(
            f"'{text}' is not a lambda", hint="--ewc-lambda auto, or a number such as 500"
        ) from None
    if not 0 <= value < float("inf"):
        raise FsgenError(f"lambda {text} is not a number of at least 0")
    return value
