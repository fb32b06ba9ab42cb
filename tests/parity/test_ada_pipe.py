"""Adaptive augmentation against the published pipe, draws and gates injected, and p's rules."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch
from cases import Case, cases, close, each, skipped, stated
from torch import Tensor

from fsgen.data import ada_augment, ada_warp
from fsgen.methods.ada import ADA, updated

KIND = "ada-pipe"
OUTPUT = re.compile(r"out\.(\w+)\.(?:p(\d+)(?:\.(grad_x0?))?|(out|grad_x))")  # of the pipe
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


def share_of(case: Case, digits: str) -> float:
    """p30 in a name is the case's percentile of 0.3."""
    config = case.info["config"]
    for share in (*config.get("percentiles", ()), *config.get("bgc_percentiles", ())):
        if digits in (f"{share:.2f}"[2:], f"{100 * share:g}"):
            return share
    return float(f"0.{digits}")


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
    """Parameters from the case's random numbers and gates; of grey images none for hue and saturation."""
    io, p = case.tensors(), case.info["config"]["p_random"]
    shape, drawn = io["in.images"].shape, {}
    for name in case.info["order"]:
        if f"in.random.draw.{name}" in io:
            raw, gate = (io[f"in.random.{kind}.{name}"].reshape(shape[0], -1) for kind in ("draw", "gate"))
            drawn[name] = ada_augment.parameter(name, raw, gate < ada_augment.chance(name, p), shape)
    return drawn


@pytest.mark.parametrize("case, name", outputs(OUTPUT))
def test_the_pipe(case, name):
    io, (part, percent, grad, random) = case.tensors(), OUTPUT.fullmatch(name).groups()
    images = io["in.images"].clone().requires_grad_()
    drawn = injected(case) if random else at(part, share_of(case, percent), images.shape)
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
    assert case.info["order"] == [name for name in ada_augment.BGC if name in case.info["order"]]
    for name, values in drawn.items():
        if (reference := io.get(f"in.random.param.{name}")) is not None:
            close(values.reshape(reference.shape), reference)
    for percentile, told in case.info.get("values_at_percentile", {}).items():
        share = share_of(case, percentile.removeprefix("p"))
        for label, reference in told.items():
            values = next(iter(at(label.split()[0], share, io["in.images"].shape).values()))[0]
            close(values, torch.tensor(reference).reshape(values.shape))


@pytest.mark.parametrize("case", each(KIND))
def test_constants_and_policies(case):
    formula = case.info.get("formula", {})
    for name, taps in (("sym6", ada_warp.SYM6), ("sym2", ada_warp.SYM2)):
        assert list(taps) == formula.get("taps", {}).get(name, list(taps))
    for name, told in formula.get("policies", {}).items():
        if isinstance(told, str):
            parts = [part for word in told.split(" + ") for part in ada_augment.POLICIES.get(word, (word,))]
            assert list(ada_augment.POLICIES[name]) == parts
        else:  # its words call both rotations one
            ours = [part.removesuffix("_pre") for part in ada_augment.POLICIES[name] if part != "rotate_post"]
            assert ours == told


# ---- p -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case, name", outputs(re.compile(r"out\.p_\w+\.p")))
def test_p_follows_the_rule(case, name):
    """By the settings of each trace, whatever the defaults are."""
    trace = name.split(".")[1].removeprefix("p_")
    config, io = case.info["p_traces"][trace], case.tensors()
    kimg = config["kimg"] if "kimg" in config else config["length"] / 1000
    interval = config.get("interval", config.get("every"))
    p = torch.tensor(config.get("p0", 0.0))
    if f"in.p_{trace}.sign_mean" in io:
        ours, real_images = [], config["batch"] * interval
        for mean in io[f"in.p_{trace}.sign_mean"].tolist():
            p = updated(p, mean, real_images, rule=config["rule"], target=config["target"], kimg=kimg)
            ours.append(p)
    else:
        options = {"rule": config["rule"], "target": config["target"], "kimg": str(kimg)}
        options |= {"interval": str(interval)} if interval else {}
        ours = followed(ADA.Options(**options), p, io[f"in.p_{trace}.real_logits"])
    close(torch.stack(ours), io[name], atol=WITHIN)


def set_up(options: ADA.Options, **context: object) -> ADA:
    method = ADA(options)
    settings = {"spec": {"resolution": 32}, "device": "cpu", "steps": 10**6, "pretrained": frozenset()}
    method.setup(SimpleNamespace(**settings | context))
    return method


def followed(options: ADA.Options, p: Tensor, logits: Tensor) -> list[Tensor]:
    """p after each batch of D's logits on real images."""
    method, ours = set_up(options, recipe=SimpleNamespace(batch=logits.shape[1])), []
    method.buffers["p"] = p
    for step, batch in enumerate(logits, start=1):
        method.after_step(SimpleNamespace(real_logits=batch[:, None]))
        method.before_step(SimpleNamespace(step=step))
        ours.append(method.buffers["p"])
    return ours


@pytest.mark.parametrize("case", each(KIND))
def test_defaults_are_the_published_ones(case):
    """Those that the case states as defaults; its traces may have others."""
    rules = case.info.get("formula", {}).get("adaptive p", {})
    if not rules:
        pytest.skip("the case does not say what the published defaults are")
    nvidia = {
        "target": r"Target ([\d.]*\d)", "interval": r"interval (\d+)", "kimg": r"Default kimg (\d+)",
        "resumed": r"with any --resume it is (\d+)",
    }  # fmt: skip
    told = {name: stated(rules["nvidia"], pattern, math.nan) for name, pattern in nvidia.items()}
    batch = SimpleNamespace(batch=4)
    method = set_up(ADA.Options(rule="nvidia"), recipe=batch)
    resumed = set_up(ADA.Options(rule="nvidia"), recipe=batch, pretrained=frozenset({"g", "d"}))
    assert (method.options.target, method.interval) == (told["target"], told["interval"])
    assert (method.kimg, resumed.kimg) == (told["kimg"], told["resumed"])
    method = set_up(ADA.Options(rule="rosinality"), recipe=batch)
    assert method.kimg * 1000 == stated(rules["rosinality"], r"length (\d+)", math.nan)
    assert method.interval == stated(rules["rosinality"], r"every (\d+) calls", math.nan)


@pytest.mark.parametrize("case", each(KIND))
def test_every_tensor_of_the_case_is_used(case):
    used = {"in.images", "in.grad_weight"}
    used |= {f"in.random.{kind}.{name}" for kind in ("draw", "gate", "param") for name in case.info["order"]}
    for trace in case.info.get("p_traces", {}):
        used |= {f"in.p_{trace}.sign_mean", f"in.p_{trace}.real_logits", f"out.p_{trace}.p"}
    for name in case.names():
        assert name in used or OUTPUT.fullmatch(name), f"{name} is not compared"
