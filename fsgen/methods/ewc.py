"""Elastic weight consolidation for few-shot generation (Li et al. 2020).

L = L_adv + lambda * sum_i F_i (theta_i - theta_S,i)^2: weights that the source generator's output depends on
most (large Fisher information) are kept near the source's; the others are free to follow the shots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fsgen.config import number_or_auto
from fsgen.interfaces import Claim, Method, MethodContext, StepContext, TrainingState, Trait

if TYPE_CHECKING:
    from torch import Tensor

TRIAL = 25  # auto: steps of plain fine-tuning that show where and how hard the shots pull
QUANTILE = 0.1  # auto: share of the weights whose penalty outweighs that pull


@dataclass(frozen=True)
class EWCOptions:
    lambda_: str = field(
        default="auto",
        metadata={"help": "Weight of the penalty: auto, or a number (the paper's is 5e8)."},
    )
    samples: int = field(default=256, metadata={"help": "Samples behind the Fisher information."})
    proxy: str = field(
        default="adversarial",
        metadata={
            "help": "Stand-in for the log-likelihood.",
            "choices": ("adversarial", "reconstruction", "perceptual"),
        },
    )


class EWC(Method[EWCOptions]):
    """The EWC penalty (equation 4 of the paper) over all parameters of G."""

    name = "ewc"
    summary = "penalise drift of the weights by their Fisher information"
    paper = "Li et al. 2020, Few-shot Image Generation with Elastic Weight Consolidation, arXiv 2012.02780"
    licence = "no public code: fsgen's is from the paper"
    needs = frozenset({Trait.LATENT})
    claims = frozenset({Claim.FREEZING})
    adapts = True
    Options = EWCOptions

    def __init__(self, options: EWCOptions | None = None) -> None:
        super().__init__(options)
        self.weight = number_or_auto("--ewc-lambda", self.options.lambda_)  # lambda, once known
        self.fisher: dict[str, Tensor] = {}  # F, by parameter name
        self.anchor: dict[str, Tensor] = {}  # theta_S
        self.penalised: tuple[list[Tensor], ...] = ()  # in a run: G's weights, theta_S, F
        if self.weight is not None:
            self.options = replace(self.options, lambda_=repr(self.weight))

    def setup(self, context: MethodContext) -> None:
        """Estimate F and choose lambda, or take both from a saved run."""
        import torch

        self.anchor = {name: value.detach() for name, value in context.source.named_parameters()}
        if self.buffers:
            given: Mapping[str, Tensor] = {name: self.buffers[f"fisher.{name}"] for name in self.anchor}
            self.weight = self.buffers["lambda"].item()
        else:
            given = context.fisher(self.options.samples, self.options.proxy)
        self._set_fisher({name: given[name] for name in self.anchor})
        if self.weight is None:
            self.weight = self._choose(context)
        self.buffers["lambda"] = torch.tensor(self.weight, dtype=torch.float64)
        self.options = replace(self.options, lambda_=repr(self.weight))

    def _set_fisher(self, fisher: dict[str, Tensor]) -> None:
        self.fisher = fisher
        self.buffers |= {f"fisher.{name}": value for name, value in fisher.items()}

    def _choose(self, context: MethodContext) -> float:
        """Choose lambda such that the penalty matters for a set share of the weights, whatever F's scale.

        A trial run of plain fine-tuning shows where the shots pull (Delta_i) and how hard (g_i, the root mean
        square of the adversarial gradient). With lambda_i = g_i / (2 F_i |Delta_i|) the penalty's gradient
        balances that pull in weight i; lambda is the ``QUANTILE`` quantile of the lambda_i. It is invariant
        to scaling D's logits, the parametrisation or the number of weights (F is not), and smaller for a
        target that pulls further. Weights that are not pulled at all, such as the embeddings of other
        classes, have no lambda_i.
        """
        import torch

        trial = context.trial_run(TRIAL)
        fisher, change, pull = (
            torch.cat([some[name].flatten() for name in self.fisher])  # [parameters]
            for some in (self.fisher, trial.change, trial.pull)
        )
        pulled = change != 0
        balance = pull[pulled] / (2 * fisher[pulled] * change[pulled].abs()).clamp(min=1e-30)
        rank = max(1, round(QUANTILE * balance.numel()))
        weight = torch.kthvalue(balance.cpu(), rank).values.item()
        context.say(
            f"lambda {weight:.3g}, from {TRIAL} steps of plain fine-tuning: the penalty outweighs the "
            f"pull of the images in {QUANTILE:.0%} of the weights"
        )
        return weight

    def before_step(self, state: TrainingState) -> None:
        """Once: lay out theta_S and F in memory as G's weights are; another layout costs time."""
        import torch

        if self.penalised:
            return
        weights = dict(state.g.named_parameters())
        now = {name: weights[name] for name in self.anchor}

        def laid_out(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: torch.empty_like(weight, requires_grad=False).copy_(values[name])
                for name, weight in now.items()
            }

        self.anchor = laid_out(self.anchor)  # in place of the copies so far, not beside them
        self._set_fisher(laid_out(self.fisher))
        self.penalised = tuple(list(some.values()) for some in (now, self.anchor, self.fisher))

    def loss_terms(self, context: StepContext) -> dict[str, Tensor]:
        from fsgen.nn.losses import ewc_penalty

        assert self.weight is not None
        return {"ewc": self.weight * ewc_penalty(*self.penalised)}
