"""Which parameters of a discriminator FreezeD trains, by name, against what the published code sets.

StyleGAN1's own names and rosinality's stand in the cases; the first are put in stages here, since fsgen has
no such family, the second are converted.
"""

from __future__ import annotations

import re

import pytest
import torch
from cases import Case, cases, each, skipped
from sg2 import FAMILY, renamed

from fsgen.families.stylegan2 import convert
from fsgen.methods.freezed import FreezeD

KIND = "freezed"


def each_test() -> list:
    found = [
        pytest.param(test, id=f"{case.label}-{i}-{test['network']}")
        for case in cases(KIND)
        for i, test in enumerate(case.info["tests"])
    ]
    return found or [skipped((KIND,))]


def method(test: dict) -> FreezeD:
    if "freezed" in test:
        return FreezeD(FreezeD.Options(layers=str(test["freezed"])))
    return FreezeD(FreezeD.Options(stages=test.get("stages", test.get("feature_loc"))))


def stylegan1(keys: list[str]) -> list[list[str]]:
    """Stages by StyleGAN1's names: from-RGB, then progression.0 (the picture's end) to the last (4 px)."""
    stages: dict[int, list[str]] = {}
    for key in keys:
        if match := re.match(r"(?:(from_rgb)|progression\.(\d+))", key):
            stages.setdefault(-1 if match[1] else int(match[2]), []).append(key)
    return [stages[i] for i in sorted(stages)]


def stylegan2(test: dict, keys: list[str]) -> dict:
    """The spec of a discriminator with parameters of these names."""
    spec = FAMILY.fresh(test["resolution"], classes=test.get("c_dim", 0), width=8)
    layers = {match[0] for key in keys if (match := re.match(r"mapping\.fc\d+", key))}
    return spec | {"d_architecture": test.get("architecture", "resnet"), "d_mapping_layers": len(layers)}


@pytest.mark.parametrize("test", each_test())
def test_trains_what_the_published_code_trains(test):
    keys = [*test["frozen"], *test["trainable"]]
    assert len(keys) == len(set(keys))
    held, name = method(test), {key: key for key in keys}
    if test["network"] == "freezed-stylegan1-d":
        frozen = held.frozen(stylegan1(keys))
    else:
        if test["network"] == "rosinality-d":
            name = renamed({key: torch.zeros(1) for key in keys}, convert.convert_d)
        spec = stylegan2(test, keys)
        ours = [key for key, _ in FAMILY.build(spec).d.named_parameters()]
        assert sorted(ours) == sorted(name.values())  # nothing is left out on either side
        frozen = {key for key in ours if not held.trains(FAMILY, spec, "d", key)}
    assert frozen == {name[key] for key in test["frozen"]}


@pytest.mark.parametrize("case", each(KIND))
def test_every_network_of_the_case_is_known(case: Case):
    known = {"freezed-stylegan1-d", "nvidia-d", "rosinality-d"}
    assert {test["network"] for test in case.info["tests"]} <= known
