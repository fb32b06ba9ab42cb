"""Cross-domain correspondence against the published implementation, draws injected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import Case, case_at, close
from sg2 import generator, outputs, parts, renamed
from torch import Tensor, nn

from fsgen.families.stylegan2 import convert
from fsgen.interfaces import Inputs
from fsgen.methods.cdc import CDC, divergence, relations


class Correspondence:
    """Float64, since a KL of distributions that hardly differ is a difference of nearly equal numbers."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        self.weight = case.info["config"]["kl_wt"]
        self.memo: dict[str, dict[str, Tensor]] = {}

    def maps(self, which: str, part: str = "in") -> list[Tensor]:
        """What G or the source makes, coarse to fine; the first, of 4 px, is not compared."""
        count = sum(name.startswith(f"{part}.{which}.") for name in self.io)
        return [self.io[f"{part}.{which}.{i}"].double().requires_grad_() for i in range(count)]

    def solved(self, draw: str) -> dict[str, Tensor]:
        """Of one draw of layers: both distributions, the loss, its gradient for each map of G."""
        if draw not in self.memo:
            layers = self.io[f"in.feat_ind.{draw}"].long() - 1
            ours, source = self.maps("target"), self.maps("source")
            logs = {"target": relations(ours[1:]), "source": relations(source[1:]).detach()}
            loss = self.weight * divergence(logs["target"], logs["source"], layers)
            grads = torch.autograd.grad(loss, ours, allow_unused=True)
            drawn = {f"dist_{name}": chosen(log, layers) for name, log in logs.items()}
            found = {f"grad_target.{i}": grad for i, grad in enumerate(grads)}
            self.memo[draw] = drawn | found | {"loss": loss.detach()}
        return self.memo[draw]

    @cached_property
    def net(self) -> dict[str, Tensor]:
        """The same through two generators and the method's own term."""
        weights = parts(self.case)
        nets = {name: generator(self.case, weights[name]).double() for name in ("source", "target")}
        nets["source"].requires_grad_(False)
        inputs = Inputs(z=self.io["in.net.z"].double())
        found: dict[str, Tensor] = {}
        for name, g in nets.items():
            found |= {f"{name}_feat.{i}": x.detach() for i, x in enumerate(g.taps(inputs))}
            logs = relations(g.taps(inputs)[1:]).detach()
            found[f"dist_{name}"] = chosen(logs, self.io["in.net.feat_ind"].long() - 1)
        loss = self.term(nets, inputs)
        grads = torch.autograd.grad(loss, list(nets["target"].parameters()), allow_unused=True)
        named = dict(zip(dict(nets["target"].named_parameters()), grads, strict=True))
        for theirs, ours in renamed(weights["target"], convert.convert_g).items():
            if named.get(ours) is not None:
                found[f"grad.{theirs}"] = named[ours].reshape(weights["target"][theirs].shape)
        return found | {"loss": loss.detach()}

    def term(self, nets: dict[str, nn.Module], inputs: Inputs) -> Tensor:
        method = CDC(CDC.Options(weight=self.weight, divergence="published"))
        method.source = nets["source"]
        context = SimpleNamespace(
            g=nets["target"], draw=lambda n, rng: inputs, rng=lambda purpose: torch.Generator()
        )
        with injected(randint=self.io["in.net.feat_ind"].long() - 1):
            return method.loss_terms(context)["cdc"]

    def anchored(self) -> Tensor:
        """Latents near anchors, by the method's own draw."""
        method = CDC(CDC.Options(spread=self.case.info["config"]["anchor"]["std"]))
        method.anchors, method.anchored = self.io["in.anchor.init_z"], True
        eps, index = self.io["in.anchor.eps"], self.io["in.anchor.index"].long()
        with injected(randint=index, randn=eps):
            drawn = method.transform_inputs(Inputs(z=eps), None, torch.Generator(), True)
        assert drawn.mix is drawn.z  # no style mixing
        return drawn.z


def chosen(logs: Tensor, layers: Tensor) -> Tensor:
    """[L, n, n - 1] logarithms -> [n, n - 1], each sample at its layer."""
    return logs[layers, range(len(layers))].exp()


@contextmanager
def injected(**draws: Tensor) -> Iterator[None]:
    """``torch.randint`` and ``torch.randn`` give what they are told."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in draws.items():
            patch.setattr(torch, name, lambda *args, value=value, **options: value)
        yield


@lru_cache(maxsize=1)
def run_of(folder: Path) -> Correspondence:
    return Correspondence(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("cdc-loss"))
def test_the_term_and_what_it_is_made_of(case, name):
    run = run_of(case.folder)
    if match := re.fullmatch(r"out\.(\d+)\.(.+)", name):
        ours = run.solved(match[1])[match[2]]
    elif name.startswith("out.net."):
        ours = run.net[name.removeprefix("out.net.")]
    else:
        assert name == "out.anchor.z", f"{case.label} has {name}, which no test compares"
        ours = run.anchored()
    close(ours, run.io[name], grad="grad" in name)


@pytest.mark.parametrize("case, name", outputs("cdc-loss", only=lambda name: name.endswith(".loss")))
def test_layers_that_are_not_drawn_have_no_gradient(case, name):
    draw = name.split(".")[1]
    if draw.isdecimal():
        for part, ours in run_of(case.folder).solved(draw).items():
            if part.startswith("grad_target.") and f"out.{draw}.{part}" not in case.names():
                assert ours is None or not ours.any(), part
