"""Weights of feature networks in a folder of the user's: found, recorded with the run, missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import refused
from safetensors.torch import save_file
from tiny import draw_images

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.config import read_toml
from fsgen.errors import Code
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_files import CATALOGUE
from fsgen.models import model as models
from fsgen.sampling import sheets
from fsgen.training import fisher, trainer
from fsgen.training.adapt import resume
from fsgen.training.run_options import RunConfig
from fsgen.training.train import train

MODEL = "test_resnet.r160_in1k"  # timm has it for tests: small
SMALL = {"size": 16, "width": 4, "device": "cpu", "steps": 1}


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path):
    import_torchvision()
    import timm

    (tmp_path / "weights").mkdir()
    state = timm.create_model(MODEL.split(".")[0], pretrained=False).state_dict()
    save_file(state, tmp_path / "weights" / f"{MODEL}.safetensors")
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("pictures"), 7)


def test_a_run_records_the_folder_of_its_weights(tmp_path, folder, pictures, drawings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(pictures, out="run", features=f"timm:{MODEL}", weights_dir="weights", **SMALL)
    assert read_toml(run / "config.toml")["run"]["weights_dir"] == str(folder)
    assert models.load_model(run).about["features"] == f"timm:{MODEL}"
    source = run.resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(source, steps=2)
    swapped = fsgen.adapt(
        drawings, out="swapped", source=source, weights_dir=folder, method="instances", device="cpu"
    )
    assert models.load_model(swapped).extra["conditions"].shape[0] == 5
    photo = sorted(pictures.iterdir())[0]
    one = sheets.SampleRequest(
        str(swapped), Path("a.png"), [0], instance=photo, weights_dir=folder, device="cpu"
    )
    two = sheets.SampleRequest(
        str(swapped), Path("b.png"), [0], candidates=2, weights_dir=folder, device="cpu"
    )
    assert all(sheets.write(asked, Callbacks())[0].is_file() for asked in (one, two))

    with refused(Code.MISSING_WEIGHTS, MODEL, f"fsgen pull metrics timm:{MODEL}"):
        sheets.write(
            sheets.SampleRequest(str(swapped), Path("new/c.png"), [0], candidates=2, device="cpu"),
            Callbacks(),
        )
    assert not Path("new").exists()
    with refused(Code.MISSING_WEIGHTS, MODEL):
        fsgen.adapt(drawings, out="other", source=source, method="instances", device="cpu")
    shutil.rmtree(folder)
    with refused(Code.NOT_FOUND, folder):
        resume(source, steps=3)
    assert not Path("other").exists()


@pytest.mark.parametrize("verb", ["adapt", "train"])
def test_a_missing_folder_is_refused_even_if_it_is_not_needed(tmp_path, tiny, drawings, verb):
    with refused(Code.NOT_FOUND, "--weights-dir", "absent") as caught:
        if verb == "train":
            train(drawings, out=tmp_path / "run", weights_dir="absent", **SMALL)
        else:
            fsgen.adapt(drawings, out=tmp_path / "run", source=tiny, weights_dir="absent", device="cpu")
    assert caught.value.exit_code == 2 and not (tmp_path / "run").exists()


def test_the_fisher_information_uses_the_folder(tmp_path, tiny, drawings, monkeypatch):
    asked, real = [], fisher.likelihood

    def likelihood(source, proxy, device, weights_dir=None):
        asked.append((proxy, weights_dir))
        return real(source, "reconstruction", device)

    monkeypatch.setattr(fisher, "likelihood", likelihood)
    options = {"ewc": {"proxy": "perceptual", "samples": 2, "lambda": "1"}}
    fsgen.adapt(
        drawings,
        out=tmp_path / "run",
        source=tiny,
        options=options,
        steps=1,
        weights_dir=tmp_path,
        device="cpu",
    )
    assert asked == [("perceptual", tmp_path)]


def test_reconstructions_are_compared_by_lpips_if_its_weights_are_there(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("fsgen.features.lpips_network.Lpips", lambda net, path, device: found.append(path))
    asked = SimpleNamespace(
        model=SimpleNamespace(family=SimpleNamespace(traits={"reconstruction"})), device="cpu",
        recipe=SimpleNamespace(reconstruction=1.0), callbacks=Callbacks(),
        config=RunConfig(weights_dir=str(tmp_path)),
    )  # fmt: skip
    trainer._perceptual(asked)
    assert found == []
    (tmp_path / CATALOGUE["vgg16"].file).touch()
    trainer._perceptual(asked)
    assert found == [tmp_path / CATALOGUE["vgg16"].file]
