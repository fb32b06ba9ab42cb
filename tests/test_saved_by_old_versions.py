"""Models and runs saved by older versions load, sample to the same pixels and resume to the same weights.

``tests/fixtures/old/index.json`` lists what there is; nothing about a particular case stands here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures.machine import machine
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fsgen
from fsgen.training.adapt import resume

OLD = Path(__file__).parent / "fixtures" / "old"
INDEX = json.loads((OLD / "index.json").read_text(encoding="utf-8"))
HERE = "@HERE@"  # in the fixtures, the folder that they lie in
# On another kind of CPU, pixels may be off by so many levels of 255, and the weights of a network by so much
# in the mean: Adam and RMSProp divide by the size of gradients, so single weights may differ by 1e-3.
LEVELS, WEIGHTS = 2, 1e-4

pytestmark = pytest.mark.usefixtures("as_recorded", "without_pages")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A copy of the fixtures with paths as they would be had they been made there."""
    folder = tmp_path_factory.mktemp("saved") / "old"
    shutil.copytree(OLD, folder)
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
            if any(HERE in value for value in header.values()):
                known = {key: value.replace(HERE, folder.as_posix()) for key, value in header.items()}
                save_file(load_file(path), path, known)
        elif path.suffix != ".png":
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(HERE, folder.as_posix()), encoding="utf-8")
    for config in folder.rglob("config.toml"):
        for name in ("state", "samples", "plots"):  # every run has them; git keeps no empty folder
            (config.parent / name).mkdir(exist_ok=True)
    return folder


@pytest.fixture
def as_recorded(monkeypatch, tmp_path):
    """Threads as when the fixtures were made, no weights from other caches, no time spent on plots."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(INDEX["threads"])
    yield
    torch.set_num_threads(threads)


def test_every_case_is_listed():
    files = {path.relative_to(OLD).parts[0] for path in OLD.rglob("*.safetensors")} - {"samples.safetensors"}
    listed = {entry["path"] for entry in INDEX["models"]} | {entry["run"] for entry in INDEX["resumes"]}
    assert files == {Path(path).parts[0] for path in listed}
    assert sum(path.stat().st_size for path in OLD.rglob("*")) < 6e6


@pytest.mark.parametrize("entry", INDEX["models"], ids=lambda entry: entry["path"])
def test_a_model_samples_to_the_same_pixels(old, entry):
    loaded = fsgen.load(old / entry["path"], device="cpu")
    assert loaded.model.hash == entry["hash"]
    if entry["contents"]:
        loaded = loaded.translating(old / entry["contents"])
    same_pixels(loaded.sample(entry["seeds"]), load_file(OLD / "samples.safetensors")[entry["path"]])


@pytest.mark.parametrize(
    "entry", INDEX["resumes"], ids=lambda entry: f"{entry['run']} to {Path(entry['expected']).name}"
)
def test_a_run_resumes_to_the_same_weights(old, tmp_path, entry):
    run = shutil.copytree(old / entry["run"], tmp_path / "run")
    assert resume(run, steps=entry["steps"]) == run
    found, expected = (
        fsgen.load(run, device="cpu").model,
        fsgen.load(old / entry["expected"], device="cpu").model,
    )
    if alike(found.hash == expected.hash):
        return
    assert found.networks.keys() == expected.networks.keys()
    for network, tensors in expected.networks.items():
        differences = [(found.networks[network][key] - tensors[key]).abs().flatten() for key in tensors]
        assert torch.cat(differences).mean() < WEIGHTS, network


def test_info_describes_a_finished_run(old):
    run = next(entry for entry in INDEX["models"] if (old / entry["path"]).is_dir())
    program = "from fsgen.cli.app import main; main()"
    command = [sys.executable, "-c", program, "info", str(old / run["path"]), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["hash"] == run["hash"]


def same_pixels(found: torch.Tensor, expected: torch.Tensor) -> None:
    if not alike(torch.equal(found, expected)):
        assert (found.int() - expected.int()).abs().max() <= LEVELS


def alike(same: bool) -> bool:
    """``same``, which must be True where the last bits of a sum are as they were when recorded."""
    assert same or machine() != INDEX["machine"]
    return same
