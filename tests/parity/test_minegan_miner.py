"""MineGAN's miners, and the pictures that come of them, against the published StyleGAN2 version."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from cases import Case, case_at, close
from sg2 import generator, outputs, parts
from torch import Tensor

from fsgen.interfaces import Inputs
from fsgen.methods.minegan import MineGAN


def constant_miner(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's miner of the constant by our names."""
    found = {"code": state["input.input"][0]}
    for key, value in state.items():
        if match := re.fullmatch(r"(?:conv|relu)(\d+)\.(weight|bias)", key):
            found[f"layers.{int(match[1]) - 1}.{match[2]}"] = value
    assert len(found) == len(state)
    return found


def options_of(weights: dict[str, dict[str, Tensor]], mine: str) -> MineGAN.Options:
    """The sizes of the case's miners."""
    miner, constant = weights["miner"], weights.get("miner_semantic", {})
    hidden, inputs = miner["transform.0.weight"].shape
    sizes = {"hidden": "auto" if hidden == inputs else str(hidden)}
    if constant:
        convs = [constant[key] for key in sorted(constant) if re.fullmatch(r"conv\d+\.weight", key)]
        sizes |= {"code": constant["input.input"].shape[1]}
        sizes |= {"widths": ",".join(str(conv.shape[0]) for conv in convs[:-1])}
    return MineGAN.Options(mine=mine, **sizes)


class Mined:
    """A case's generator with its miners, as the method fits them."""

    def __init__(self, case: Case, *, mine: str) -> None:
        self.case, self.io = case, case.tensors()
        weights = parts(case)
        self.g = generator(case, weights["g"])
        self.method = MineGAN(options_of(weights, mine))
        self.method.add_modules(self.g, None)
        miner = {key.removeprefix("transform."): value for key, value in weights["miner"].items()}
        self.g.minegan.load_state_dict(miner)
        if mine == "both":
            constant = constant_miner(weights["miner_semantic"])
            self.g.synthesis.b4.parametrizations.const[0].load_state_dict(constant)

    def mined(self, z: Tensor) -> Tensor:
        return self.method.transform_inputs(Inputs(z=z), self.g, torch.Generator(), True).z

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        z = self.io["in.z1"].clone().requires_grad_()
        (self.mined(z) * self.io["in.grad_mined"]).sum().backward()
        found = {name: parameter.grad for name, parameter in self.g.minegan.named_parameters()}
        return {"z1": z.grad} | {f"miner.transform.{name}": grad for name, grad in found.items()}

    @torch.no_grad()
    def picture(self, z: Tensor) -> Tensor:
        return self.g(Inputs(z=z))

    @torch.no_grad()
    def mixed(self) -> Tensor:
        """[n, num_ws, w_dim] of both latents, each mined."""
        cut = self.case.info["config"]["inject_index"]
        first, second = (self.g.map(Inputs(z=self.mined(self.io[f"in.z{i}"]))) for i in (1, 2))
        return torch.cat([first[:, :cut], second[:, cut:]], dim=1)

    @torch.no_grad()
    def exported(self, z: Tensor) -> Tensor:
        """As a finished model draws: miners stored and folded."""
        finished = Mined(self.case, mine="both")
        stored = finished.method.export(finished.g)
        return finished.g(replace(MineGAN.prepare_inputs(stored, Inputs(z=z)), mix=None))


@lru_cache(maxsize=2)
def run_of(folder: Path, mine: str) -> Mined:
    return Mined(case_at(folder), mine=mine)


OUTPUTS: tuple[tuple[str, str, Callable[[Mined, re.Match], Tensor]], ...] = (
    (r"mined_z(\d)", "latents", lambda run, m: run.mined(run.io[f"in.z{m[1]}"])),
    (r"mined_list\.(\d)", "latents", lambda run, m: run.mined(run.io[f"in.z{int(m[1]) + 1}"])),
    (r"grad[_.](.+)", "latents", lambda run, m: run.gradients[m[1]]),
    (r"img", "latents", lambda run, m: run.picture(run.mined(run.io["in.z1"]))),
    (r"img_without_miner", "latents", lambda run, m: run.picture(run.io["in.z1"])),
    (r"const", "both", lambda run, m: run.g.synthesis.b4.const[None]),
    (r"img_semantic", "both", lambda run, m: run.picture(run.mined(run.io["in.z1"]))),
    (r"img_semantic", "both", lambda run, m: run.exported(run.io["in.z1"])),
    (r"latents_mix", "latents", lambda run, m: run.mixed()),
    (r"img_semantic_mix", "both", lambda run, m: run.g.synthesis(run.mixed(), "const", None)[0]),
)


@pytest.mark.parametrize("case, name", outputs("minegan-miner"))
def test_output(case, name):
    """Every tensor that is no input has an entry in OUTPUTS, or this fails."""
    found = False
    for pattern, mine, compute in OUTPUTS:
        if match := re.fullmatch(rf"out\.{pattern}", name):
            run = run_of(case.folder, mine)
            close(compute(run, match), run.io[name], grad="grad" in name)
            found = True
    assert found, f"{case.label} has {name}, which no test compares"
