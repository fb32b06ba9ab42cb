"""StyleGAN2 conditioned on the features of an instance (IC-GAN) against its published implementation."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case, case_at, close, computed, each, each_output
from sg2 import FAMILY, WHOLE_BATCH, files, foreign
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.interfaces import Inputs

KIND = "icgan-sg2"
INPUTS = ("z", "h", "c", "y")


def settings(case: Case) -> dict[str, Any]:
    """The spec entries that no tensor shows, as the case's config has them."""
    g, d = (case.info["config"].get(name, {}) for name in "GD")
    group = d.get("epilogue_kwargs", {}).get("mbstd_group_size", 4)
    return {
        "d_group": WHOLE_BATCH if group is None else group,
        "mapping_lr_mul": g.get("mapping_kwargs", {}).get("lr_multiplier", 0.01),
        "g_clamp": g.get("synthesis_kwargs", {}).get("conv_clamp"),
        "d_clamp": d.get("conv_clamp"),
    }


class Run:
    """The networks of one case, and their outputs by the names that the case has for them."""

    def __init__(self, case: Case) -> None:
        self.io = case.tensors()
        self.converted = FAMILY.convert(foreign(case, files(case)[0]))
        self.spec = self.converted.spec | settings(case)
        self.nets = FAMILY.build(self.spec)
        labels = self.io.get("c", self.io.get("y"))
        if labels is not None and not labels.is_floating_point():
            labels = F.one_hot(labels, self.spec["c_dim"]).float()
        self.inputs = Inputs(z=self.io["z"], h=self.io.get("h"), y=labels)

    @cached_property
    def g(self) -> nn.Module:
        state = self.converted.g_ema if self.converted.g_ema is not None else self.converted.g
        self.nets.g.load_state_dict(state)
        return self.nets.g.eval()

    @cached_property
    def d(self) -> nn.Module:
        self.nets.d.load_state_dict(self.converted.d)
        return self.nets.d.eval()


OUTPUTS: tuple[tuple[str, Callable[[Run, re.Match], Tensor]], ...] = (
    (r"ws", lambda run, m: run.g.mapping(run.inputs.z, run.inputs.y, run.inputs.h)),
    (r"image", lambda run, m: run.g(run.inputs)),
    (r"image_psi([\d.]+)", lambda run, m: run.g(run.inputs, truncation=float(m[1]))),
    (r"D\.cmap", lambda run, m: run.d.mapping(None, run.inputs.y, run.inputs.h)),
    (r"D\.logits_on_clamped_image", lambda run, m: run.d(run.io["image"].clamp(-1, 1), run.inputs)),
)


@lru_cache(maxsize=2)
def run_of(folder: Path) -> Run:
    return Run(case_at(folder))


@pytest.mark.parametrize("case, name", each_output(KIND, is_input=lambda case, name: name in INPUTS))
def test_output(case, name):
    """Every tensor that is no input has an entry in OUTPUTS, or this fails."""
    run = run_of(case.folder)
    with torch.no_grad():
        close(computed(OUTPUTS, run, case, name), run.io[name])


@pytest.mark.parametrize("case", each(KIND))
def test_the_architecture_is_inferred(case):
    spec, config = run_of(case.folder).converted.spec, case.info["config"]
    for theirs, ours in {
        "z_dim": "z_dim", "c_dim": "c_dim", "h_dim": "h_dim", "w_dim": "w_dim",
        "img_resolution": "resolution", "img_channels": "channels",
    }.items():  # fmt: skip
        assert spec[ours] == config["G"].get(theirs, spec[ours]), theirs
    for ours, network in (("mapping_layers", "G"), ("d_mapping_layers", "D")):
        told = config.get(network, {}).get("mapping_kwargs", {}).get("num_layers", spec[ours])
        assert spec[ours] == told, network
