"""StyleGAN2 conditioned on the features of an instance (IC-GAN) against its published implementation."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from cases import cases, close, each
from sg2 import FAMILY, WEIGHTS, foreign
from torch import Tensor

from fsgen.interfaces import Inputs

KIND = "icgan-sg2"
INPUTS = ("z", "h", "c", "y")


@lru_cache(maxsize=2)
def computed(folder: Path) -> dict[str, Tensor]:
    """Every output of a case by the name its file has."""
    case = next(case for case in cases(KIND) if case.folder == folder)
    config, io = case.info["config"], case.tensors()
    converted = FAMILY.convert(foreign(case, WEIGHTS))
    group = config["D"].get("epilogue_kwargs", {}).get("mbstd_group_size", 4)
    spec = converted.spec | {"d_group": group}
    nets = FAMILY.build(spec)
    nets.g.load_state_dict(converted.g if converted.g is not None else converted.g_ema)
    nets.d.load_state_dict(converted.d)
    g, d = nets.g.eval(), nets.d.eval()
    inputs = Inputs(z=io["z"], h=io["h"], y=io.get("c", io.get("y")))
    with torch.no_grad():
        image = g(inputs)
        found = {
            "ws": g.mapping(inputs.z, inputs.y, inputs.h),
            "image": image,
            "D.cmap": d.mapping(None, inputs.y, inputs.h),
            "D.logits_on_clamped_image": d(io["image"].clamp(-1, 1), inputs),
        }
        for name in io:
            if match := re.fullmatch(r"image_psi([\d.]+)", name):
                found[name] = g(inputs, truncation=float(match[1]))
    return found


@pytest.mark.parametrize("case", each(KIND))
def test_outputs(case):
    found, io = computed(case.folder), case.tensors()
    for name, reference in io.items():
        if name not in INPUTS:
            assert name in found, f"{case.label} has {name}, which no test compares"
            close(found[name], reference)


@pytest.mark.parametrize("case", each(KIND))
def test_the_architecture_is_inferred(case):
    spec, g = FAMILY.convert(foreign(case, WEIGHTS)).spec, case.info["config"]["G"]
    for theirs, ours in {
        "z_dim": "z_dim", "c_dim": "c_dim", "h_dim": "h_dim", "w_dim": "w_dim",
        "img_resolution": "resolution", "img_channels": "channels",
    }.items():  # fmt: skip
        assert spec[ours] == g[theirs]
    assert spec["mapping_layers"] == g["mapping_kwargs"]["num_layers"]
