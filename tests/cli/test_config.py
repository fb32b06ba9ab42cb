"""``--config``: a run is repeated from its config.toml; flags override its values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import draw_images, make_source

import fsgen
from fsgen import config as configs
from fsgen.models import model as models

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--size", 16, "--width", 4, "--batch", 4]


def weights(run):
    return models.load_model(run).hash


def stored(run):
    return configs.read_toml(run / "config.toml")


def replay(cli, command, run, out, *flags):
    """Repeat ``run``; the new run's folder."""
    done = cli(command, "--config", run / "config.toml", "--out", out, *flags)
    assert done.code == 0, done.err
    return Path(out)


@pytest.fixture
def images(tmp_path, drawings):
    shutil.copytree(drawings, tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def run(cli, tmp_path, tiny, images):
    """A run whose options all differ from the defaults."""
    done = cli(
        "adapt", "images", "--out", "run", "--source", tiny, "--method", "ewc,diffaugment", "--steps", 3,
        "--ewc-lambda", 50, "--ewc-samples", 4, "--diffaugment-policy", "color", "--batch", 2, "--lr", 0.01,
        "--seed", 5, "--fit", "pad", "--mirror", "--save-every", 2, "--sample-every", 2, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    return tmp_path / "run"


# ---- the same run ----------------------------------------------------------------------------------------


def test_a_run_is_repeated_to_the_same_weights(cli, run):
    again = replay(cli, "adapt", run, "again")
    assert weights(again) == weights(run) and stored(again) == stored(run)


def test_a_chosen_lambda_is_repeated(cli, tmp_path, tiny, images, monkeypatch):
    monkeypatch.setattr("fsgen.methods.ewc.TRIAL", 2)
    fsgen.adapt(images, out="run", source=tiny, steps=2, options={"ewc": {"samples": 4}}, device="cpu")
    again = replay(cli, "adapt", tmp_path / "run", "again")
    assert stored(again)["method"]["ewc"]["lambda"] != "auto"
    assert weights(again) == weights(tmp_path / "run") and stored(again) == stored(tmp_path / "run")


def test_a_run_with_early_stopping_is_repeated(cli, tmp_path, tiny, images, monkeypatch):
    monkeypatch.setattr("fsgen.training.early_stopping.EVERY", 2)
    monkeypatch.setattr("fsgen.training.early_stopping.SAMPLES", 4)
    monkeypatch.setattr("fsgen.training.early_stopping.BUDGET", 99)
    options = {"source": tiny, "method": "finetune", "steps": 6, "stop": "auto", "device": "cpu"}
    run = fsgen.adapt(images, out=tmp_path / "run", **options)
    again = replay(cli, "adapt", run, "again")
    assert weights(again) == weights(run) and stored(again) == stored(run)
    assert json.loads((again / "report.json").read_text())["run"]["steps"] == 2


@pytest.mark.parametrize("steps", [[], ["--steps", 3]], ids=["as_it_was", "longer"])
def test_training_from_scratch_is_repeated(cli, tmp_path, images, steps):
    small = ["--out", "run", *SMALL, "--steps", 2, "--method", "none", "--no-mirror"]
    assert cli("train", "images", *small).code == 0
    again = replay(cli, "train", tmp_path / "run", "again", *steps)
    assert (weights(again) == weights(tmp_path / "run")) == (not steps)
    assert stored(again)["run"]["steps"] == (3 if steps else 2)


def test_training_at_the_published_width_is_repeated(cli, tmp_path, images):
    small = ["--out", "run", "--family", "cgan", "--size", 16, "--grey", "--steps", 1]
    for name in ("a", "b"):
        draw_images(tmp_path / "pets" / name, 2)
    done = cli("train", "pets", "--classes", *small)
    assert done.code == 0, done.err
    assert weights(replay(cli, "train", tmp_path / "run", "again")) == weights(tmp_path / "run")


def test_training_of_a_changed_architecture_with_the_familys_methods_is_repeated(cli, tmp_path, images):
    run = fsgen.train(
        images, out=tmp_path / "run", family="fastgan", size=64, width=4, steps=1, batch=2,
        architecture={"sle": False}, device="cpu",
    )  # fmt: skip
    again = replay(cli, "train", run, "again")
    assert models.load_model(again).spec["sle"] is False and stored(again)["method"].keys() == {"diffaugment"}
    assert weights(again) == weights(run) and stored(again) == stored(run)


def test_a_class_conditional_run_is_repeated(cli, tmp_path):
    for k, name in enumerate(("cats", "dogs")):
        draw_images(tmp_path / "pets" / name, 3, seed=k)
    done = cli("train", "pets", "--classes", "--out", "run", *SMALL, "--steps", 2)
    assert done.code == 0, done.err
    again = replay(cli, "train", tmp_path / "run", "again")
    assert weights(again) == weights(tmp_path / "run")
    assert models.load_model(again).about["classes"] == ["cats", "dogs"]
    done = cli("adapt", "pets/cats", "--source", "run", "--new-class", "owls", "--method", "embedding",
               "--out", "owls", "--steps", 2)  # fmt: skip
    assert done.code == 0, done.err
    assert weights(replay(cli, "adapt", tmp_path / "owls", "more_owls")) == weights(tmp_path / "owls")


def test_runs_of_instances_are_repeated(cli, tmp_path, images):
    done = cli("train", "images", "--features", "bundled", "--neighbours", 2, "--mirror", "--out", "run",
               *SMALL, "--steps", 2)  # fmt: skip
    assert done.code == 0, done.err
    again = replay(cli, "train", tmp_path / "run", "again")
    assert weights(again) == weights(tmp_path / "run") and stored(again) == stored(tmp_path / "run")
    done = cli("adapt", "images", "--source", "run", "--method", "instances", "--out", "swapped")
    assert done.code == 0, done.err  # nothing is trained: its configuration has no steps
    assert weights(replay(cli, "adapt", tmp_path / "swapped", "once more")) == weights(tmp_path / "swapped")


# ---- flags override ----------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_is_overridden(cli, run, images, tmp_path):
    before = stored(run)

    def resolved(*flags):
        shown = cli("adapt", "--config", "run/config.toml", "--out", "b", "--dry-run", "--json", *flags)
        assert shown.code == 0, shown.err
        return json.loads(shown.out)

    def changed(*flags):
        """The resolved values that differ, by table and name."""
        after = resolved(*flags)
        return {
            f"{table}.{name}": value
            for table, values in after.items()
            for name, value in values.items()
            if value is not None and value != before[table].get(name)
        }

    assert changed() == {}
    assert changed("--seed", 6) == {"run.seed": 6}
    assert changed("--steps", 7) == {"run.steps": 7}
    assert changed("--no-mirror") == {"run.mirror": False}
    assert changed("--batch", 3) == {"recipe.batch": 3} and changed("--lr", 0.5) == {"recipe.lr": 0.5}
    ewc = before["method"]["ewc"]
    assert changed("--ewc-lambda", "auto") == {"method.ewc": ewc | {"lambda": "auto"}}
    assert changed("--ewc-samples", 9) == {"method.ewc": ewc | {"samples": 9}}
    shutil.copytree(images, tmp_path / "others")
    (tmp_path / "others" / "0000.png").unlink()
    assert changed("others").keys() == {"run.images", "run.images_digest"}
    methods = resolved("--method", "diffaugment,freezed", "--freezed-stages", 1)["method"]
    assert methods["diffaugment"] == before["method"]["diffaugment"] and methods["freezed"]["stages"] == 1
    assert methods.keys() == {"diffaugment", "freezed"}


def test_overridden_flags_change_the_weights(cli, run):
    runs = {
        "seed": replay(cli, "adapt", run, "a", "--seed", 6),
        "steps": replay(cli, "adapt", run, "b", "--steps", 2),
        "lambda": replay(cli, "adapt", run, "c", "--ewc-lambda", 5000),
    }
    assert len({weights(run), *map(weights, runs.values())}) == 4


# ---- refused -----------------------------------------------------------------------------------------


def refused(cli, code, where, *arguments):
    shown = cli(*arguments, "--json")
    error = json.loads(shown.err.splitlines()[-1])["error"]
    assert shown.code == 2 and error["code"] == code, error
    assert str(where) in error["where"] and str(where) in f"{error['message']} {error['hint']}", error


def test_a_configuration_of_the_other_command_is_refused(cli, run):
    refused(cli, "incompatible", "run/config.toml", "train", "--config", "run/config.toml", "--out", "b")
    shown = cli("train", "--config", "run/config.toml", "--out", "b")
    assert "fsgen adapt --config run/config.toml" in shown.err
    assert cli("train", "images", "--out", "scratch", *SMALL, "--steps", 1).code == 0
    refused(cli, "incompatible", "scratch/config.toml", "adapt", "--config", "scratch/config.toml",
            "--out", "b")  # fmt: skip
    assert not Path("b").exists()


@pytest.mark.parametrize(
    ("before", "after", "name", "code"),
    [
        ("[run]", "[run]\nstepz = 3", "stepz", "unknown-name"),
        ("[recipe]", "[recipe]\nbatchh = 3", "batchh", "unknown-name"),
        ("[method.ewc]", "[method.ewc]\nsampels = 3", "sampels", "unknown-name"),
        ("[method.ewc]", "[method.ewx]", "method.ewx", "unknown-name"),
        ("[recipe]", "[recpie]", "recpie", "unknown-name"),
        ('[run]', "extra = 3\n[run]", "extra", "unknown-name"),
        ("steps = 3", "steps = 'three'", "steps", "out-of-range"),
        ("[method.ewc]", "[run", "config.toml", "damaged"),
    ],
)  # fmt: skip
def test_unknown_and_damaged_values_are_refused_by_name(cli, run, before, after, name, code):
    text = (run / "config.toml").read_text()
    assert before in text
    (run / "config.toml").write_text(text.replace(before, after, 1))
    refused(cli, code, name, "adapt", "--config", "run/config.toml", "--out", "b")
    assert not Path("b").exists()


def test_a_configuration_without_images_or_run_is_refused(cli, run, tmp_path):
    text = (run / "config.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("images =")]
    (tmp_path / "bare.toml").write_text("\n".join(lines))
    refused(cli, "usage", "IMAGES", "adapt", "--config", "bare.toml", "--out", "b")
    (tmp_path / "empty.toml").write_text("")
    refused(cli, "damaged", "empty.toml", "adapt", "--config", "empty.toml", "--out", "b")
    refused(cli, "unsupported", "images", "adapt", "--config", "images", "--out", "b")
    assert not Path("b").exists()


def test_another_method_gets_its_own_recipe(cli, tiny, images):
    small = ["--source", tiny, "--steps", 1, "--device", "cpu"]
    assert cli("adapt", "images", "--out", "bsa", "--method", "bsa", *small).code == 0
    assert cli("adapt", "images", "--out", "plain", "--method", "finetune", *small).code == 0
    replay(cli, "adapt", Path("bsa"), "other", "--method", "finetune")
    assert stored(Path("other"))["recipe"] == stored(Path("plain"))["recipe"] != stored(Path("bsa"))["recipe"]


def test_missing_files_are_refused(cli, run):
    refused(cli, "not-found", "absent.toml", "adapt", "--config", "absent.toml", "--out", "b")
    refused(cli, "usage", "--out", "adapt", "--config", "run/config.toml")
    shutil.rmtree("images")
    refused(cli, "not-found", "images", "adapt", "--config", "run/config.toml", "--out", "b")
    refused(cli, "exists", "run", "adapt", "--config", "run/config.toml", "--out", "run")


def test_a_source_that_has_changed(cli, tmp_path, images):
    """Its configuration is repeated with the source as it is, and records it."""
    source = make_source(tmp_path / "source.safetensors")
    options = {"method": "finetune", "steps": 1, "device": "cpu"}
    run = fsgen.adapt(images, out=tmp_path / "run", source=source, **options)
    make_source(source, z_dim=5)
    again = replay(cli, "adapt", run, "again")
    assert (
        stored(again)["run"]["source_hash"]
        == models.load_model(source).hash
        != stored(run)["run"]["source_hash"]
    )
