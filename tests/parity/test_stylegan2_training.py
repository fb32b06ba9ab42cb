"""StyleGAN2's losses, regularisers and Fisher against the published training code.

The reference was computed in float64 from float32 weights, and so is ours: a path length's gradient is a
difference of large numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from cases import WEIGHTS, Case, case_at, close, stated
from sg2 import FAMILY, crop, files, foreign, load, number, outputs, renamed, what
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.families.stylegan2 import convert
from fsgen.interfaces import Inputs
from fsgen.nn import losses, per_sample_fisher

ESTIMATORS = {"vectorised": per_sample_fisher.diagonal, "loop": per_sample_fisher.diagonal_by_loop}
Gradients = dict[str, Tensor]
"""By the parameter's name."""


class Training:
    """One case: networks in float64, and each loss with its gradients, computed once."""

    def __init__(self, case: Case) -> None:
        self.case, converted = case, load(case)
        self.io = {name: value.double() for name, value in case.tensors().items()}
        self.z = next(value for name, value in self.io.items() if re.fullmatch(r"in\.z\d*", name))
        self.g, self.d = FAMILY.build(converted.spec)
        start = converted.g if converted.g is not None else converted.g_ema
        for net, state in ((self.g, start), (self.d, converted.d)):
            net.load_state_dict(state)
            net.double()
        file = WEIGHTS if WEIGHTS in files(case) else files(case)[0]
        state = foreign(case, file).tensors
        raw = state["g"] if "g" in state else state["g_ema"]
        self.shapes = {key: value.shape for part in (raw, state["d"]) for key, value in part.items()}
        self.names = renamed(raw, convert.convert_g) | renamed(state["d"], convert.convert_d)
        text = " ".join(what(case, name) for name in self.io if name.startswith("out.scalar.path_mean_after"))
        self.decay = stated(text, r"([\d.]*\d) \* \(mean path length", 0.01)  # of the mean path length
        self.memo: dict[str, tuple[Tensor, Gradients]] = {}

    # ---- what both players see -------------------------------------------------------------------------

    @cached_property
    def fakes(self) -> Tensor:
        with torch.no_grad():
            return self.g(Inputs(z=self.z))

    @cached_property
    def real_images(self) -> Tensor:
        return self.io["in.real"].clone().requires_grad_()

    @cached_property
    def real_gradient(self) -> Tensor:
        return torch.autograd.grad(self.d(self.real_images).sum(), self.real_images)[0]

    # ---- losses ----------------------------------------------------------------------------------------

    def d_logistic_loss(self, mean: float) -> Tensor:
        return FAMILY.loss_d(self.d(self.io["in.real"]), self.d(self.fakes))

    def g_nonsaturating_loss(self, mean: float) -> Tensor:
        return FAMILY.loss_g(self.d(self.g(Inputs(z=self.z))))

    def r1_penalty(self, mean: float) -> Tensor:
        return losses.r1(self.d(self.real_images), self.real_images)

    def path_penalty(self, mean: float) -> Tensor:
        return self.path(mean)[0]

    def path(self, mean: float) -> tuple[Tensor, Tensor]:
        """The penalty, and the mean after it."""
        before = torch.tensor(mean, dtype=torch.float64)
        return losses.path_penalty(self.path_lengths(), before, self.decay)

    def path_lengths(self) -> Tensor:
        noise = self.io["in.pl_noise"]
        ws = self.g.map(Inputs(z=self.z[: len(noise)]))
        return losses.path_lengths(self.g.synthesis(ws, "const", None)[0], ws, noise)

    def path_mean(self, mean: float) -> Tensor:
        return self.path(mean)[1]

    def solved(self, loss: str, mean: float = 0.0) -> tuple[Tensor, Gradients]:
        """A loss and its gradients with respect to its player's parameters."""
        key = f"{loss} {mean}"
        if key not in self.memo:
            net: nn.Module = self.d if loss in ("d_logistic_loss", "r1_penalty") else self.g
            parameters = dict(net.named_parameters())
            value = getattr(self, loss)(mean)
            grads = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            found = {
                name: torch.zeros_like(parameters[name]) if grad is None else grad
                for name, grad in zip(parameters, grads, strict=True)
            }
            self.memo[key] = value.detach(), found
        return self.memo[key]

    def norm(self, loss: str, mean: float) -> Tensor:
        return torch.stack([grad.square().sum() for grad in self.solved(loss, mean)[1].values()]).sum().sqrt()

    def named(self, values: Gradients, key: str) -> Tensor:
        """The value of the parameter that the reference calls ``key``, in its shape."""
        return values[self.names[key]].reshape(self.shapes[key])

    # ---- Fisher ----------------------------------------------------------------------------------------

    @property
    def samples(self) -> Tensor:
        return self.z[: self.case.info["fisher"]["samples"]]

    def log_likelihood(self, images: Tensor, inputs: Inputs, draw: Tensor | None) -> Tensor:
        return FAMILY.log_likelihood(self.d(images)).sum()

    def fisher(self, estimator: str) -> Gradients:
        if estimator not in self.memo:
            half = len(self.samples) // 2 or 1  # in two batches: the split must not matter
            batches = [(Inputs(z=z), None) for z in self.samples.split(half)]
            found = ESTIMATORS[estimator](self.g, self.log_likelihood, batches)
            self.memo[estimator] = torch.zeros([]), found
        return self.memo[estimator][1]

    def fisher_losses(self) -> Tensor:
        """Each sample alone: its minibatch spread is that of a batch of one."""
        with torch.no_grad():
            fakes = self.g(Inputs(z=self.samples))
            return torch.cat([F.softplus(-self.d(fake[None])).flatten() for fake in fakes])


LOSSES = {
    "d_loss": "d_logistic_loss",
    "g_loss": "g_nonsaturating_loss",
    "r1": "r1_penalty",
    "path": "path_penalty",
}
MEAN = r"(?:_mean(?P<mean>\d+))?"
ANY_LOSS = "|".join(LOSSES.values())
OUTPUTS: tuple[tuple[str, Callable[[Training, re.Match, float], Tensor]], ...] = (
    (r"fake_img", lambda run, m, a: run.fakes),
    (r"fake_logits", lambda run, m, a: run.d(run.fakes)),
    (r"real_logits", lambda run, m, a: run.d(run.io["in.real"])),
    (rf"scalar\.({ANY_LOSS}){MEAN}", lambda run, m, a: run.solved(m[1], a)[0]),
    (rf"scalar\.({ANY_LOSS})_grad_norm{MEAN}", lambda run, m, a: run.norm(m[1], a)),
    (
        rf"({'|'.join(LOSSES)})_grad{MEAN}\.(?P<key>.+)",
        lambda run, m, a: run.named(run.solved(LOSSES[m[1]], a)[1], m["key"]),
    ),
    (r"r1_input_grad", lambda run, m, a: run.real_gradient),
    (r"r1_per_sample", lambda run, m, a: run.real_gradient.square().sum(dim=(1, 2, 3))),
    (r"path_lengths", lambda run, m, a: run.path_lengths()),
    (rf"scalar\.path_mean_after{MEAN}", lambda run, m, a: run.path_mean(a)),
    (r"fisher_losses", lambda run, m, a: run.fisher_losses()),
)


@lru_cache(maxsize=1)  # the tests of one case follow one another
def run_of(folder: Path) -> Training:
    return Training(case_at(folder))


def mean_before(case: Case, name: str, digits: str | None) -> float:
    """The running mean of path lengths before the batch: by the case's text, else by the tensor's name."""
    texts = what(case, name) + what(case, f"out.scalar.path_penalty_mean{digits}")
    told = re.search(r"running mean ([\d.]*\d) before|path length - ([\d.]*\d)\)", texts)
    if told:
        return float(told[1] or told[2])
    return number(digits) if digits else 0.0


def is_fisher(name: str) -> bool:
    return name.startswith("out.fisher.") or name.startswith("out.scalar.fisher")


@pytest.mark.parametrize("case, name", outputs("training-math", only=lambda name: not is_fisher(name)))
def test_output(case, name):
    """Every tensor that is no input has an entry in OUTPUTS, or this fails."""
    for pattern, compute in OUTPUTS:
        if match := re.fullmatch(rf"out\.{pattern}", name):
            run = run_of(case.folder)
            ours = compute(run, match, mean_before(case, name, match.groupdict().get("mean")))
            reference = run.io[name]
            close(crop(ours, reference, what(case, name)), reference, grad="grad" in name)
            return
    pytest.fail(f"{case.label} has {name}, which no test compares")


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("case, name", outputs("training-math", only=is_fisher))
def test_fisher(case, name, estimator):
    run = run_of(case.folder)
    diagonal, reference = run.fisher(estimator), run.io[name]
    assert diagonal.keys() == dict(run.g.named_parameters()).keys()
    if name == "out.scalar.fisher_trace_all_G_params":
        close(torch.stack([value.sum() for value in diagonal.values()]).sum(), reference)
    elif name.startswith("out.fisher."):
        ours = run.named(diagonal, name.removeprefix("out.fisher."))
        close(crop(ours, reference, what(case, name)), reference)
    else:
        pytest.fail(f"{case.label} has {name}, which no test compares")
