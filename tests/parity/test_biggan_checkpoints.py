"""BigGAN's and IC-GAN's checkpoints against the published program: one file, or a folder of several."""

from __future__ import annotations

import tarfile
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from biggan_cases import FAMILY, outputs
from cases import Case, case_at, cases, close, each, skipped
from torch.nn import functional as F

from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Converted, Foreign, Inputs

KIND = "icgan-ckpt"


def place(case: Case) -> Path:
    """The checkpoint: a folder, one file, or the case's own folder where it names several files."""
    info = case.info
    files = [*info.get("files", [])]
    name = info.get("folder", info.get("file", files[0] if len(files) == 1 else ""))
    return case.folder / name


@lru_cache(maxsize=1)
def read(folder: Path) -> tuple[Foreign, Converted]:
    foreign = read_foreign(place(case_at(folder)))
    return foreign, FAMILY.convert(foreign)


@pytest.mark.parametrize("case, name", outputs(KIND))
def test_images_of_a_checkpoint(case, name):
    """Of the average, unless the config does without."""
    assert name == "eval.image", f"{case.label} has {name}, which no test compares"
    converted, config, io = read(case.folder)[1], case.info["config"], case.tensors()
    average = converted.g is None or (config.get("ema", True) and config.get("use_ema", True))
    g = FAMILY.build(converted.spec, discriminator=False).g
    g.load_state_dict(converted.g_ema if average else converted.g)
    y = F.one_hot(io["y"], g.c_dim).float() if "y" in io else None
    with torch.no_grad():
        image = g.eval()(Inputs(z=io["z"], y=y, h=io.get("h")))
    close(image, io[name], atol=case.info.get("suggested_atol"))


@pytest.mark.parametrize("case", each(KIND))
def test_all_networks_of_a_checkpoint_are_read(case):
    (foreign, converted), config = read(case.folder), case.info["config"]
    nets, spec = FAMILY.build(converted.spec), converted.spec
    for net, state in ((nets.g, converted.g), (nets.g, converted.g_ema), (nets.d, converted.d)):
        if state is not None:
            net.load_state_dict(state)
    assert spec["resolution"] == config["resolution"]
    assert bool(spec["c_dim"]) == config.get("class_cond", True)
    assert bool(spec["h_dim"]) == config.get("instance_cond", False)
    if "D_ch" in config and (converted.d is not None or foreign.settings.get("G")):  # else by G's unit
        published = FAMILY.fresh(config["resolution"], width=config["D_ch"])
        assert spec["d_widths"] == published["d_widths"]
    if place(case).is_dir():
        run = foreign.extras["run"]
        files = {part: place(case) / f"{part}_{run}.pth" for part in ("G", "G_ema", "D", "state_dict")}
        there = {part for part, file in files.items() if file.is_file()}
        assert foreign.tensors.keys() == there - {"state_dict"}
        assert foreign.settings["G"] == (config if "state_dict" in there else {})


def folders() -> list:
    found = [pytest.param(case, id=case.label) for case in cases(KIND) if place(case).is_dir()]
    return found or [skipped((f"{KIND} in a folder",))]


@pytest.mark.parametrize("case", folders())
def test_an_archive_of_a_checkpoint_is_the_checkpoint(case, tmp_path):
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(place(case), arcname=place(case).name)
    ours, (reference, _) = read_foreign(tmp_path / "packed.tar.gz"), read(case.folder)
    assert (ours.settings, ours.extras) == (reference.settings, reference.extras)
    for name, state in reference.tensors.items():
        assert ours.tensors[name].keys() == state.keys()
        assert all(torch.equal(ours.tensors[name][key], value) for key, value in state.items())
