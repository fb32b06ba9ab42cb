"""Elastic weight consolidation for few-shot generation (Li et al. 2020).

L = L_adv + lambda * sum_i F_i (theta_i - theta_S,i)^2: what the source generator's output depends on most
(large Fisher information) is kept, what it hardly depends on is free to follow the ten images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen.errors import FsgenError
from fsgen.types import Bench, Method, Play

if TYPE_CHECKING:
    from torch import Tensor

PILOT = 25  # auto: steps of plain fine-tuning that show where and how hard the images pull
HELD = 0.1  # auto: share of the weights held harder than they are pulled


class EWC(Method):
    """Equation 4 of the paper, over all parameters of G."""

    name = "ewc"
    summary = "penalise drift of the weights by their Fisher information"
    paper = "Li et al. 2020, Few-shot Image Generation with Elastic Weight Consolidation, arXiv 2012.02780"
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
        self.fisher: Tensor | None = None  # [P], all parameters in a row
        self.anchor: Tensor | None = None  # [P], theta_S
        self.names: list[str] = []
        if self.options.lambda_ != "auto":
            self.weight = _number(self.options.lambda_)

    def enter(self, bench: Bench) -> None:
        self._anchor(bench)
        self.fisher = _row(bench.fisher(self.options.samples, self.options.proxy), self.names)
        if self.weight is None:
            self.weight = self._choose(bench)

    def _choose(self, bench: Bench) -> float:
        """lambda such that the penalty matters for a set share of the weights, whatever F's scale.

        A pilot of plain fine-tuning shows where the images pull (Delta_i) and how hard (g_i, the root mean
        square of the adversarial gradient). With lambda_i = g_i / (2 F_i |Delta_i|) the penalty's gradient
        balances that pull in weight i; the chosen lambda is the ``HELD`` quantile of the lambda_i. It does
        not change when D's logits, the parametrisation or the number of weights are rescaled (as F does),
        and a target that pulls further gets a smaller one. Weights that the images do not pull at all, such
        as the embeddings of other classes, have no lambda_i.
        """
        import torch

        pilot = bench.pilot(PILOT)
        change, pull = _row(pilot.change, self.names), _row(pilot.pull, self.names)
        pulled = change != 0
        balance = pull[pulled] / (2 * self.fisher[pulled] * change[pulled].abs()).clamp(min=1e-30)
        rank = max(1, round(HELD * balance.numel()))
        weight = torch.kthvalue(balance.cpu(), rank).values.item()
        bench.say(
            f"lambda {weight:.3g}: {PILOT} steps of plain fine-tuning show where the images pull; with it "
            f"{HELD:.0%} of the weights are held harder than they are pulled"
        )
        return weight

    def _anchor(self, bench: Bench) -> None:
        start = dict(bench.source.named_parameters())
        self.names = list(start)
        self.anchor = _row(start, self.names).detach()

    def terms(self, play: Play) -> dict[str, Tensor]:
        import torch

        now = _row(dict(play.g.named_parameters()), self.names)
        # The gradient of sum F (theta - theta_S)^2 is 2 F (theta - theta_S): known already, it is not worked
        # out again. A term linear in theta has it, and a constant sets the value right.
        with torch.no_grad():
            drift = now - self.anchor
            pull = self.fisher * drift
            value = pull @ drift
        line = 2 * (pull @ now)
        return {"ewc": self.weight * (line + (value - line).detach())}

    def state(self) -> dict[str, Tensor]:
        import torch

        return {"fisher": self.fisher, "lambda": torch.tensor(self.weight, dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor], bench: Bench) -> None:
        self._anchor(bench)
        self.fisher = state["fisher"]
        self.weight = state["lambda"].item()

    def chosen(self) -> dict[str, Any]:
        return {} if self.weight is None else {"lambda_": repr(self.weight)}


def _row(tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """All of them in one row: a handful of large operations in place of hundreds of small ones."""
    import torch

    return torch.cat([tensors[name].flatten() for name in names])


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
