"""What the figures say of generators whose faults are known."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from tiny import draw_images, make_source

from fsgen.callbacks import Callbacks
from fsgen.errors import Code
from fsgen.evaluation import discriminator_judge as discriminators
from fsgen.evaluation.evaluate import evaluate
from fsgen.features.inception import Inception
from fsgen.models import model as models
from fsgen.training.adapt import adapt


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(discriminators, "SAMPLES", 40)


@pytest.fixture(scope="module")
def real_images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("many"), 40, seed=9)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A source without moving averages, so that pictures of the source are those a run begins with."""
    return make_source(tmp_path_factory.mktemp("source") / "tiny.safetensors", ("g", "d"))


@pytest.fixture(scope="module")
def run(tiny, drawings, tmp_path_factory):
    """Two steps from its source: as good as the source itself."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return adapt(drawings, out=out, source=tiny, method="finetune", steps=2, device="cpu")


def test_a_model_that_hardly_moved_is_told_by_its_source(run, real_images):
    found = evaluate(run, real=real_images, samples=40)
    assert found.metrics["leakage"] > 0.9 and found.metrics["correspondence"] > 0.95
    (flag,) = found.flags
    assert flag["name"] == "leakage" and "nearer to the source's" in flag["text"]
    source, real = found.rows[1:]
    assert not {"leakage", "correspondence"} & {*source["metrics"], *real["metrics"]}


def test_another_source_shares_no_latents(run, real_images, tmp_path):
    far = make_source(tmp_path / "far.safetensors", g_widths={"4": 4, "8": 8, "16": 4})
    found = evaluate(run, real=real_images, samples=40, source=far)
    assert 0.3 < found.metrics["correspondence"] < 0.7  # chance


def test_images_that_are_reals_do_not_leak(tiny, real_images, tmp_path):
    for i, path in enumerate(sorted(real_images.iterdir())[::2]):
        shutil.copy(path, tmp_path / f"{i}.png")
    found = evaluate(tmp_path, real=real_images, source=tiny)
    assert found.metrics["leakage"] < 0.2 and not found.flags
    assert "latents" in found.left_out["correspondence"]["why"]
    assert found.rows[1]["name"] == "source" and found.rows[1]["n"] == 20


def test_a_replay_is_flagged(tiny, real_images, drawings, tmp_path):
    for i in range(4):
        shutil.copytree(drawings, tmp_path / "replay" / str(i))
    found = evaluate(tmp_path / "replay", real=real_images, shots=drawings, source=tiny)
    assert found.metrics["near_copies"] == 1
    assert any("replays what it was shown" in flag["text"] for flag in found.flags)
    figure = found.rows[0]["metrics"]["near_copies"]
    assert 0.8 < figure["low"] < figure["high"] == 1


def test_too_few_reals_tell_no_leakage(run, drawings):
    found = evaluate(run, real=drawings, samples=10)
    assert "5 images" in found.left_out["leakage"]["why"]
    with refused(Code.TOO_FEW, "--real", 5, 30):
        evaluate(run, real=drawings, samples=10, metrics=["leakage"])


def test_over_seeds_figures_are_means_of_sets_that_share_no_picture(run, real_images):
    alone = [
        evaluate(run, real=real_images, samples=12, seed=seed).metrics["diversity"] for seed in (3, 15, 27)
    ]
    found = evaluate(run, real=real_images, samples=12, seeds=3, seed=3)
    figure = found.rows[0]["metrics"]["diversity"]
    assert figure["value"] == pytest.approx(np.mean(alone), rel=1e-5)
    half = 4.302653 * np.std(alone, ddof=1) / 3**0.5  # Student's, two degrees of freedom
    assert figure["high"] - figure["value"] == pytest.approx(half, rel=1e-4)
    with refused(Code.USAGE, "--seeds", real_images):
        evaluate(real_images, real=real_images, seeds=2)


def test_every_figure_has_its_interval_around_it(run, real_images):
    for row in evaluate(run, real=real_images, samples=30).rows:
        for name, figure in row["metrics"].items():
            assert figure["low"] <= figure["value"] <= figure["high"], (row["name"], name)
            assert figure["low"] < figure["high"], (row["name"], name)


# ---- with Inception ----------------------------------------------------------------------------------------

INCEPTION = ("fid", "kid", "precision", "recall", "density", "coverage", "is")


def test_features_of_reals_and_source_are_computed_once(tiny, run, real_images, inception_file, monkeypatch):
    looked = []
    features = Inception._features

    def counted(self, images):
        looked.append(len(images))
        return features(self, images)

    monkeypatch.setattr(Inception, "_features", counted)
    options = {"real": real_images, "samples": 8, "metrics": INCEPTION, "weights_dir": inception_file.parent}
    first = evaluate(run, **options)
    assert sum(looked) == 40 + 8 + 8  # reals, source, samples
    looked.clear()
    again = evaluate(run, **options)
    assert sum(looked) == 8 and again.rows == first.rows
    assert set(first.metrics) == set(INCEPTION) and set(first.rows[1]["metrics"]) == set(INCEPTION)
    looked.clear()
    assert evaluate(tiny, **options).metrics == pytest.approx(
        {name: figure["value"] for name, figure in first.rows[1]["metrics"].items()}, rel=1e-4
    )
    assert sum(looked) == 8
    assert any("FID with 8 samples is biased" in line for line in first.warnings)


def test_reals_judged_as_samples_score_as_reals_do(real_images, inception_file):
    found = evaluate(
        real_images, real=real_images, metrics=INCEPTION, weights_dir=inception_file.parent
    ).metrics
    assert found["fid"] == pytest.approx(0, abs=1e-6) and found["kid"] <= 0
    assert found["precision"] == found["recall"] == found["coverage"] == 1


def test_a_source_of_another_size_has_no_lpips(tiny, real_images, tmp_path, alexnet_file):
    for i, path in enumerate(sorted(real_images.iterdir())[:6]):
        Image.open(path).resize((40, 40)).save(tmp_path / f"{i}.png")
    options = {"real": real_images, "source": tiny, "weights_dir": alexnet_file.parent}
    subject, source, real = evaluate(tmp_path, metrics=["lpips", "dissimilarity"], **options).rows
    assert subject["metrics"]["lpips"]["value"] > 0 and subject["metrics"]["dissimilarity"]["value"] > 0
    assert not source["metrics"] and real["metrics"]["lpips"]["value"] > 0


# ---- what is refused, and what is only warned of --------------------------------------------------------


def test_a_protocol_fixes_what_it_fixes(run, real_images):
    for options in ({"samples": 10}, {"truncation": 0.7}, {"fid": "clean"}):
        with refused(Code.USAGE, "cdc", "--samples", "--fid", "--truncation"):
            evaluate(run, real=real_images, protocol="cdc", **options)
    plan = evaluate(run, real=real_images, protocol="crdi", metrics=["near_copies"], dry_run=True)
    assert plan["samples"] == 5000 and plan["protocol"] == "crdi"


@pytest.mark.slow
def test_the_kind_of_fid_can_be_chosen(run, real_images, inception_file, inception_pytorch_file):
    options = {"real": real_images, "samples": 4, "metrics": ["fid"], "weights_dir": inception_file.parent}
    modes = (None, "clean", "legacy_tensorflow", "legacy_pytorch")
    found = [evaluate(run, fid=mode, **options) for mode in modes]
    values = [one.metrics["fid"] for one in found]
    assert values[0] == values[1] and len(set(values)) == 3
    assert inception_pytorch_file.name in found[3].settings["weights"]
    assert {"what": "fid", "value": "legacy_pytorch", "source": "asked for with --fid"} in found[3].protocol[
        "choices"
    ]
    with refused(Code.UNKNOWN_NAME, "--fid", "'legacy'"):
        evaluate(run, real=real_images, fid="legacy")


def test_a_dry_run_looks_at_nothing(run, real_images, monkeypatch):
    monkeypatch.setattr(discriminators.DiscriminatorJudge, "of", None)  # it draws hundreds of samples
    plan = evaluate(run, real=real_images, samples=10, dry_run=True)
    assert plan["samples"] == 10 and plan["metrics"] == [
        "near_copies",
        "leakage",
        "correspondence",
        "diversity",
    ]
    assert (plan["samples"], plan["resolution"]) == (10, 16) and "fid" in plan["left_out"]
    with refused(Code.NOT_FOUND, real_images / "absent"):
        evaluate(run, real=real_images / "absent", dry_run=True)


def test_odd_and_broken_reals_are_counted(run, real_images, tmp_path):
    mixed = shutil.copytree(real_images, tmp_path / "mixed")
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(mixed / "wide.png")
    Image.new("RGB", (8200, 8200)).save(mixed / "huge.jpg")
    (mixed / "torn.png").write_bytes((mixed / "0000.png").read_bytes()[:60])
    said = []
    found = evaluate(run, real=mixed, samples=10, callbacks=Callbacks(say=said.append))
    assert found.real["count"] == 42 and found.real["skipped"] == 1
    assert any("torn.png" in line for line in said)
    for part in ("1 files of --real could not be read", "42 of 42 real images are not 16 x 16"):
        assert any(part in line for line in found.warnings), part


def test_one_readable_real_is_not_a_set(run, real_images, tmp_path):
    one = draw_images(tmp_path / "one", 1)
    for i in range(3):
        (one / f"torn{i}.png").write_bytes((real_images / "0000.png").read_bytes()[:60])
    with refused(Code.TOO_FEW, one):
        evaluate(run, real=one, samples=4)


def test_grey_models_are_measured_too(tmp_path, real_images):
    grey = make_source(tmp_path / "grey.safetensors", channels=1)
    found = evaluate(grey, real=real_images, samples=10)
    assert found.metrics["diversity"] > 0 and models.load_model(grey).spec["channels"] == 1
