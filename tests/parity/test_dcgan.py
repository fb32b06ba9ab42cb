"""DCGAN against the published networks: pictures, logits, statistics, for every tensor a case has."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from cases import WEIGHTS, Case, case_at, cases, close, computed, each, each_output, skip_unused
from torch import Tensor

from fsgen.families.dcgan import DCGAN
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Inputs

KIND = "dcgan"
FAMILY = DCGAN()
INPUTS = ("z", "x")


class Run:
    """One case: its networks in eval mode, and G once more in train mode."""

    def __init__(self, case: Case) -> None:
        foreign = read_foreign(case.folder / case.info.get("file", WEIGHTS))
        assert FAMILY.recognise(foreign)
        self.converted = FAMILY.convert(foreign)
        self.io = case.tensors()
        self.state = self.converted.g_ema if self.converted.g is None else self.converted.g
        nets = FAMILY.build(self.converted.spec)
        self.g, self.d = nets.g.eval(), nets.d.eval()
        self.g.load_state_dict(self.state)
        if self.converted.d is not None:  # else the case has no output of it
            self.d.load_state_dict(self.converted.d)
        self.inputs = Inputs(z=self.io["z"].flatten(1))

    @cached_property
    def image(self) -> Tensor:
        return self.g(self.inputs)

    @cached_property
    def trained(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The picture of one pass in train mode, and what that leaves in the statistics."""
        g = FAMILY.build(self.converted.spec, discriminator=False).g
        g.load_state_dict(self.state)
        return g(self.inputs), g.state_dict()

    def logit(self, of: str) -> Tensor:
        return self.d(self.io["x"] if of == "x" else self.image).flatten()


OUTPUTS: tuple[tuple[str, Callable[[Run, re.Match], Tensor]], ...] = (
    (r"image(?:_stride(\d+))?", lambda run, m: _strided(run.image, m[1])),
    (r"train_image(?:_stride(\d+))?", lambda run, m: _strided(run.trained[0], m[1])),
    (r"logit_(x|image)", lambda run, m: run.logit(m[1])),
    (r"prob_(x|image)", lambda run, m: run.logit(m[1]).sigmoid()),
    (r"train_after\.(.+)", lambda run, m: run.trained[1][m[1]]),
)


def _strided(image: Tensor, step: str | None) -> Tensor:
    return image[:, :, :: int(step or 1), :: int(step or 1)]


@lru_cache(maxsize=2)  # the tests of one case follow one another
def run_of(folder: Path) -> Run:
    return Run(case_at(folder))


@pytest.mark.parametrize("case, name", each_output(KIND, is_input=lambda case, name: name in INPUTS))
def test_output(case, name):
    """Every tensor that is no input has an entry in OUTPUTS, or this fails."""
    run = run_of(case.folder)
    assert run.converted.d is not None or not name.startswith(("logit", "prob"))
    with torch.no_grad():
        close(computed(OUTPUTS, run, case, name), run.io[name])


@pytest.mark.parametrize("case", each(KIND))
def test_architecture_is_inferred(case):
    spec, config = run_of(case.folder).converted.spec, case.info["config"]
    for theirs, ours in {
        "size": spec["resolution"],
        "nc": spec["channels"],
        "nz": spec["z_dim"],
        "ngf": spec["g_widths"][-1],
        "ndf": spec["d_widths"][0],
    }.items():
        if theirs == "ndf" and run_of(case.folder).converted.d is None:
            continue
        assert config.get(theirs, ours) == ours, theirs


@pytest.mark.parametrize("case", each(KIND))
def test_no_tensor_is_lost(case):
    """Bit for bit, each under the end of the reference's own name."""
    run = run_of(case.folder)
    kept = [value for state in (run.state, run.converted.d or {}) for value in state.items()]
    networks = read_foreign(case.folder / case.info.get("file", WEIGHTS)).tensors
    reference = [item for state in networks.values() for item in state.items()]
    counters = sum(name.endswith("num_batches_tracked") for name, _ in kept)
    assert len(kept) - counters <= len(reference) <= len(kept)  # files of old have no counters
    for key, value in reference:
        assert any(key.endswith(name) and torch.equal(ours, value) for name, ours in kept), key


def test_every_pattern_finds_a_tensor_of_some_case():
    skip_unused((pattern for pattern, _ in OUTPUTS), (n for case in cases(KIND) for n in case.names()))
