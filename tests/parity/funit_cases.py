"""What the golden cases of FUNIT have in common: their inputs, the values in their text, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import WEIGHTS, Case, Outputs, cases, close, computed, each_output, skipped
from torch import Tensor

from fsgen.families.funit.family import FUNIT
from fsgen.interfaces import Inputs

FAMILY = FUNIT()
INPUTS = {
    "funit-g": ("content", "class_images", "batch.content", "batch.class_images"),
    "funit-d": ("x_real", "x_fake", "y"),
    "funit-losses": ("xa", "xb", "la", "lb"),
}


def is_input(case: Case, name: str) -> bool:
    if case.kind == "funit-d" and name.startswith("features_"):  # of the head, where that is all there is
        return not any(key.startswith("cnn_f.") for key in case.names(WEIGHTS))
    return name in INPUTS[case.kind]


def outputs(kind: str) -> list[Any]:
    """For ``parametrize("case, name", ...)``: every tensor of the cases that is not an input."""
    return each_output(kind, is_input=is_input)


def numbers(kind: str, *within: str) -> list[Any]:
    """For ``parametrize("case, name, value", ...)``: what case.json says below ``within``, in words."""
    found = []
    for case in cases(kind):
        table = case.info
        for key in within:
            table = table.get(key, {})
        found += [
            pytest.param(case, name, value, id=f"{case.label}-{name.split()[0]}")
            for name, value in table.items()
            if isinstance(value, int | float)
        ]
    return found or [skipped((kind,), values=3)]


def compared(table: Outputs, run: Any, name: str) -> Tensor | float:
    """What ``table`` computes for one value of the case of ``run``."""
    return computed(table, run, run.case, name)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).float()


def itself(content: Tensor) -> Inputs:
    """A content to be drawn as its own class, from the one picture of it."""
    return Inputs(content=content, style=content[:, None])


def gradients(loss: Tensor, net: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter of ``net``, 0 where it has none."""
    parameters = dict(net.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad
        for (name, p), grad in zip(parameters.items(), found, strict=True)
    }


def share(hits: Tensor) -> Tensor:
    return hits.float().mean()


def same_norms(reference: dict[str, float], ours: dict[str, Tensor], names: dict[str, str]) -> None:
    """Gradients by their length; every parameter of ours that the case does not list must have none."""
    for name, value in reference.items():
        close(ours[names[name]].norm(), value, grad=True)
    for name in ours.keys() - {names[name] for name in reference}:
        assert not ours[name].any(), f"{name} has a gradient"
