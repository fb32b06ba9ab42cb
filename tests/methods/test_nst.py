"""Neural style transfer: Gram matrices, losses, optimised pixels, the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from stand_ins import vgg16_home  # noqa: F401
from tiny import make_source

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, Interrupted
from fsgen.models import model as models
from fsgen.training.adapt import resume
from fsgen.training_free.style_transfer import CONTENT, STYLE, StyleTransfer, content, grams, style

pytestmark = pytest.mark.usefixtures("one_thread")


def adapt(out: Path, source: Path, images: Path, pictures=2, steps=3, ratio=1e-3, **options: object) -> Path:
    nst = {"pictures": pictures, "steps": steps, "ratio": ratio}
    given = {"method": "nst", "options": {"nst": nst}, "device": "cpu", **options}
    return fsgen.adapt(images, out=out, source=source, **given)


@pytest.fixture
def weights(vgg16_home, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FSGEN_HOME", str(vgg16_home))


def drawn(run: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((run / "redrawn").iterdir())])


# ---- the losses ------------------------------------------------------------------------------------------


def test_gram_matrices_are_products_of_maps_over_positions():
    f = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])  # two maps of three positions
    found = grams({layer: f.reshape(1, 2, 1, 3) for layer in STYLE})
    assert list(found) == ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"]
    wanted = torch.tensor([[14.0, 10.0], [10.0, 17.0]])
    assert all(torch.equal(gram * 3, wanted) for gram in found.values())


def test_losses_are_the_papers_with_sums_over_maps_and_positions():
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (
        {layer: torch.randn(1, c, h, 2, dtype=torch.float64, generator=rng)
         for layer, c, h in zip(STYLE, (3, 5, 2, 4, 6), (9, 7, 5, 3, 1), strict=True)}
        for _ in range(2)
    )  # fmt: skip
    total = 0.0
    for layer in STYLE:  # equations 3 to 5 as they stand, w = 1/5
        f, a = (maps[layer][0].flatten(1).numpy() for maps in (ours, theirs))
        n, m = f.shape
        difference = np.array([[f[i] @ f[j] - a[i] @ a[j] for j in range(n)] for i in range(n)])
        total += (difference**2).sum() / (4 * n**2 * m**2) / 5
    assert style(grams(ours), grams(theirs)).item() == pytest.approx(total, rel=1e-12)
    f, p = ours["conv1_1"], theirs["conv1_1"]
    assert content(f, p).item() == pytest.approx(((f - p).numpy() ** 2).sum() / 2, rel=1e-12)


# ---- optimised pixels -------------------------------------------------------------------------------------


def with_colours(steps: int, ratio: float) -> StyleTransfer:
    """The method with the images themselves in place of VGG16's maps."""
    method = StyleTransfer(StyleTransfer.Options(steps=steps, ratio=ratio))
    method.vgg = lambda images: {layer: images for layer in (CONTENT, *STYLE)}
    return method


@pytest.fixture
def pair() -> torch.Tensor:
    return (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5).split(1)


def test_style_alone_gives_the_targets_gram_matrix(pair):
    image, after = pair
    redrawn, losses = with_colours(50, 0.0).redraw(image, after, lambda: None)
    wanted, had = (grams({layer: x for layer in STYLE})["conv1_1"] for x in (after, image))
    found = grams({layer: redrawn for layer in STYLE})["conv1_1"]
    assert (found - wanted).abs().max() < 1e-3 * (had - wanted).abs().max()
    assert losses["content"] == 0 and losses["style"] < 1e-6


def test_content_alone_keeps_the_image_and_both_terms_lie_between(pair):
    image, after = pair
    changes = []
    for ratio in (1e6, 1e-5, 0.0):
        redrawn, _ = with_colours(30, ratio).redraw(image, after, lambda: None)
        changes.append((redrawn - image).abs().mean().item())
    assert changes[0] < 1e-4 < changes[1] < changes[2]


def test_the_ratio_is_the_papers_whatever_the_size(pair):
    """Of images of 512 px: sums over positions grow with their number; Gram matrices do not."""
    found = []
    for times in (1, 2):
        method, calls = with_colours(1, 0.5), []
        vgg = method.vgg

        def brightened(images, vgg=vgg, calls=calls):
            calls.append(images)  # the optimised image comes third: 0.1 brighter, without a gradient
            third = len(calls) > 2
            return {layer: (x.detach() + 0.1 + 0 * x if third else x) for layer, x in vgg(images).items()}

        method.vgg = brightened
        large = [x.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3) for x in pair]
        found.append(method.redraw(*large, lambda: None)[1])
    assert found[0]["content"] == pytest.approx(0.5 * 64**2 * (0.01 * 3 * 8 * 8) / 2, rel=1e-4)
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[0]["style"] > 0


# ---- a run -----------------------------------------------------------------------------------------------


def test_a_run_writes_images_and_no_model(tmp_path, tiny, drawings, weights):
    said = []
    run = adapt(tmp_path / "run", tiny, drawings, pictures=3, callbacks=Callbacks(say=said.append))
    assert {p.name for p in run.iterdir()} == {
        "config.toml", "log.jsonl", "report.json", "report.html", "samples", "redrawn", "state", "plots",
    }  # fmt: skip
    assert sorted(p.name for p in (run / "redrawn").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    report = json.loads((run / "report.json").read_text())["run"]
    assert report["model"] is None and report["source"]["hash"] == models.load_model(tiny).hash
    target = report["pictures"]["target"]
    assert report["pictures"] == {"folder": "redrawn", "count": 3, "target": target}
    assert target in {path.name for path in drawings.iterdir()} and any(target in line for line in said)
    assert report["method"] == {"nst": {"pictures": 3, "steps": 3, "ratio": 1e-3}}
    assert report["cost"]["seconds"] > 0 and report["images"]["count"] == 5
    sheet = Image.open(run / report["grid"])
    assert sheet.size == (3 * 16 + 2 * 2, 2 * 16 + 2)
    own = fsgen.load(tiny, device="cpu").sample(1, 1)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(sheet)[:16, 18:34], own)
    assert (
        np.array_equal(np.asarray(sheet)[18:, 18:34], drawn(run)[1]) and (drawn(run)[1] != own).mean() > 0.5
    )
    text = Image.open(run / "redrawn" / "00001.png").text
    assert text["seed"] == "1" and text["target"] == target and text["licence"] == "CC0-1.0"
    assert Image.open(run / "samples" / "target.png").size == (16, 16)
    found = fsgen.evaluate(run / "redrawn", real=drawings, source=tiny, metrics=["diversity"], device="cpu")
    assert found.what["kind"] == "images" and found.what["count"] == 3 and found.metrics["diversity"] > 0


def test_loading_a_run_without_a_model_is_refused(tmp_path, tiny, drawings, weights):
    run = adapt(tmp_path / "a run", tiny, drawings, pictures=1, steps=1)
    with refused(Code.NOT_FOUND, run) as caught:
        fsgen.load(run)
    assert f"fsgen eval '{run / 'redrawn'}'" in caught.value.hint
    fsgen.adapt(drawings, out=run, source=tiny, method="finetune", steps=1, device="cpu", force=True)
    assert fsgen.load(run) and not (run / "redrawn").exists()


def test_the_seed_chooses_the_target_and_an_image_depends_on_nothing_else(tmp_path, tiny, drawings, weights):
    first = adapt(tmp_path / "a", tiny, drawings)
    more = adapt(tmp_path / "b", tiny, drawings, pictures=3)
    assert np.array_equal(drawn(first), drawn(more)[:2])
    targets = set()
    for seed in range(1, 5):
        other = adapt(tmp_path / f"{seed}", tiny, drawings, pictures=1, steps=1, seed=seed)
        targets.add(json.loads((other / "report.json").read_text())["run"]["pictures"]["target"])
    assert len(targets) > 1
    longer = adapt(tmp_path / "c", tiny, drawings, steps=6)
    firmer = adapt(tmp_path / "d", tiny, drawings, ratio=10.0)
    assert len({drawn(run).tobytes() for run in (first, longer, firmer)}) == 3


def test_an_interrupted_run_resumes_to_the_same_images(tmp_path, tiny, drawings, weights):
    whole, asked = adapt(tmp_path / "a", tiny, drawings, pictures=3), []
    with pytest.raises(Interrupted, match="2 of 3") as caught:
        callbacks = Callbacks(stop=lambda: asked.append(0) or len(asked) > 4)
        adapt(tmp_path / "b", tiny, drawings, pictures=3, callbacks=callbacks)
    assert f"fsgen adapt --resume {tmp_path / 'b'}" in caught.value.hint
    assert [p.name for p in (tmp_path / "b" / "redrawn").iterdir()] == ["00000.png"]
    first = (tmp_path / "b" / "redrawn" / "00000.png").stat().st_mtime_ns
    resume(tmp_path / "b")
    assert np.array_equal(drawn(tmp_path / "b"), drawn(whole))
    assert (tmp_path / "b" / "redrawn" / "00000.png").stat().st_mtime_ns == first
    lines = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    report = json.loads((tmp_path / "b" / "report.json").read_text())["run"]
    assert report["cost"]["seconds"] == pytest.approx(sum(line["seconds"] for line in lines), abs=0.06)
    with refused(Code.INCOMPATIBLE, "nst", "--steps"):
        resume(tmp_path / "b", steps=100)


def test_grey_sources_are_redrawn_in_grey(tmp_path, drawings, weights):
    source = make_source(tmp_path / "grey.safetensors", channels=1)
    run = adapt(tmp_path / "run", source, drawings, pictures=1)
    assert Image.open(run / "redrawn" / "00000.png").mode == "L"


# ---- refusals --------------------------------------------------------------------------------------------


def test_missing_weights_are_refused_before_anything_is_read(tmp_path, tiny):
    with refused(Code.MISSING_WEIGHTS, "vgg16") as caught:
        adapt(tmp_path / "run", tiny, tmp_path / "no images")
    assert caught.value.hint == "fsgen pull metrics" and not (tmp_path / "run").exists()


def test_refusals(tmp_path, tiny, drawings, weights):
    for options in ({"pictures": 0}, {"steps": 0}, {"ratio": -1.0}):
        with refused(Code.OUT_OF_RANGE, *(f"--nst-{name}" for name in options)):
            adapt(tmp_path / "run", tiny, drawings, **options)
    with refused(Code.INCOMPATIBLE, "nst", "--method"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=tiny, method="nst,ewc")
    small = make_source(tmp_path / "small.safetensors", name="cgan", resolution=8, c_dim=0)
    with refused(Code.INCOMPATIBLE, "16 px"):
        adapt(tmp_path / "run", small, drawings)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
