"""``adapt``: the files of a run, the images and sources it accepts, the effect of its options."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import LABELS, draw_images, make_source

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.data.images import load_images
from fsgen.io import checkpoint
from fsgen.io import run_folder as runs
from fsgen.io.run_folder import RunFolder
from fsgen.models import model as models
from fsgen.training import batches, domain_gap, step_callbacks

EWC = {"ewc": {"lambda": 50, "samples": 4}}


def adapt(images, out, source, method="finetune", steps=2, **options):
    return fsgen.adapt(images, out=out, source=source, method=method, steps=steps, device="cpu", **options)


def weights(run):
    """The adapted model's identity."""
    return checkpoint.hash_tensors(load_file(run / "model.safetensors"))


# ---- the files of a run ------------------------------------------------------------------------------


def test_a_run_writes_all_its_files(tmp_path, tiny, drawings, real_plots):
    said, shown = [], []
    callbacks = Callbacks(say=said.append, step=lambda *args: shown.append(args))
    out = tmp_path / "deep" / "run"
    run = adapt(drawings, out, tiny, "ewc", 12, options=EWC, callbacks=callbacks, sample_every=5)
    assert run == out and {p.name for p in run.iterdir()} == set(runs.OURS) - {runs.ADAPTER}
    assert {p.name for p in (run / "samples").iterdir()} == {"000005.png", "000010.png", "000012.png"}
    for name in ("losses", "penalty", "change"):
        picture = Image.open(run / "plots" / f"{name}.png")
        assert len(picture.convert("L").getcolors(256)) > 10, name

    source, adapted = models.load_model(tiny), models.load_model(run)
    assert adapted.about["source"] == {"name": str(tiny), "hash": source.hash}
    assert adapted.about["licence"] == "CC0-1.0" and adapted.about["subject"] == "noise"

    report = json.loads((run / "report.json").read_text())["run"]
    assert report["model"]["hash"] == adapted.hash != source.hash
    assert report["source"]["hash"] == source.hash and report["source"]["licence"] == "CC0-1.0"
    assert report["images"]["count"] == 5 and report["steps"] == 12
    assert list(report["rate_of_change"]) == list(source.family.layers(source.spec))
    assert all(change > 0 for change in report["rate_of_change"].values())
    assert report["method"]["ewc"] == {"lambda": "50.0", "samples": 4, "proxy": "adversarial"}
    assert (run / report["grid"]).is_file()
    assert report["cost"]["seconds"] > 0 and report["cost"]["peak_rss_mb"] > 10

    config = RunFolder.open(run).config()
    assert config["run"]["images"] == str(drawings) and config["run"]["method"] == "ewc"
    assert config["recipe"]["batch"] == 4 and config["method"]["ewc"]["samples"] == 4

    lines = RunFolder(run).history()
    assert [line["step"] for line in lines] == [1, 10, 12]
    assert [step for step, *_ in shown] == list(range(1, 13))
    assert {"d", "g", "ewc", "r1", "path"} <= set(lines[0]) and "path" in lines[1]
    assert lines[0]["ewc"] == 0 < lines[-1]["ewc"]
    assert all(fact in said[0] for fact in ("tiny", "noise", "16 px", "CC0-1.0"))
    assert "5 read" in said[1] and "skipped" not in said[1]


def test_images_far_from_the_source_are_warned_of(tmp_path, tiny, drawings, monkeypatch):
    def warned(bound):
        said = []
        monkeypatch.setattr(domain_gap, "FAR", bound)
        adapt(drawings, tmp_path / str(bound), tiny, callbacks=Callbacks(say=said.append))
        return [line for line in said if "warning" in line]

    source, shots = models.load_model(tiny), load_images(drawings, 16)
    far = domain_gap.relative_distance(source, shots, torch.device("cpu"))
    (line,) = warned(far * 0.99)
    assert f"{far:.1f} x" in line and "ffhq-256 (face)" in line
    assert not warned(far * 1.01)


def test_memory_is_that_of_the_run_alone():
    """Not of the process that started it, which has allocated 600 MB here."""
    large = b"x" * 600_000_000
    code = "from fsgen.training.results import peak_rss_mb as peak; print(peak())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 50 < int(told) < 590 and len(large)


def test_grids_show_the_source_above_the_adapted(tmp_path, tiny, drawings):
    run = adapt(drawings, tmp_path / "run", tiny, steps=1)
    sheet = Image.open(run / "samples" / "000001.png")
    assert sheet.size == (8 * 16 + 7 * 2, 4 * 16 + 2 * 2 + 6)  # 16 pairs, eight a row
    for top, model in ((0, tiny), (18, run)):
        for seed, left in ((0, 0), (3, 54)):
            shown = sheet.crop((left, top, left + 16, top + 16))
            ours = fsgen.load(model, device="cpu").sample(1, seed)[0].permute(1, 2, 0)
            assert np.abs(np.asarray(shown, dtype=int) - ours.numpy()).max() <= 1
    assert sheet.text["source"] == models.load_model(tiny).hash and sheet.text["step"] == "1"


@pytest.mark.parametrize("networks", [("g", "g_ema", "d"), ("g_ema", "d"), ("g", "d"), ("g_ema",)], ids=str)
def test_the_adapted_file_has_the_networks_of_the_source(tmp_path, drawings, networks):
    source = make_source(tmp_path / "source.safetensors", networks)
    said = []
    run = adapt(drawings, tmp_path / "run", source, callbacks=Callbacks(say=said.append))
    before, after = load_file(source), load_file(run / "model.safetensors")
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == set(networks)
    assert any("no discriminator" in line for line in said) == ("d" not in networks)


def test_the_start_is_g_where_the_source_has_it(tmp_path, tiny, drawings):
    run = adapt(drawings, tmp_path / "run", tiny, steps=1, recipe={"lr": 1e-12})
    before, after = load_file(tiny), load_file(run / "model.safetensors")
    for key in before:
        if key.startswith("g.") and "w_avg" not in key:
            torch.testing.assert_close(after["g_ema" + key[1:]], before[key])


def test_a_dry_run_checks_and_resolves_and_touches_nothing(tmp_path, tiny, drawings):
    config = adapt(drawings, tmp_path / "run", tiny, "ewc", options=EWC, recipe={"lr": 0.5}, dry_run=True)
    assert not (tmp_path / "run").exists()
    assert config["recipe"]["lr"] == 0.5 and config["recipe"]["batch"] == 4
    assert config["run"]["source_hash"] == models.load_model(tiny).hash
    assert config["method"]["ewc"]["lambda"] == "50.0"


# ---- images and sources of every kind ----------------------------------------------------------------


def test_one_image_is_enough_and_six_hundred_are_fine(tmp_path, tiny):
    one = draw_images(tmp_path / "one", 1)
    adapt(one, tmp_path / "a", tiny)
    adapt(one / "0000.png", tmp_path / "b", tiny)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    run = adapt(draw_images(tmp_path / "many", 600), tmp_path / "c", tiny)
    assert json.loads((run / "report.json").read_text())["run"]["images"]["count"] == 600 > batches.RESIDENT


def test_large_sets_are_drawn_from_as_small_ones_are(tmp_path, tiny, drawings, monkeypatch):
    adapt(drawings, tmp_path / "a", tiny)
    monkeypatch.setattr(batches, "RESIDENT", 2)
    adapt(drawings, tmp_path / "b", tiny)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_a_zip_is_a_folder_and_unreadable_files_are_left_out(tmp_path, tiny, drawings):
    with zipfile.ZipFile(tmp_path / "shots.zip", "w") as archive:
        for path in sorted(drawings.iterdir()):
            archive.write(path, f"art/{path.name}")
        archive.writestr("art/broken.png", b"no picture")
    said = []
    adapt(drawings, tmp_path / "a", tiny)
    adapt(tmp_path / "shots.zip", tmp_path / "b", tiny, callbacks=Callbacks(say=said.append))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert any("skipped" in line and "art/broken.png" in line for line in said)
    assert any("5 read, 1 skipped" in line for line in said)


@pytest.mark.parametrize("changes", [LABELS, {"channels": 1}], ids=["conditional", "grey"])
def test_conditional_and_grey_sources(tmp_path, drawings, changes):
    source = make_source(tmp_path / "s.safetensors", **changes)
    run = adapt(drawings, tmp_path / "run", source, "ewc,diffaugment", options=EWC)
    assert models.load_model(run).spec == models.load_model(source).spec


# ---- options -----------------------------------------------------------------------------------------

# By option of each method: values other than the default, each of which must change the result.
OTHER_OPTIONS = {
    ("ewc", "lambda_"): ["5000"],
    ("ewc", "samples"): [3],
    ("ewc", "proxy"): ["reconstruction"],
    ("diffaugment", "policy"): ["color", "translation", "cutout", "cutout,color,translation"],
    ("diffaugment", "where"): ["d-only", "reals-only"],
    ("freezed", "stages"): [1],
    ("freezed", "layers"): ["3"],
    ("freezeg", "resolutions"): [1],
    ("ada", "policy"): ["blit", "geom", "color"],
    ("ada", "target"): [0.3],
    ("ada", "rule"): ["nvidia"],
    ("ada", "interval"): ["2"],
    ("ada", "kimg"): ["0.1"],
    ("bsa", "normalize_l1"): [True],
    ("bsa", "emd"): [0.0],
    ("bsa", "drift"): [5.0],
    ("bsa", "temperature"): [1.0],
    ("minegan", "frozen"): [1.0],
    ("minegan", "mine"): ["both"],
    ("minegan", "hidden"): ["5"],
    ("minegan", "code"): [4],
    ("minegan", "widths"): ["16"],
    ("cdc", "weight"): [10.0],
    ("cdc", "divergence"): ["published"],
    ("cdc", "every"): [2],
    ("cdc", "spread"): [0.5],
    ("adam", "percentile"): [75.0],
    ("adam", "probe"): ["2"],
    ("adam", "samples"): ["9"],
    ("adam", "kernels"): ["published"],
    ("adam", "scale"): ["published"],
    ("rick", "freeze"): [85.0],
    ("rick", "prune"): [20.0],
    ("rick", "warmup"): ["0"],
    ("rick", "every"): ["2"],
    ("rick", "samples"): [3],
    ("weditgan", "init"): [0.5],
    ("weditgan", "perpendicular"): [1.0],
    ("weditgan", "contrastive"): [1.0],
}
ELSEWHERE = {  # options that need VGG16's weights: see tests/methods
    ("bsa", "perceptual"),
    ("bsa", "perceptual_type"),
    *(("nst", option) for option in ("pictures", "steps", "ratio")),
}
BASE = {
    "ewc": EWC["ewc"],
    "diffaugment": {},
    "finetune": {},
    "freezed": {},
    "freezeg": {},
    "ada": {"rule": "cdc", "interval": "1", "kimg": "0.02"},  # p is 0.12 after a step
    "bsa": {},
    "minegan": {},
    "cdc": {},
    "adam": {},
    "rick": {},
    "weditgan": {},
}  # the methods that take a source without classes


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny, drawings):
    """Runs of 3 steps with the options of BASE, by method."""
    made = {}

    def run(method, **more):
        key = method, *more.items()
        if key not in made:
            out, options = tmp_path_factory.mktemp("plain") / method, {method: BASE[method] | more}
            made[key] = weights(adapt(drawings, out, tiny, method, 3, options=options))
        return made[key]

    return run


def test_no_option_is_forgotten_here():
    known = {
        (name, field.name)
        for name in registry.methods()
        for field in dataclasses.fields(registry.method(name).Options)
    }
    assert known == set(OTHER_OPTIONS) | ELSEWHERE


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [(*key, value) for key, values in OTHER_OPTIONS.items() for value in values],
)
def test_every_option_of_a_method_changes_the_result(tmp_path, tiny, drawings, plain, method, option, value):
    more = {"mine": "both"} if option in ("code", "widths") else {}  # options of the mined constant
    options = {method: BASE[method] | more | {option.rstrip("_"): value}}
    assert weights(adapt(drawings, tmp_path / "run", tiny, method, 3, options=options)) != plain(
        method, **more
    )


def test_methods_differ_and_stack(tmp_path, tiny, drawings, plain):
    both = adapt(drawings, tmp_path / "run", tiny, "ewc,diffaugment", 3, options=EWC)
    assert len({weights(both), *map(plain, BASE)}) == 1 + len(BASE)


@pytest.mark.parametrize(
    "change",
    [{"mirror": True}, {"seed": 1}, {"fit": "pad"}, {"recipe": {"lr": 0.01}}, {"recipe": {"batch": 2}}],
)
def test_every_option_of_the_run_changes_the_result(tmp_path, tiny, plain, change):
    images = draw_images(tmp_path / "images", 3)
    for path in images.iterdir():
        Image.open(path).resize((40, 20)).save(path)
    base = weights(adapt(images, tmp_path / "a", tiny, steps=1))
    assert weights(adapt(images, tmp_path / "b", tiny, steps=1, **change)) != base


def test_saving_and_drawing_more_often_changes_nothing(tmp_path, tiny, drawings, plain):
    run = adapt(drawings, tmp_path / "run", tiny, steps=3, save_every=1, sample_every=1)
    assert weights(run) == plain("finetune")


def test_a_huge_lambda_keeps_the_source(tmp_path, tiny, drawings):
    source = models.load_model(tiny).generator("g")
    inputs = source.draw(16, torch.Generator().manual_seed(0))
    moved = {}
    for method, options in (("finetune", {}), ("ewc", {"ewc": {"lambda": 5e8, "samples": 16}})):
        run = adapt(drawings, tmp_path / method, tiny, method, 15, options=options, recipe={"lr": 0.01})
        with torch.no_grad():
            change = source(inputs) - models.load_model(run).generator("g")(inputs)
        moved[method] = change.square().mean().sqrt().item()
    assert moved["ewc"] < moved["finetune"] / 4


def test_a_logged_loss_is_the_mean_since_the_last(tmp_path, tiny, drawings, monkeypatch):
    adapt(drawings, tmp_path / "a", tiny, steps=6)
    monkeypatch.setattr(step_callbacks, "LOG_EVERY", 1)
    adapt(drawings, tmp_path / "b", tiny, steps=6)
    (first, last), each = RunFolder(tmp_path / "a").history(), RunFolder(tmp_path / "b").history()
    assert [line["step"] for line in each] == [1, 2, 3, 4, 5, 6] and first == each[0]
    for name in ("d", "g"):
        assert last[name] == pytest.approx(sum(line[name] for line in each[1:]) / 5, rel=1e-5)
    assert last["path"] == pytest.approx(each[4]["path"])  # due at one step only
