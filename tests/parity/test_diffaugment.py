"""DiffAugment's operators and policies against the published implementation, draws injected."""

from __future__ import annotations

import pytest
import torch
from cases import Case, close, each, each_part, stated

from fsgen.data.augment import OPERATORS, draw_arguments, operators

# The case's name of each draw -> ours. Draws are stored as float32, whole numbers too.
DRAWS = {
    "brightness": {"brightness_add": "add"},
    "saturation": {"saturation_factor": "factor"},
    "contrast": {"contrast_factor": "factor"},
    "translation": {"translation_dim2": "rows", "translation_dim3": "cols"},
    "cutout": {"cutout_offset_dim2": "rows", "cutout_offset_dim3": "cols"},
}
PREFIX = "policy_"


def settings(case: Case, name: str) -> dict:
    """Arguments that are not drawn."""
    size = case.info["config"].get("ranges", {}).get("cutout_size")
    return {"size": tuple(size)} if name == "cutout" and size else {}


def transform(case: Case, part: str, tensors: dict, x):
    """``x`` under the operator or policy that the case calls ``part``, with the draws stored under it."""
    steps = operators(part.removeprefix(PREFIX).split("_")) if part.startswith(PREFIX) else [part]
    for step in steps:
        drawn = {ours: tensors[f"{part}.{theirs}"] for theirs, ours in DRAWS[step].items()}
        x = OPERATORS[step](x, **drawn, **settings(case, step))
    return x


@pytest.mark.parametrize("case, part", each_part("diffaugment", suffix=".out"))
def test_output_and_gradient(case, part):
    tensors = case.tensors()
    x = tensors["x"].clone().requires_grad_()
    out = transform(case, part, tensors, x)
    close(out, tensors[f"{part}.out"])
    if f"{part}.grad_x" in tensors:
        (out * tensors["grad_weight"]).sum().backward()
        close(x.grad, tensors[f"{part}.grad_x"], grad=True)


@pytest.mark.parametrize("case", each("diffaugment"))
def test_every_tensor_of_the_case_is_used(case):
    known = {"x", "grad_weight"}
    for name in case.tensors():
        part, _, value = name.rpartition(".")
        steps = operators(part.removeprefix(PREFIX).split("_")) if part.startswith(PREFIX) else [part]
        drawn = {theirs for step in steps for theirs in DRAWS.get(step, {})}
        assert name in known or value in drawn | {"out", "grad_x"}, f"{name} is not compared"


@pytest.mark.parametrize("case", each("diffaugment"))
def test_default_cutout_and_ranges_are_the_published_ones(case):
    """Where the case has those: it forced the ends of the integer ranges into its first and last sample."""
    tensors, shape = case.tensors(), case.tensors()["x"].shape
    ranges = case.info["config"].get("ranges", {})
    whole = [int(side / 2 + 0.5) for side in shape[2:]]
    shift = stated(str(ranges.get("translation")), r"size\*([\d.]+)", 1 / 8)
    published = {"translation": shift == 1 / 8, "cutout": ranges.get("cutout_size", whole) == whole}
    rng = torch.Generator().manual_seed(0)
    for step in (name for name, is_default in published.items() if is_default):
        many = draw_arguments(step, (20000, *shape[1:]), rng)
        for theirs, ours in DRAWS[step].items():
            if (values := tensors.get(f"{step}.{theirs}", torch.empty(0))).numel() > 1:
                assert (many[ours].min(), many[ours].max()) == (values.min(), values.max())
    if published["cutout"] and "cutout.out" in tensors:
        drawn = {ours: tensors[f"cutout.{theirs}"] for theirs, ours in DRAWS["cutout"].items()}
        close(OPERATORS["cutout"](tensors["x"], **drawn), tensors["cutout.out"])
    if not any(published.values()):
        pytest.skip("the case has other ranges than the published ones")
