"""FUNIT's protocol: generators of known scores, the definition of each score, refusals."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from colours import SIDE, draw_classes
from refusals import refused
from tiny import draw_images, make_source
from torch import nn

from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.data.image_output import to_uint8
from fsgen.data.images import load_images
from fsgen.errors import Code
from fsgen.evaluation import protocols
from fsgen.evaluation.compare import compare
from fsgen.evaluation.evaluate import evaluate
from fsgen.evaluation.funit import classifiers
from fsgen.evaluation.funit import protocol as funit_protocol
from fsgen.evaluation.funit.splits import LabelledImages, Split, open_labelled
from fsgen.evaluation.protocols import Request, checked_request
from fsgen.evaluation.report import write_evaluation
from fsgen.features import classifier, weight_files
from fsgen.features.dipd import Dipd
from fsgen.features.inception import Inception
from fsgen.features.lpips_network import Lpips
from fsgen.interfaces import Inputs
from fsgen.io import report_json
from fsgen.metrics.frechet import frechet
from fsgen.models import model as models
from fsgen.models.model import Model

OWN = [
    "top1_all",
    "top5_all",
    "top1_unseen",
    "is_all",
    "is_unseen",
]  # what needs no file, of 3 unseen classes


@pytest.fixture(autouse=True)
def _small_judges(monkeypatch, one_thread):
    monkeypatch.setattr(classifiers, "STEPS", 5)  # more where it matters how well they judge
    monkeypatch.setattr(classifier, "WIDTH", 8)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("seen"), ["red", "amber", "lime"], 6, seed=1)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    return draw_classes(
        tmp_path_factory.mktemp("unseen"), ["green", "blue", "violet"], 10, first=4, of=9, seed=2
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Few, for what looks through large networks."""
    return draw_classes(tmp_path_factory.mktemp("pair"), ["green", "blue"], 7, first=3, of=5, seed=3)


@pytest.fixture(scope="module")
def funit(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("funit") / "tiny.safetensors", name="funit")


class Puppet(nn.Module):
    """Returns the mean of the pictures of a class, or the content."""

    def __init__(self, keeps_content: bool) -> None:
        super().__init__()
        self.keeps_content, self.weight = keeps_content, nn.Parameter(torch.zeros(1))

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        raise NotImplementedError

    def class_code(self, inputs: Inputs) -> torch.Tensor:
        return inputs.style.mean(dim=1).flatten(1)

    def forward(self, inputs: Inputs, **how: object) -> torch.Tensor:
        return inputs.content if self.keeps_content else inputs.h.view(inputs.content.shape)


@dataclass(frozen=True)
class Puppeteer(Model):
    keeps_content: bool = False

    def generator(self, which: str | None = None, device: torch.device | str = "cpu") -> nn.Module:
        return Puppet(self.keeps_content).eval().to(device)


@pytest.fixture
def puppet(funit, monkeypatch):
    """A function that puts a puppet in place of every model."""
    real = models.load_model(funit)

    def placed(keeps_content: bool) -> str:
        model = Puppeteer(real.family, real.spec, real.networks, keeps_content=keeps_content)
        monkeypatch.setattr(models, "load_model", lambda path: model)
        return "puppet"

    return placed


def values(row: dict) -> dict[str, float]:
    return {name: figure["value"] for name, figure in row["metrics"].items()}


def of(found, name: str) -> dict[str, float]:
    return next(values(row) for row in found.rows if row["name"] == name)


def both(model, seen, unseen) -> list[LabelledImages]:
    found = models.load_model(model)
    return [open_labelled(path, "--real", found, "crop", print, least=2) for path in (seen, unseen)]


def request(seed: int) -> Request:
    return checked_request("funit", None, None, 1, seed, 1.0, "crop", 32, "cpu")


# ---- the answer is known -------------------------------------------------------------------------------


def test_who_returns_the_picture_of_the_class_is_taken_for_it(
    puppet, seen, pair, inception_file, vgg16_file, monkeypatch
):
    monkeypatch.setattr(classifiers, "STEPS", 60)
    found = evaluate(
        puppet(keeps_content=False), real=pair, content=seen, protocol="funit", samples=3,
        weights_dir=inception_file.parent,
    )  # fmt: skip
    assert [row["name"] for row in found.rows] == ["K = 1", "contents", "real", "chance"]
    one, contents, real, chance = (of(found, row["name"]) for row in found.rows)
    assert real["top1_all"] == real["top1_unseen"] == one["top1_all"] == one["top1_unseen"] == 1
    assert found.settings["classifiers"]["all"]["accuracy"] > 0.9
    assert contents["top1_all"] == 0 and contents["top1_unseen"] == 1 / 2
    assert chance == pytest.approx({"top1_all": 1 / 5, "top1_unseen": 1 / 2})
    assert one["mfid"] < contents["mfid"] / 3  # nearly: its pictures vary less than those of a class
    assert one["is_unseen"] > 1.8 > contents["is_unseen"]
    assert contents["dipd"] == 0 < one["dipd"]


def test_who_returns_the_content_translates_nothing(puppet, seen, unseen, vgg16_file, monkeypatch):
    monkeypatch.setattr(classifiers, "STEPS", 30)
    found = evaluate(
        puppet(keeps_content=True), real=unseen, content=seen, protocol="funit", samples=4,
        metrics=[*OWN, "dipd"], weights_dir=vgg16_file.parent,
    )  # fmt: skip
    for name in ("K = 5", "K = 1"):
        row = of(found, name)
        assert row["dipd"] == 0 and row["top1_all"] == 0
        assert row["top1_unseen"] == pytest.approx(1 / 3)  # each content once as every class
        assert row == of(found, "contents")
    assert of(found, "real")["top1_all"] == 1


# ---- what each figure is -------------------------------------------------------------------------------


def test_figures_are_those_of_the_definition(funit, seen, pair, inception_file, vgg16_file, monkeypatch):
    few = dataclasses.replace(protocols.protocol("funit"), shots=[1, 2])
    monkeypatch.setattr(protocols, "protocol", lambda name: few)
    folder = inception_file.parent
    found = evaluate(
        funit, real=pair, content=seen, protocol="funit", samples=2, seed=4, weights_dir=folder, batch=2,
        metrics=["top1_all", "dipd", "mfid"],
    )  # fmt: skip
    known, given = both(funit, seen, pair)
    split = Split.of(given, [1, 2], 5, 4)
    rows = torch.randperm(18, generator=random.generator(4, "contents"))[:2]
    contents, g = known.images.floats(rows), models.load_model(funit).generator()
    judge = classifiers.train_classifiers(["all"], known, given, split, request(4), Callbacks())["all"]
    dipd, inception = Dipd(Lpips("vgg", vgg16_file)), Inception(inception_file)
    right, distances, fids = [], [], []
    for label in range(2):
        style = given.images.floats(split.shots[label])[
            None
        ]  # all five: a code of their own each, then the mean
        with torch.no_grad():
            made = to_uint8(torch.cat([g(Inputs(content=one[None], style=style)) for one in contents]))
            right += (judge.classifier.network(made).argmax(dim=1) == 3 + label).tolist()
            distances.append(dipd(made.float() / 127.5 - 1, contents).mean().item())
        real_images = given.images.pixels[split.real_images[label]]
        fids.append(frechet(inception(made), inception(real_images)))
    expected = {"top1_all": np.mean(right), "dipd": np.mean(distances), "mfid": np.mean(fids)}
    assert of(found, "K = 2") == pytest.approx(expected, rel=1e-3)
    assert of(found, "K = 1") != of(found, "K = 2")
    for figure in found.rows[0]["metrics"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert any("mFID with 2 translations and as few as 5" in line for line in found.warnings)
    assert set(found.settings["weights"]) == {inception_file.name, vgg16_file.name}


def test_shots_are_nobody_elses_and_small_numbers_of_them_among_the_large(funit, unseen):
    _, given = both(funit, unseen, unseen)
    splits = [Split.of(given, [1, 2, 5, 20], 5, seed) for seed in (0, 0, 1)]
    assert splits[0].counts == [5, 2, 1]
    for label in range(3):
        shots, real_images = splits[0].shots[label], splits[0].real_images[label]
        assert len(shots) == 5 and len(real_images) == 5
        assert sorted([*shots.tolist(), *real_images.tolist()]) == given.rows(label).tolist()
        assert torch.equal(shots, splits[1].shots[label])
    assert any(not torch.equal(a, b) for a, b in zip(splits[0].shots, splits[2].shots, strict=True))


def test_judges_are_measured_on_what_they_were_not_shown(funit, seen, unseen):
    known, given = both(funit, seen, unseen)
    split = Split.of(given, [1, 5], 5, 0)
    found = classifiers.train_classifiers(["all", "unseen"], known, given, split, request(0), Callbacks())
    left = given.images.pixels[torch.cat(split.real_images)]
    for name, classes, held_out in (("all", 6, 6), ("unseen", 3, 3)):
        judge = found[name]
        assert judge.about()["classes"] == classes and judge.about()["held_out"] == held_out
        assert judge.chance(1) == 1 / classes and judge.chance(5) == min(5, classes) / classes
        assert sorted((judge.labels - judge.first).tolist()) == [0, 1, 2]
        for image, label in zip(judge.real_images, judge.labels, strict=True):
            row = (left == image).flatten(1).all(dim=1).nonzero().item()
            assert given.labels[torch.cat(split.real_images)][row] == label - judge.first


def test_a_judge_sees_large_pictures_small():
    images = torch.arange(130, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 128, 128).clone()
    images[7, :, ::2] += 100  # rows by turns
    seen = classifiers.shrink(images)
    assert seen.shape == (130, 3, 64, 64) and seen.dtype == torch.uint8
    assert (seen[7] == 57).all() and (
        seen[[8, 129]].flatten(1).float().mean(dim=1) == torch.tensor([8, 129])
    ).all()
    assert classifiers.shrink(seen) is seen


def test_the_batch_changes_nothing_and_the_seed_does(funit, seen, unseen):
    options = {"real": unseen, "content": seen, "protocol": "funit", "samples": 5, "metrics": OWN}
    first, again, other = (evaluate(funit, batch=b, seed=s, **options) for b, s in ((2, 0), (32, 0), (32, 1)))
    for ours, theirs in zip(first.rows, again.rows, strict=True):
        assert values(ours) == pytest.approx(values(theirs), rel=1e-4)
    assert of(first, "contents")["is_all"] != of(other, "contents")["is_all"]


# ---- what is left out, written, refused ----------------------------------------------------------------


def test_what_cannot_be_had_is_left_out_with_its_reason(funit, seen, unseen, monkeypatch):
    monkeypatch.setattr(weight_files, "_search", lambda *args: None)
    said = []
    found = evaluate(funit, real=unseen, content=seen, protocol="funit", callbacks=Callbacks(say=said.append))
    assert set(found.metrics) == set(OWN) and set(found.left_out) == {"top5_unseen", "dipd", "mfid"}
    assert "3 classes" in found.left_out["top5_unseen"]["why"]
    assert "fsgen pull metrics" in found.left_out["mfid"]["remedy"]
    assert found.settings["samples"] == 18 and found.settings["shots"] == [5, 1]
    for part in (
        "K = 10, 15, 20 left out: 'blue' has 10 images",
        "--content holds 18",
        "left out: dipd, mfid",
    ):
        assert any(part in line for line in said), said
    assert not any("mFID with" in line for line in said)
    with refused(Code.TOO_FEW, "3 classes"):
        evaluate(funit, real=unseen, content=seen, protocol="funit", metrics=["top5_unseen"])
    with refused(Code.MISSING_WEIGHTS, "vgg16-397923af.pth", "LPIPS"):
        evaluate(funit, real=unseen, content=seen, protocol="funit", metrics=["dipd"])


def test_the_report_says_what_was_done_and_the_page_shows_it(funit, seen, unseen, tmp_path):
    found = evaluate(
        funit, real=unseen, content=seen, protocol="funit", samples=10, metrics=OWN[:3], device="cpu"
    )
    paths = write_evaluation(found, tmp_path, study=True)
    assert [path.name for path in paths] == ["report.json", "report.html", "study.html"]
    report = json.loads(paths[0].read_text())["evaluation"]
    assert report == json.loads(json.dumps(found.plain()))
    assert report["content"]["count"] == 18 and report["real"]["count"] == 30
    assert report["settings"]["classes"] == {"seen": 3, "unseen": 3}
    assert report["settings"]["classifiers"]["unseen"]["chance"] == pytest.approx(1 / 3)
    assert report["rows"][0]["n"] == 30 and report["rows"][-1]["n"] is None
    for key in (*report, *report["settings"], *report["settings"]["classifiers"]["all"]):
        assert re.search(rf"\b{key}\b", report_json.__doc__), key
    page = paths[1].read_text()
    for words in ("Translations", "K = 5", "contents", "chance 16.7%", "two Inception-V3", "accuracy"):
        assert words in page, words
    shown = found.collected
    assert len(shown["subject"].thumbnails.value) == len(shown["shot"].thumbnails.value) == 10
    assert shown["real"].thumbnails.value.shape == (48, 3, SIDE, SIDE)


def test_what_is_shown_belongs_together(puppet, seen, unseen):
    found = evaluate(puppet(keeps_content=False), real=unseen, content=seen, protocol="funit", samples=5,
                     metrics=["top1_unseen"])  # fmt: skip
    shots = found.collected["shot"].thumbnails.value.float()
    made = found.collected["subject"].thumbnails.value.float()
    colours = [images.mean(dim=(2, 3)) for images in (shots, made)]
    assert (torch.cdist(colours[1], colours[0]).argmin(dim=1) % 3 == torch.arange(5) % 3).all()
    contents, all_seen = found.collected["content"].thumbnails.value, load_images(seen, SIDE).pixels
    assert all((all_seen == image).flatten(1).all(dim=1).any() for image in contents)


def test_reports_of_translations_are_compared(funit, seen, unseen, tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        found = evaluate(funit, real=unseen, content=seen, protocol="funit", samples=4,
                         metrics=["top1_unseen"])  # fmt: skip
        write_evaluation(found, folder)
    side = compare(folders, device="cpu")
    assert [report["evaluation"]["rows"][0]["name"] for report in side.reports] == ["K = 5", "K = 5"]
    assert "top-1 (unseen)" in side.write(tmp_path / "compared")[1].read_text()


def test_a_dry_run_looks_at_nothing(funit, seen, unseen, monkeypatch):
    monkeypatch.setattr(funit_protocol, "train_classifiers", None)
    found = evaluate(funit, real=unseen, content=seen, protocol="funit", dry_run=True)
    assert found["shots"] == [5, 1] and found["classes"] == {"seen": 3, "unseen": 3}
    assert found["metrics"] == [name for name in found["metrics"] if name not in found["left_out"]]


def test_what_cannot_be_judged_is_refused(funit, tiny, seen, unseen, drawings, tmp_path):
    one = draw_classes(tmp_path / "one", ["grey"], 8)
    few = draw_classes(tmp_path / "few", ["pink", "teal"], 5)
    single = draw_classes(tmp_path / "single", ["pink", "teal"], 1)
    mixed = draw_images(draw_classes(tmp_path / "mixed", ["pink"], 8), 1)
    protocol = {"real": unseen, "content": seen, "protocol": "funit"}
    for path, changes, code, named in (
        (tiny, {}, Code.INCOMPATIBLE, ["funit", "stylegan2"]),
        (drawings, {}, Code.INCOMPATIBLE, ["funit", drawings]),
        (funit, {"content": None}, Code.USAGE, ["funit", "--content"]),
        (funit, {"content": None, "protocol": None}, Code.INCOMPATIBLE, [funit, "funit"]),
        (funit, {"protocol": None}, Code.USAGE, ["default", "--content"]),
        (funit, {"real": drawings}, Code.INCOMPATIBLE, ["--real", "0000.png"]),
        (funit, {"content": drawings}, Code.INCOMPATIBLE, ["--content", "0000.png"]),
        (funit, {"real": mixed}, Code.INCOMPATIBLE, ["--real", "0000.png"]),
        (funit, {"real": one}, Code.TOO_FEW, ["--real", "'grey'"]),
        (funit, {"real": few}, Code.TOO_FEW, ["--real", "'pink'", 5]),
        (funit, {"content": single}, Code.TOO_FEW, ["--content", "'pink'", 1]),
        (funit, {"real": seen}, Code.INCOMPATIBLE, ["--real", "'amber'"]),
        (funit, {"real": tmp_path / "absent"}, Code.NOT_FOUND, [tmp_path / "absent"]),
        (funit, {"shots": drawings}, Code.USAGE, ["funit", "--shots"]),
        (funit, {"source": "peeps64"}, Code.USAGE, ["funit", "--source"]),
        (funit, {"seeds": 2}, Code.USAGE, ["funit", "--seeds"]),
        (funit, {"truncation": 0.7}, Code.USAGE, ["funit", "--truncation"]),
        (funit, {"samples": 1}, Code.OUT_OF_RANGE, ["--samples", 1]),
        (funit, {"metrics": ["fid"]}, Code.INCOMPATIBLE, ["fid", "funit", "mfid"]),
        (funit, {"protocol": None, "content": None, "metrics": ["mfid"]}, Code.INCOMPATIBLE,
         ["mfid", "default", "fid"]),
    ):  # fmt: skip
        with refused(code, *named) as caught:
            evaluate(path, **{**protocol, **changes})
        assert caught.value.exit_code == 2 and caught.value.hint, changes


def test_classes_of_the_training_are_not_unseen(funit, seen, unseen, tmp_path):
    model = models.load_model(funit)
    names = ["red", "green", "lime"]
    trained = Model(model.family, model.spec, model.networks, {**model.about, "classes": names})
    trained.save(tmp_path / "trained.safetensors")
    with refused(Code.INCOMPATIBLE, "--real", "'green'"):
        evaluate(tmp_path / "trained.safetensors", real=unseen, content=seen, protocol="funit")
    code = Model(model.family, model.spec, model.networks, {**model.about, "classes": ["green"]})
    code.save(tmp_path / "code.safetensors")  # of a class code: the generator was not trained on it
    assert evaluate(tmp_path / "code.safetensors", real=unseen, content=seen, protocol="funit", dry_run=True)


def test_one_class_is_measured_on_six_images(funit, seen, tmp_path):
    least = draw_classes(tmp_path / "least", ["pink", "teal"], 6, first=5)
    found = evaluate(funit, real=least, content=seen, protocol="funit", samples=2, metrics=["top1_unseen"])
    assert found.settings["shots"] == [1] and found.rows[0]["name"] == "K = 1"
