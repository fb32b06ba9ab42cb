"""Elastic weight consolidation for few-shot generation (Li et al. 2020).

L = L_adv + lambda * sum_i F_i (theta_i - theta_S,i)^2: what the source generator's output depends on most
(large Fisher information) is kept, what it hardly depends on is free to follow the ten images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen.errors import FsgenError
from fsgen.types import Bench, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

PILOT = 50  # steps of plain fine-tuning that show how far the target pulls
BUDGET = 1.0  # auto: the penalty of the pilot's drift


class EWC(Method):
    """Equation 4 of the paper, over all parameters of G."""

    name = "ewc"
    summary = "penalise drift of the weights by their Fisher information"
    paper = "Li et al. 2020, Few-shot Image Generation with Elastic Weight Consolidation, arXiv 2012.02780"
    needs = frozenset({"latent"})

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
        import torch

        diagonal = bench.fisher(self.options.samples, self.options.proxy)
        self._hold(bench, torch.cat([diagonal[name].flatten() for name in _names(bench.source)]))
        if self.weight is None:
            self.weight = self._choose(bench)

    def _choose(self, bench: Bench) -> float:
        drift = self._drift(bench.pilot(PILOT)).item()
        weight = BUDGET / drift
        bench.say(
            f"lambda {weight:.3g} chosen: {PILOT} steps of plain fine-tuning drift by {drift:.3g} "
            "(sum of F times squared change)"
        )
        return weight

    def _hold(self, bench: Bench, fisher: Tensor) -> None:
        self.names = _names(bench.source)
        self.fisher = fisher
        self.anchor = _row(bench.source, self.names).detach().clone()

    def _drift(self, g: nn.Module) -> Tensor:
        """sum_i F_i (theta_i - theta_S,i)^2"""
        return (self.fisher * (_row(g, self.names) - self.anchor).square()).sum()

    def terms(self, g: nn.Module) -> dict[str, Tensor]:
        return {"ewc": self.weight * self._drift(g)}

    def state(self) -> dict[str, Tensor]:
        import torch

        return {"fisher": self.fisher, "lambda": torch.tensor(self.weight, dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor], bench: Bench) -> None:
        self._hold(bench, state["fisher"])
        self.weight = state["lambda"].item()

    def chosen(self) -> dict[str, Any]:
        return {} if self.weight is None else {"lambda_": repr(self.weight)}


def _names(g: nn.Module) -> list[str]:
    return [name for name, _ in g.named_parameters()]


def _row(g: nn.Module, names: list[str]) -> Tensor:
    import torch

    parameters = dict(g.named_parameters())
    return torch.cat([parameters[name].flatten() for name in names])


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
