"""The patches of cross-domain correspondence against the published implementation."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import Case, case_at, close
from sg2 import FAMILY, outputs, parts, renamed, settings
from torch import Tensor

from fsgen.families.stylegan2 import convert
from fsgen.interfaces import Inputs, StepContext
from fsgen.methods.cdc import CDC
from fsgen.nn.layers import EqualConv

G_OF_NO_INTEREST = {
    "z_dim": 2, "w_dim": 2, "g_embed_dim": 0, "mapping_layers": 1, "mapping_lr_mul": 1.0, "g_clamp": None,
    "g_widths": {str(4 << i): 1 for i in range(9)},
}  # fmt: skip


class Patches:
    """A case's discriminator, and a head for each of the maps that one may look at."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        self.parts = parts(case)
        state = convert.convert_d(self.parts["d"])
        px = case.info["config"]["resolution"]
        spec = {"resolution": px, "channels": self.io["in.real"].shape[1], "c_dim": 0, "d_embed_dim": 0}
        spec |= convert._infer_d(state, px, {}) | settings(case)
        self.d = FAMILY.build({**G_OF_NO_INTEREST, **spec}).d
        self.d.load_state_dict(state)
        self.method = CDC()
        self.method.spec = spec
        self.method.add_modules(None, self.d)  # changes nothing of D's own
        self.heads = {p: self.head(p) for p in {int(key.split(".")[1]) for key in self.parts["extra"]}}
        if self.d.cdc.weight.shape == self.heads[0].weight.shape:
            self.d.cdc.load_state_dict(self.heads[0].state_dict())
            self.heads[0] = self.d.cdc

    def head(self, p: int) -> EqualConv:
        weight, bias = (self.parts["extra"][f"new_conv.{p}.{part}"] for part in ("0.weight", "1.bias"))
        head = EqualConv(weight.shape[1], 1, weight.shape[-1])
        head.load_state_dict({"weight": weight, "bias": bias})
        return head

    def maps(self, images: Tensor) -> list[Tensor]:
        """What patches may be taken of, by the published rule: the widest maps of 32 and 16 px."""
        width = self.case.info["config"]["top_width"]
        return [x for x in self.d.taps(images) if x.shape[1] == width and x.shape[2] in (32, 16)]

    def judge(self, p: int | None, images: Tensor) -> Tensor:
        """Logits of the whole picture, of the published default's patches, or of other maps'.

        The method takes the default's, but where a case's widest map of 32 px is not the first one.
        """
        self.method.anchored = p is None
        if p is None or (p == 0 and self.heads[0] is self.d.cdc):
            return self.method.discriminator(self.d)(images, Inputs())
        return self.heads[p](self.maps(images)[p])

    def r1(self, p: int) -> Tensor:
        """By the family, with a weight of one."""
        recipe = SimpleNamespace(r1_gamma=2.0, r1_every=1)
        context = StepContext(
            None, lambda images, inputs: self.judge(p, images), recipe, self.io["in.real"], Inputs(), None,
            lambda images, who: images, None, {},
        )  # fmt: skip
        return FAMILY.regularise(context, "d", 0)["r1"]

    def r1_gradient(self, p: int, key: str) -> Tensor:
        if match := re.fullmatch(r"extra\.(\d+)", key):
            of = self.heads[int(match[1])].weight
        else:
            of = self.d.get_parameter(renamed(self.parts["d"], convert.convert_d)[key])
        return torch.autograd.grad(self.r1(p), of)[0]


@lru_cache(maxsize=1)
def run_of(folder: Path) -> Patches:
    return Patches(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("cdc-patch"))
def test_patches(case, name):
    run = run_of(case.folder)
    match = re.fullmatch(r"out\.(?:image|patch(\d+))\.(\w+)(?:\.(.+))?", name)
    assert match, f"{case.label} has {name}, which no test compares"
    p = None if match[1] is None else int(match[1])
    logits = {who: run.judge(p, run.io[f"in.{who}"]) for who in ("real", "fake")}
    ours = {
        "real": lambda: logits["real"],
        "fake": lambda: logits["fake"],
        "d_loss": lambda: FAMILY.loss_d(logits["real"], logits["fake"]),
        "g_loss": lambda: FAMILY.loss_g(logits["fake"]),
        "r1": lambda: run.r1(p),
        "r1_grad": lambda: run.r1_gradient(p, match[3]),
    }[match[2]]()
    close(ours, run.io[name], grad="grad" in name)
