"""Models that translate images to a class: trained, given a new class without training, sampled."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from refusals import refused
from tiny import draw_images, make_source

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.data.images import load_images
from fsgen.errors import Code
from fsgen.models import model as models
from fsgen.sampling import sheets, translation
from fsgen.training.adapt import resume
from fsgen.training.train import train

SMALL = {"family": "funit", "size": 32, "width": 2, "device": "cpu", "recipe": {"batch": 2}}


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for k, name in enumerate(("cats", "dogs", "eels")):
        draw_images(folder / name, 3, seed=k)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory, classes):
    out = tmp_path_factory.mktemp("source") / "run"
    return train(classes, out=out, classes=True, steps=2, **SMALL)


def test_a_model_that_translates_is_trained_and_stores_its_classes(source, classes):
    model = models.load_model(source)
    assert model.spec["c_dim"] == 3 and model.about["classes"] == ["cats", "dogs", "eels"]
    codes = model.extra["conditions"]
    assert codes.shape == (3, 64)
    own = load_images(classes / "dogs", 32)
    torch.testing.assert_close(codes[1:2], translation.code_of(model.generator(), own.floats()))
    sheet = Image.open(source / "samples" / "000002.png")
    assert sheet.size[0] > 32 * 8


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, classes, one_thread):
    whole = train(classes, out=tmp_path / "whole", classes=True, steps=3, **SMALL)
    part = train(classes, out=tmp_path / "part", classes=True, steps=1, **SMALL)
    resume(part, steps=3)
    assert models.load_model(whole).hash == models.load_model(part).hash


def test_contents_styles_and_labels_belong_together(classes):
    images = load_images(classes, 32)
    labels = [("cats", "dogs", "eels").index(name.split("/")[0]) for name in images.names]
    model = models.Model(None, {"c_dim": 3}, {})
    data = translation.ClassImages.of(images, labels, model)
    inputs = data.drawing(torch.nn.Linear(1, 1))(40, torch.Generator().manual_seed(0))
    for i in range(40):
        style, content = (
            [r for r in range(9) if torch.equal(images.floats([r])[0], picture)]
            for picture in (inputs.style[i, 0], inputs.content[i])
        )
        assert style == [int(inputs.rows[i])] and labels[style[0]] == inputs.y[i].argmax()
        assert labels[content[0]] == inputs.content_y[i].argmax()
    other = inputs.y.argmax(dim=1) != inputs.content_y.argmax(dim=1)
    assert 15 < other.sum() < 38  # of 40, two of three being expected: its own class is not left out


def test_a_class_is_stored_without_training(tmp_path, source, drawings):
    run = fsgen.adapt(drawings, out=tmp_path / "five_cats", source=source, method="classcode", device="cpu")
    before, after = models.load_model(source), models.load_model(run)
    for name, state in before.networks.items():
        assert all(torch.equal(value, after.networks[name][key]) for key, value in state.items()), name
    code = translation.code_of(before.generator(), load_images(drawings, 32).floats())
    torch.testing.assert_close(after.extra["conditions"], code)
    assert after.about["classes"] == [drawings.name]
    resume(run)
    assert models.load_model(run).hash == after.hash
    with refused(Code.INCOMPATIBLE, "classcode", "--steps"):
        resume(run, steps=3)


def test_pictures_are_translated_in_their_order(tmp_path, source, drawings):
    loaded = fsgen.load(source, device="cpu").translating(drawings)
    pictures = loaded.sample(5, label="eels")
    images, g = load_images(drawings, 32).floats(), models.load_model(source).generator()
    from fsgen.interfaces import Inputs

    with torch.no_grad():
        wanted = g(Inputs(content=images, h=models.load_model(source).extra["conditions"][[2] * 5]))
    assert (pictures.float() / 127.5 - 1 - wanted.clamp(-1, 1)).abs().max() < 0.01
    assert torch.equal(loaded.sample(2, seed=5, label="eels"), pictures[:2])  # round and round
    assert not torch.equal(loaded.sample(5, label="cats"), pictures)
    job = sheets.SampleRequest(str(source), tmp_path / "out", [0, 1, 2], content=drawings, device="cpu")
    assert len(sheets.write(job, Callbacks())) == 3


def test_refusals(tmp_path, tiny, source, drawings, classes):
    with refused(Code.INCOMPATIBLE, "--content"):
        fsgen.load(source, device="cpu").sample(1)
    with refused(Code.INCOMPATIBLE, "tiny", "--content"):
        fsgen.load(tiny, device="cpu").translating(drawings)
    bare = make_source(tmp_path / "bare.safetensors", name="funit")
    with refused(Code.INCOMPATIBLE, "tiny", "--method classcode"):
        fsgen.load(bare, device="cpu").translating(drawings).sample(1)
    with refused(Code.INCOMPATIBLE, "IMAGES", "cats, dogs, eels", "--method classcode"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="finetune", device="cpu")
    with refused(Code.TOO_FEW, "funit", "--classes"):
        train(drawings, out=tmp_path / "run", **SMALL)
    with refused(Code.INCOMPATIBLE, "ewc", "latent"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="ewc", device="cpu")
    assert not any((tmp_path / "run").glob("*"))
    again = fsgen.adapt(classes, out=tmp_path / "again", source=source, method="finetune", steps=1,
                        recipe={"batch": 2}, device="cpu")  # fmt: skip
    assert models.load_model(again).extra["conditions"].shape == (3, 64)
