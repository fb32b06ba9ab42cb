"""Adaptive augmentation against the published pipe, draws and gates injected, and p's rules."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from cases import Case, cases, close, each, skipped
from torch import Tensor

from fsgen.data import ada_augment, ada_warp
from fsgen.methods.ada import ADA, moved

KIND = "ada-pipe"
OUTPUT = re.compile(r"out\.(\w+)\.(?:p(\d+)(?:\.(grad_x0?))?|(out|grad_x))")  # of the pipe
PREFIX = "in.random.draw."
WITHIN = 1e-7  # of a p


def outputs(pattern: re.Pattern[str]) -> list:
    """For ``parametrize("case, name", ...)``: the tensors whose names match."""
    found = [
        pytest.param(case, name, id=f"{case.label}-{name}")
        for case in cases(KIND)
        for name in case.names()
        if pattern.fullmatch(name)
    ]
    return found or [skipped((KIND,), values=2)]


# ---- the pipe ------------------------------------------------------------------------------------------


def at(part: str, share: float, shape: torch.Size) -> ada_augment.Parameters:
    """Every random number is the one that a ``share`` of all lies below: the case's percentile mode.

    By its rule a normal one is erfinv(2 share - 1), without the factor sqrt 2, and the second rotation is 0.
    """
    names = ada_augment.POLICIES.get(part, ("rotate_pre", "rotate_post") if part == "rotate" else (part,))
    drawn = {}
    for name in names:
        operator = ada_augment.OPERATORS[name]
        raw = torch.full((shape[0], operator.numbers), share)
        raw = torch.erfinv(2 * raw - 1) if operator.normal else raw
        drawn[name] = ada_augment.parameter(name, raw, torch.tensor(name != "rotate_post"), shape)
    return drawn


def injected(case: Case) -> ada_augment.Parameters:
    """Parameters from the case's random numbers and gates."""
    io, p = case.tensors(), case.info["config"]["p_random"]
    shape, drawn = io["in.images"].shape, {}
    for name in case.info["order"]:
        raw, gate = (io[f"in.random.{kind}.{name}"].reshape(shape[0], -1) for kind in ("draw", "gate"))
        drawn[name] = ada_augment.parameter(name, raw, gate < ada_augment.chance(name, p), shape)
    return drawn


@pytest.mark.parametrize("case, name", outputs(OUTPUT))
def test_the_pipe(case, name):
    io, (part, percent, grad, random) = case.tensors(), OUTPUT.fullmatch(name).groups()
    images = io["in.images"].clone().requires_grad_()
    drawn = injected(case) if random else at(part, int(percent) / 100, images.shape)
    out = ada_augment.transform(images, drawn)
    if grad or random == "grad_x":
        (out * io["in.grad_weight"]).sum().backward()
        close(images.grad[: len(io[name])], io[name], grad=True)
    else:
        close(out, io[name])


@pytest.mark.parametrize("case", each(KIND))
def test_parameters(case):
    """From random numbers, with gates; and, where the case says them, at its percentiles."""
    io, drawn = case.tensors(), injected(case)
    assert [*drawn] == [name for name in ada_augment.BGC] == case.info["order"]
    for name, values in drawn.items():
        reference = io[f"in.random.param.{name}"]
        close(values.reshape(reference.shape), reference)
    for percentile, told in case.info["values_at_percentile"].items():
        for label, reference in told.items():
            part = label.split()[0]
            values = next(iter(at(part, int(percentile[1:]) / 100, io["in.images"].shape).values()))[0]
            close(values, torch.tensor(reference).reshape(values.shape))


@pytest.mark.parametrize("case", each(KIND))
def test_constants_and_policies(case):
    formula = case.info["formula"]
    assert list(ada_warp.SYM6) == formula["taps"]["sym6"] and list(ada_warp.SYM2) == formula["taps"]["sym2"]
    for name in ("blit", "geom", "color"):
        ours = [part.removesuffix("_pre") for part in ada_augment.POLICIES[name] if part != "rotate_post"]
        assert ours == formula["policies"][name]
    for name, text in formula["policies"].items():
        if isinstance(text, str):
            parts = [part for word in text.split(" + ") for part in ada_augment.POLICIES.get(word, (word,))]
            assert list(ada_augment.POLICIES[name]) == parts


# ---- p -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case, name", outputs(re.compile(r"out\.p_\w+\.p")))
def test_p_follows_the_rule(case, name):
    trace = name.split(".")[1].removeprefix("p_")
    config, io = case.info["p_traces"][trace], case.tensors()
    options = {"rule": config["rule"], "target": config["target"]}
    if f"in.p_{trace}.sign_mean" in io:
        p, ours, real_images = torch.tensor(config["p0"]), [], config["batch"] * config["interval"]
        for mean in io[f"in.p_{trace}.sign_mean"].tolist():
            p = moved(p, mean, real_images, **options, kimg=config["kimg"])
            ours.append(p)
    else:
        ours = followed(config, options, io[f"in.p_{trace}.real_logits"])
    close(torch.stack(ours), io[name], atol=WITHIN)


def followed(config: dict, options: dict, logits: Tensor) -> list[Tensor]:
    """p after each batch that the method is told of."""
    options["kimg"] = str(config["length"] / 1000)
    options |= {"interval": str(config["every"])} if "every" in config else {}
    method, ours = ADA(ADA.Options(**options)), []
    method.enter(SimpleNamespace(
        spec={"resolution": 32}, recipe=SimpleNamespace(batch=logits.shape[1]), device="cpu",
    ))  # fmt: skip
    for step, batch in enumerate(logits, start=1):
        method.judged(batch[:, None])
        method.before(SimpleNamespace(step=step))
        ours.append(method.p)
    return ours


@pytest.mark.parametrize("case", each(KIND))
def test_defaults_are_the_published_ones(case):
    options = ADA.Options()
    for trace, config in case.info["p_traces"].items():
        context = SimpleNamespace(
            spec={"resolution": 32}, recipe=SimpleNamespace(batch=config.get("batch", 4)), device="cpu",
            steps=10**6, pretrained=frozenset({"g", "d"} if trace.endswith("resume") else ()),
        )  # fmt: skip
        method = ADA(ADA.Options(rule=config["rule"]))
        method.enter(context)
        assert options.target == config["target"]
        assert method.kimg == config.get("kimg", config.get("length", 0) / 1000)
        assert method.interval == config.get("interval", method.interval)


@pytest.mark.parametrize("case", each(KIND))
def test_every_tensor_of_the_case_is_used(case):
    used = {"in.images", "in.grad_weight"}
    used |= {f"in.random.{kind}.{name}" for kind in ("draw", "gate", "param") for name in case.info["order"]}
    for trace in case.info["p_traces"]:
        used |= {f"in.p_{trace}.sign_mean", f"in.p_{trace}.real_logits", f"out.p_{trace}.p"}
    for name in case.names():
        assert name in used or OUTPUT.fullmatch(name), f"{name} is not compared"
