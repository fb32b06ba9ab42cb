"""FUNIT's checkpoint files against the published implementation: one or several, of any of its networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from cases import Case, case_at, close, computed, each, each_output
from sg2 import renamed
from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.families.funit import convert
from fsgen.families.funit.family import FUNIT
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Foreign, Inputs

FAMILY = FUNIT()
KIND = "funit-ckpt"
INPUTS = ("content", "class_images")


class Files:
    """The networks of one case: both generators and the discriminator, those that its files have."""

    def __init__(self, case: Case) -> None:
        self.case, self.io, info = case, case.tensors(), case.info
        named = case.files or info["files_bytes"]
        networks = [name for name in named if not name.startswith("optim")]
        self.files = [read_foreign(case.folder / info.get("folder", "") / name) for name in networks]
        self.tensors = {name: state for file in self.files for name, state in file.tensors.items()}
        self.converted = FAMILY.convert(Foreign("torch", self.tensors))

    def g(self, which: str) -> torch.nn.Module:
        """By the reference's name: gen, or gen_test for the average."""
        g = FAMILY.build(self.converted.spec, discriminator=False).g.eval()
        g.load_state_dict(self.converted.g if which == "gen" else self.converted.g_ema)
        return g

    def inputs(self) -> Inputs:
        return Inputs(content=self.io["content"], style=self.io["class_images"][None])


STORED: tuple[tuple[str, Callable[[Files, re.Match], Tensor]], ...] = (
    (r"(gen|gen_test)\.translation", lambda run, m: run.g(m[1])(run.inputs())),
    (r"(gen|gen_test)\.class_code", lambda run, m: run.g(m[1]).class_code(run.inputs())[:, :, None, None]),
)


@lru_cache(maxsize=1)
def files_of(folder: Path) -> Files:
    return Files(case_at(folder))


@pytest.mark.parametrize("case, name", each_output(KIND, is_input=lambda case, name: name in INPUTS))
def test_images_of_a_checkpoint(case, name):
    run = files_of(case.folder)
    with torch.no_grad():
        close(computed(STORED, run, case, name), run.io[name], atol=case.info.get("suggested_atol"))


@pytest.mark.parametrize("case", each(KIND))
def test_each_file_of_a_checkpoint(case):
    """A file with a generator can be read alone, one of a discriminator cannot."""
    run = files_of(case.folder)
    for file in run.files:
        assert FAMILY.recognise(file)
        if file.tensors.keys() <= {"dis"}:
            with pytest.raises(FsgenError):
                FAMILY.convert(file)
            continue
        alone = FAMILY.convert(file)
        assert (alone.d is None) == ("dis" not in file.tensors)
        for ours, theirs in ((alone.g, run.converted.g), (alone.g_ema, run.converted.g_ema)):
            if ours is not None and theirs is not None:
                assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("case", each(KIND))
def test_networks_have_the_cases_architecture(case):
    converted, config = files_of(case.folder).converted, case.info["config"]
    spec = converted.spec
    assert spec["content_widths"][0] == config["gen"]["nf"]
    assert spec["content_blocks"] == spec["decoder_blocks"] == config["gen"]["n_res_blks"]
    assert spec["latent_dim"] == config["gen"]["latent_dim"]
    if converted.d is not None:
        assert spec["c_dim"] == config["dis"]["num_classes"]
        assert 2 * (len(spec["d_widths"]) - 1) == config["dis"]["n_res_blks"]
        FAMILY.build(spec).d.load_state_dict(converted.d)


@pytest.mark.parametrize("case", each(KIND))
def test_no_tensor_is_lost(case):
    """Bit for bit, but for the statistics of the affine normalisations, which nothing reads."""
    run = files_of(case.folder)
    networks = {
        "gen": (run.converted.g, convert.convert_g),
        "gen_test": (run.converted.g_ema, convert.convert_g),
        "dis": (run.converted.d, convert.convert_d),
    }
    for name, theirs in run.tensors.items():
        ours, change = networks[name]
        names = renamed(theirs, change)
        assert all(torch.equal(theirs[key].flatten(), ours[our].flatten()) for key, our in names.items())
        left = theirs.keys() - names.keys()
        assert set(names.values()) == ours.keys() and all(".norm.running_" in key for key in left)
