from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from refusals import refused
from tiny import draw_images

import fsgen
from fsgen import registry
from fsgen.data.images import load_images
from fsgen.errors import Code
from fsgen.interfaces import Inputs
from fsgen.io.run_folder import RunFolder
from fsgen.models import model as models
from fsgen.training import batches
from fsgen.training.adapt import adapt, resume
from fsgen.training.train import train

SMALL = {"size": 16, "width": 4, "device": "cpu"}


def weights(run):
    return models.load_model(run).hash


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Three folders of two, three and four pictures."""
    folder = tmp_path_factory.mktemp("classes")
    for k, name in enumerate(("cats", "dogs", "eels")):
        draw_images(folder / name, 2 + k, seed=k)
    return folder


def test_a_source_is_trained_from_scratch_and_can_be_adapted(tmp_path, drawings):
    run = train(drawings, out=tmp_path / "run", steps=2, **SMALL)
    model = models.load_model(run)
    assert model.about["title"].startswith("stylegan2 16 px") and "source" not in model.about
    assert set(model.networks) == {"g", "g_ema", "d"}
    report = json.loads((run / "report.json").read_text())["run"]
    assert report["source"] is None and report["steps"] == 2
    assert len(fsgen.load(run, device="cpu").sample(3)) == 3
    adapted = adapt(drawings, out=tmp_path / "next", source=run, method="finetune", steps=1, device="cpu")
    assert models.load_model(adapted).about["source"]["hash"] == model.hash


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, drawings, one_thread):
    whole = train(drawings, out=tmp_path / "whole", steps=4, **SMALL)
    part = train(drawings, out=tmp_path / "part", steps=2, **SMALL)
    resume(part, steps=4)
    assert weights(whole) == weights(part)
    other = train(drawings, out=tmp_path / "other", steps=4, seed=1, **SMALL)
    assert weights(other) != weights(whole)


def test_augmentation_helps_and_methods_that_need_a_source_are_refused(tmp_path, drawings):
    plain = train(drawings, out=tmp_path / "plain", steps=2, **SMALL)
    helped = train(drawings, out=tmp_path / "helped", steps=2, method="diffaugment", **SMALL)
    assert weights(plain) != weights(helped)
    for method in ("ewc", "classcode"):
        with refused(Code.INCOMPATIBLE, method, "fsgen adapt --source"):
            train(drawings, out=tmp_path / "run", method=method, **SMALL)
    with refused(Code.OUT_OF_RANGE, "--size 50"):
        train(drawings, out=tmp_path / "run", size=50)
    with refused(Code.UNKNOWN_NAME, "'stylegan'", "did you mean 'stylegan2'"):
        train(drawings, out=tmp_path / "run", family="stylegan")
    assert not (tmp_path / "run").exists()


def test_a_family_brings_the_methods_of_its_published_training(tmp_path, drawings):
    config = train(drawings, out=tmp_path / "run", family="fastgan", width=4, dry_run=True)
    assert config["run"]["mirror"] is True
    assert config["method"] == {"diffaugment": {"policy": "color,translation", "where": "all"}}
    plain = train(
        drawings, out=tmp_path / "run", family="fastgan", width=4, method="none", mirror=False, dry_run=True
    )
    assert plain["run"]["mirror"] is False and plain["method"] == {}
    config = train(drawings, out=tmp_path / "run", dry_run=True, **SMALL)
    assert config["run"]["mirror"] is False and config["method"] == {}


def test_a_part_of_the_architecture_can_be_changed(tmp_path, drawings):
    changed = SMALL | {"family": "fastgan", "size": 64, "architecture": {"sle": False}}
    run = train(drawings, out=tmp_path / "run", steps=1, **changed)
    model = models.load_model(run)
    assert not any("gate" in key for key in model.networks["g"]) and model.spec["sle"] is False
    resume(run, steps=2)
    with refused(Code.UNKNOWN_NAME, "'slee'", "did you mean 'sle'"):
        train(drawings, out=tmp_path / "x", **changed | {"architecture": {"slee": False}})
    with refused(Code.OUT_OF_RANGE, "'sle'", "fastgan", "bool", "0"):
        train(drawings, out=tmp_path / "x", **changed | {"architecture": {"sle": 0}})


def test_a_dry_run_resolves_and_writes_nothing(tmp_path, drawings):
    config = train(drawings, out=tmp_path / "run", dry_run=True, recipe={"lr": 0.5}, **SMALL)
    assert config["run"]["fresh"]["size"] == 16 and config["recipe"]["lr"] == 0.5
    assert not (tmp_path / "run").exists()


# ---- classes ---------------------------------------------------------------------------------------------


def test_sub_folders_are_classes(tmp_path, classes):
    run = train(classes, out=tmp_path / "run", steps=2, classes=True, **SMALL)
    model = models.load_model(run)
    assert model.about["classes"] == ["cats", "dogs", "eels"] and model.spec["c_dim"] == 3
    resume(run, steps=3)
    assert len(fsgen.load(run, device="cpu").sample(2)) == 2


def test_a_class_is_sampled_by_number_or_name(tmp_path, classes, tiny):
    run = train(classes, out=tmp_path / "run", steps=2, classes=True, recipe={"lr": 0.05}, **SMALL)
    loaded = fsgen.load(run, device="cpu")
    dogs = loaded.sample(4, label="dogs")
    assert torch.equal(dogs, loaded.sample(4, label=1)) and not torch.equal(dogs, loaded.sample(4, label="2"))
    for label in ("dog", 3, "-1"):
        with refused(Code.UNKNOWN_NAME, "--class", f"'{label}'"):
            loaded.sample(1, label=label)
    with refused(Code.INCOMPATIBLE, "--class"):
        fsgen.load(tiny, device="cpu").sample(1, label=0)


def test_a_batch_holds_images_of_its_labels(classes):
    images = load_images(classes, 16)
    labels = [("cats", "dogs", "eels").index(name.split("/")[0]) for name in images.names]
    draw = batches.real_batches(images, torch.device("cpu"), mirror=False, classes=labels)
    wanted = torch.tensor([0, 2, 1, 2, 0, 1] * 10)
    inputs = Inputs(y=torch.nn.functional.one_hot(wanted, 3).float())
    got = draw(60, torch.Generator().manual_seed(0), inputs)
    seen = set()
    for image, k in zip(got, wanted.tolist(), strict=True):
        rows = [row for row in range(len(images)) if torch.equal(images.floats([row])[0], image)]
        assert len(rows) == 1 and labels[rows[0]] == k
        seen.add(rows[0])
    assert seen == set(range(9))  # each image of each class is drawn


def test_folders_that_are_no_classes_are_refused(tmp_path, classes, drawings):
    with refused(Code.INCOMPATIBLE, drawings, "0000.png"):
        train(drawings, out=tmp_path / "run", classes=True, **SMALL)
    one = tmp_path / "one"
    shutil.copytree(classes / "cats", one / "cats")
    with refused(Code.INCOMPATIBLE, one, "only cats"):
        train(one, out=tmp_path / "run", classes=True, **SMALL)
    shutil.copytree(classes / "dogs", one / "dogs")
    (one / "empty").mkdir()
    with refused(Code.TOO_FEW, one / "empty"):
        train(one, out=tmp_path / "run", classes=True, **SMALL)
    shutil.rmtree(one / "empty")
    (one / "torn").mkdir()
    (one / "torn" / "a.png").write_bytes(b"no image")
    with refused(Code.TOO_FEW, "'torn'"):
        train(one, out=tmp_path / "run", classes=True, **SMALL)
    for name in registry.families():
        if not registry.family(name).traits & {"classes", "translation"}:
            with refused(Code.INCOMPATIBLE, name, "--classes"):
                train(classes, out=tmp_path / "run", family=name, size=64, classes=True)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_from_scratch_does_not_depend_on_how_its_start_was_drawn(tmp_path, drawings):
    """Orthogonal weights differ in the last bit between numbers of threads; the saved state replaces them."""
    train(drawings, out=tmp_path / "run", steps=1, **SMALL)
    config = tmp_path / "run" / "config.toml"
    config.write_text(re.sub(r'source_hash = "\w+"', 'source_hash = "another"', config.read_text()))
    resume(tmp_path / "run", steps=2)
    assert RunFolder.open(tmp_path / "run").step == 2
