from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from naive_lpips import mean_distance
from PIL import Image
from refusals import refused
from tiny import draw_images, make_source

from fsgen.callbacks import Callbacks
from fsgen.data.image_output import picture, to_uint8
from fsgen.data.images import load_images
from fsgen.errors import Code
from fsgen.evaluation import accumulators, collect
from fsgen.evaluation import discriminator_judge as discriminators
from fsgen.evaluation.evaluate import evaluate
from fsgen.evaluation.report import write_evaluation
from fsgen.features import weight_files
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.measures import MEASURES
from fsgen.metrics.frechet import frechet
from fsgen.models import model as models
from fsgen.sampling import sampler
from fsgen.training.adapt import adapt

TEN = Path(__file__).parents[2] / "examples" / "ten_sketches"


@pytest.fixture(scope="session")
def real_images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("reals"), 6, seed=9)


@pytest.fixture
def few(monkeypatch) -> None:
    """A threshold from few source samples: enough where only the plumbing is looked at."""
    monkeypatch.setattr(discriminators, "SAMPLES", 40)


def as_pngs(images: torch.Tensor, folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        picture(image).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="session")
def both_ways(tiny, real_images, inception_file, tmp_path_factory):
    """A report, and clean-fid's features of the same pictures and reals as PNGs."""
    import_torchvision()
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    folder, weights_dir = tmp_path_factory.mktemp("pngs"), inception_file.parent
    made = as_pngs(sampler.load(tiny).sample(6, seed=3), folder / "made")
    real = as_pngs(load_images(real_images, 16).pixels, folder / "real")
    options = {"num_workers": 0, "device": torch.device("cpu"), "verbose": False, "batch_size": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extractor = InceptionV3W(str(weights_dir), download=False).eval()
    report = evaluate(
        tiny, real=real_images, samples=6, seed=3, metrics=["fid", "kid"], weights_dir=weights_dir, batch=4
    )
    return report, [fid.get_folder_features(str(path), extractor, **options) for path in (made, real)]


def test_fid_and_kid_are_those_of_clean_fids_features_of_the_pngs(both_ways):
    from cleanfid import fid

    report, features = both_ways
    assert report.metrics["fid"] == pytest.approx(frechet(*features), rel=1e-3)
    np.random.seed(3)
    assert report.metrics["kid"] == pytest.approx(fid.kernel_distance(*features), rel=1e-3)
    assert set(report.metrics) == {"fid", "kid"} and report.rows[-1]["metrics"] == {}
    assert any("FID with 6 real images" in line for line in report.warnings)
    assert len(report.settings["weights"]["inception-2015-12-05.pt"]["sha256"]) == 64


@pytest.mark.slow  # a matrix square root of 2048 x 2048
def test_fid_is_clean_fids(both_ways):
    from cleanfid import fid

    report, features = both_ways
    assert report.metrics["fid"] == pytest.approx(fid.fid_from_feats(*features), rel=1e-3)


def test_lpips_is_the_mean_over_all_pairs_of_8_bit_pictures(real_images, alexnet_file, tmp_path):
    source = make_source(
        tmp_path / "big.safetensors", resolution=32,
        g_widths={"4": 8, "8": 8, "16": 4, "32": 4}, d_widths={"4": 8, "8": 8, "16": 4, "32": 4},
    )  # fmt: skip
    found = evaluate(
        source, real=real_images, samples=5, metrics=["lpips"], weights_dir=alexnet_file.parent, batch=2
    )
    from fsgen.features.lpips_network import Lpips

    levels = sampler.load(source).sample(5, seed=0)
    expected = mean_distance(levels.float() / 127.5 - 1, Lpips("alex", alexnet_file))
    assert found.metrics == {"lpips": pytest.approx(expected, rel=1e-4)}
    assert found.rows[-1]["metrics"]["lpips"]["value"] > 0  # the reals' own
    assert found.settings["weights"][alexnet_file.name]["space"] == "alexnet"


def test_copies_are_told_from_the_sources_pictures_and_from_other_drawings(tmp_path, monkeypatch):
    monkeypatch.setattr(discriminators, "SAMPLES", 150)
    source, shots = models.load_model("peeps64"), load_images(TEN, 64).pixels
    discriminator = discriminators.DiscriminatorJudge.of(source, shots[:8], torch.device("cpu"), 32)
    for i, image in enumerate(shots[:8]):
        picture(image).save(tmp_path / f"{i}.jpg", quality=60)
    copies = {
        "exact": shots,
        "flipped": shots.flip(3),
        "moved": torch.roll(shots, (2, -1), (2, 3)).flip(3),  # the border is white
        "jpeg": load_images(tmp_path, 64).pixels,
    }
    for name, images in copies.items():
        assert (
            discriminator.nearest(discriminator.maps(images[:8]))[0] < discriminator.threshold
        ).float().mean() > 0.95, name
    others = torch.cat([shots[8:], sampler.ready(source, "cpu").sample(30)])
    assert (
        discriminator.nearest(discriminator.maps(others))[0] < discriminator.threshold
    ).float().mean() < 0.10


def test_replayed_images_are_all_near_copies(tiny, drawings, real_images, tmp_path, few):
    for i in range(3):
        shutil.copytree(drawings, tmp_path / "replay" / str(i))
    report = evaluate(tmp_path / "replay", real=drawings, shots=drawings, source=tiny)
    assert report.rows[0]["n"] == 15 and report.metrics["near_copies"] > 0.95
    assert "near_copies" not in report.rows[-1]["metrics"]  # these reals are the shots themselves


def test_a_run_knows_its_images_and_its_source(tiny, drawings, real_images, tmp_path, few):
    shots = shutil.copytree(drawings, tmp_path / "shots")
    run = adapt(shots, out=tmp_path / "run", source=tiny, method="finetune", steps=2, device="cpu")
    report = evaluate(run, real=real_images, samples=20)
    assert [row["name"] for row in report.rows] == [str(run), "source", "real"]
    assert all({"near_copies", "diversity"} <= set(row["metrics"]) for row in report.rows)
    assert report.shots["digest"] == load_images(shots, 16).digest
    assert report.source["hash"] == models.load_model(tiny).hash
    assert report.what["hash"] == models.load_model(run).hash
    alone = evaluate(tiny, real=real_images, shots=shots, samples=20).rows[0]["metrics"]
    assert report.rows[1]["metrics"] == alone

    Image.new("RGB", (20, 20)).save(shots / "one_more.png")
    later = evaluate(run, real=real_images, samples=20)
    assert "near_copies" not in later.metrics and "diversity" in later.metrics
    assert str(shots) in later.left_out["near_copies"]["why"]
    with refused(Code.CHANGED, shots, "--shots"):
        evaluate(run, real=real_images, samples=20, metrics=["near_copies"])
    shutil.rmtree(shots)
    assert str(shots) in evaluate(run, real=real_images, samples=20).left_out["near_copies"]["why"]
    with refused(Code.NOT_FOUND, shots, "--shots"):
        evaluate(run, real=real_images, samples=20, metrics=["near_copies"])


def test_absent_weights_are_left_out_or_named(tiny, real_images, tmp_path, monkeypatch, few):
    said = []
    monkeypatch.setattr(weight_files, "_search", lambda *args: None)
    report = evaluate(tiny, real=real_images, samples=4, callbacks=Callbacks(say=said.append))
    assert set(report.metrics) == {"diversity"}
    ordinary = {name for name, measure in MEASURES.items() if measure.of == "pictures"}
    assert set(report.left_out) == ordinary - {"diversity", "clip_fid", "fd_dinov2"}  # extras: silent
    for part in ("fid, kid", "fsgen pull metrics", "--download", "--weights-dir"):
        assert any(part in line for line in said)
    file, url = "inception-2015-12-05.pt", weight_files.CATALOGUE["inception"].url
    with refused(Code.MISSING_WEIGHTS, file, url, tmp_path):
        evaluate(tiny, real=real_images, samples=4, metrics=["diversity", "kid"], weights_dir=tmp_path)
    with refused(Code.NOT_FOUND, "--weights-dir", tmp_path / "absent"):
        evaluate(tiny, real=real_images, samples=4, weights_dir=tmp_path / "absent")


def test_a_download_is_used(tiny, real_images, alexnet_file, tmp_path, monkeypatch):
    def fake(url: str, destination: Path, sha256: str) -> Path:
        return Path(shutil.copy(alexnet_file, destination))

    monkeypatch.setattr(weight_files, "downloader", lambda **talk: fake)
    monkeypatch.setattr(weight_files, "_search", lambda *args: None)
    with refused(Code.INCOMPATIBLE, "31 px", "16x16"):  # it was fetched, and then of no use
        evaluate(tiny, real=real_images, samples=4, metrics=["lpips"], download=True, weights_dir=tmp_path)
    assert (tmp_path / alexnet_file.name).is_file()


def test_pictures_too_small_for_lpips_are_left_out(tiny, real_images, alexnet_file, few):
    report = evaluate(tiny, real=real_images, samples=4, weights_dir=alexnet_file.parent)
    assert "31 px" in report.left_out["lpips"]["why"] and "diversity" in report.metrics


def test_a_model_and_its_pictures_in_a_folder_or_zip_measure_the_same(
    tiny, real_images, drawings, tmp_path, few
):
    options = {"real": real_images, "shots": drawings, "source": tiny}
    model = evaluate(tiny, samples=12, batch=5, **options)
    folder = as_pngs(to_uint8(torch.cat(list(sampler.load(tiny).images(range(12))))), tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    for path in (folder, tmp_path / "made.zip"):
        images = evaluate(path, **options)
        assert images.metrics == pytest.approx(model.metrics, rel=1e-4)
        assert images.what["kind"] == "images" and images.what["count"] == 12
        assert images.settings["resolution"] == 16
    assert [row["name"] for row in images.rows] == ["made.zip", "source", "real"]
    assert evaluate(folder, samples=5, **options).rows[0]["n"] == 5


def test_without_fid_no_more_reals_are_looked_at_than_needed(tiny, real_images, monkeypatch, few):
    monkeypatch.setattr(collect, "DIVERSE", 3)
    batches = []
    monkeypatch.setattr(accumulators.Thumbnails, "add", lambda self, images: batches.append(len(images)))
    evaluate(tiny, real=real_images, samples=4, metrics=["diversity"])
    assert batches == [4, 4]  # of six real images; and the samples


def test_the_batch_changes_nothing(tiny, real_images, drawings, few):
    reports = [evaluate(tiny, real=real_images, shots=drawings, samples=11, batch=b) for b in (1, 4, 64)]
    for report in reports[1:]:
        assert report.metrics == pytest.approx(reports[0].metrics, rel=1e-5)
    other = evaluate(tiny, real=real_images, shots=drawings, samples=11, seed=50)
    assert other.metrics["diversity"] != pytest.approx(reports[0].metrics["diversity"], rel=1e-5)


def test_the_report_is_json_with_its_provenance(tiny, real_images, drawings, tmp_path, few):
    report = evaluate(tiny, real=real_images, shots=drawings, samples=4, truncation=0.7, seed=2)
    json_file, page = write_evaluation(report, tmp_path)
    whole = json.loads(json_file.read_text())
    assert whole["schema"] == "fsgen-report/1" and whole["fsgen"] and page.read_text().startswith("<!doctype")
    read = whole["evaluation"]
    assert read == json.loads(json.dumps(report.plain()))
    assert read["real"] == {
        "path": str(real_images), "count": 6, "digest": load_images(real_images, 8).digest, "skipped": 0
    }  # fmt: skip
    assert read["shots"]["count"] == 5
    assert read["what"]["hash"] == models.load_model(tiny).hash == read["near_copy"]["discriminator"]
    settings = read["settings"]
    assert (settings["samples"], settings["truncation"], settings["seed"]) == (4, 0.7, 2)
    assert read["near_copy"]["source_samples"] == 40
    assert read["rows"][0]["n"] == 4


def test_what_cannot_be_measured_is_refused(tiny, real_images, tmp_path):
    one = draw_images(tmp_path / "one", 1)
    for path, options, code, named in (
        (tiny, {"real": one}, Code.TOO_FEW, one),
        (one, {"real": real_images}, Code.TOO_FEW, one),
        (tiny, {"real": tmp_path / "absent"}, Code.NOT_FOUND, tmp_path / "absent"),
        (tmp_path / "absent", {"real": real_images}, Code.NOT_FOUND, tmp_path / "absent"),
        (tiny, {"real": real_images, "metrics": ["fide"]}, Code.UNKNOWN_NAME, "'fide'"),
        (tiny, {"real": real_images, "samples": 1}, Code.OUT_OF_RANGE, "--samples"),
        (tiny, {"real": real_images, "batch": 0}, Code.OUT_OF_RANGE, "--batch"),
        (tiny, {"real": real_images, "seeds": 0}, Code.OUT_OF_RANGE, "--seeds"),
        (tiny, {"real": real_images, "fit": "stretch"}, Code.UNKNOWN_NAME, "'stretch'"),
        (tiny, {"real": real_images, "shots": tmp_path / "absent"}, Code.NOT_FOUND, tmp_path / "absent"),
    ):
        with refused(code, named) as caught:
            evaluate(path, samples=options.pop("samples", 4), **options)
        assert caught.value.exit_code == 2


def test_a_source_without_a_discriminator_is_seen_through_the_bundled_one(real_images, tmp_path, few):
    bare = make_source(tmp_path / "bare.safetensors", ("g_ema",))
    report = evaluate(bare, real=real_images, samples=4)
    assert any("peeps64" in line for line in report.warnings) and report.metrics["diversity"] > 0


def test_nothing_is_written(tiny, real_images, tmp_path, few, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(tiny, real=real_images, samples=4)
    assert list(tmp_path.iterdir()) == []
