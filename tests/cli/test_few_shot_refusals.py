"""Models of instances (IC-GAN) and of translation (FUNIT): refused before any work.

Their classes, neighbours, weights, contents and archives: exit code 2, the value at fault, a remedy.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import pytest
import torch
from PIL import Image
from refusals import refused
from tiny import draw_images, make_source

import fsgen
from fsgen.data.images import load_images
from fsgen.errors import Code
from fsgen.features.weight_files import CATALOGUE
from fsgen.interfaces import Inputs
from fsgen.models import model as models

AFTER = {"g_h_embed_dim": 6, "d_h_embed_dim": 8, "d_cmap_dim": 8, "d_mapping_layers": 2}
NEW = "--size 16 --width 4 --out run --device cpu"
FUNIT = "--family funit --size 32 --width 2 --out run --device cpu"
PULL_SWAV = (CATALOGUE["swav"].file, "fsgen pull metrics swav", "--weights-dir", "https://")


def write_model(path, extra=None, name="stylegan2", **about):
    source = models.load_model(make_source(path, name=name, **about.pop("spec", {})))
    replace(source, about={**source.about, **about}, extra=extra or {}).save(path)


def write_archive(path, member, **changes):
    info = tarfile.TarInfo(member)
    for key, value in changes.items():
        setattr(info, key, value)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.parent / "images", arcname="icgan")
        archive.addfile(info, io.BytesIO(b"evil"[: info.size]))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with models and images, and no weights of any network on the machine."""
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    draw_images(tmp_path / "images", 4)
    draw_images(tmp_path / "single", 1)
    draw_images(tmp_path / "one" / "cats", 3)
    for name in ("cats", "dogs"):
        draw_images(tmp_path / "pets" / name, 2)
    features = torch.nn.functional.normalize(torch.ones(1, 2048))
    write_model(
        tmp_path / "icgan.safetensors", {"conditions": features}, title="icgan", features="swav",
        spec={**AFTER, "h_dim": 2048},
    )  # fmt: skip
    write_model(
        tmp_path / "funit.safetensors", {"conditions": torch.ones(3, 6)}, "funit", title="funit",
        classes=["cats", "dogs", "eels"],
    )  # fmt: skip
    write_archive(tmp_path / "up.tar.gz", "a/../../G_best0.pth", size=4)
    write_archive(tmp_path / "link.tar.gz", "icgan/G.pth", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    write_archive(tmp_path / "hard.tar.gz", "icgan/G.pth", type=tarfile.LNKTYPE, linkname="icgan/0000.png")
    return tmp_path


REFUSED = {  # the command, the code, and the names in its message: the value at fault and the remedy
    # one class, or not the model's
    "one class": (
        f"train one --classes {FUNIT}", Code.INCOMPATIBLE, "--classes", "one", "cats", "two sub-folders",
    ),
    "no classes": (f"train images {FUNIT}", Code.TOO_FEW, "classes", "there are 0", "--classes"),
    "classes not told": (f"train pets {FUNIT}", Code.TOO_FEW, "classes", "there are 0", "--classes"),
    "one of three": (
        "adapt one --source funit.safetensors --method finetune --out run", Code.INCOMPATIBLE, "funit",
        "dogs", "--method classcode",
    ),
    "two of three": (
        "adapt pets --source funit.safetensors --method finetune --out run", Code.INCOMPATIBLE, "funit",
        "eels", "classcode",
    ),
    "none of three": (
        "adapt images --source funit.safetensors --method finetune --out run", Code.INCOMPATIBLE, "funit",
        "none of cats, dogs, eels", "--method classcode",
    ),
    # neighbours
    "as many neighbours": (
        f"train images --features bundled --neighbours 4 {NEW}", Code.TOO_FEW, "4 images", "4 neighbours",
        "at most 3",
    ),
    "no neighbours": (
        f"train images --features bundled --neighbours 0 {NEW}", Code.OUT_OF_RANGE,
        "--neighbours is at least 1", "error",
    ),
    "a single image": (
        f"train single --features bundled {NEW}", Code.TOO_FEW, "single image", "neighbours", "hint: ",
    ),
    # features
    "weights to train": (f"train images --features swav {NEW}", Code.MISSING_WEIGHTS, *PULL_SWAV),
    "weights to swap": (
        "adapt images --source icgan.safetensors --method instances --out run", Code.MISSING_WEIGHTS,
        *PULL_SWAV,
    ),
    "weights to adapt": (
        "adapt images --source icgan.safetensors --method finetune --out run", Code.MISSING_WEIGHTS,
        *PULL_SWAV,
    ),
    "weights to draw": (
        "sample icgan.safetensors --instance single --out new/a.png", Code.MISSING_WEIGHTS, *PULL_SWAV,
    ),
    "weights to choose": (
        "sample icgan.safetensors --candidates 3 --out new/a.png", Code.MISSING_WEIGHTS, *PULL_SWAV,
    ),
    "timm's weights": (
        f"train images --features timm:resnet18.tv_in1k {NEW}", Code.MISSING_WEIGHTS, "resnet18.tv_in1k",
        "fsgen pull metrics timm:resnet18.tv_in1k",
    ),
    "no such weights": (
        f"train images --features swav --weights-dir absent {NEW}", Code.NOT_FOUND, "--weights-dir",
        "absent",
    ),
    "not in that folder": (
        f"train images --features swav --weights-dir images {NEW}", Code.MISSING_WEIGHTS,
        f"images/{CATALOGUE['swav'].file}",
    ),
    "no such features": (
        f"train images --features swaw {NEW}", Code.UNKNOWN_NAME, "'swaw'", "did you mean 'swav'",
    ),
    "other features": (
        "adapt images --source icgan.safetensors --features bundled --method instances --out run",
        Code.INCOMPATIBLE, "'bundled'", "128", "icgan", "2048", "features",
    ),
    "no features": (
        "sample funit.safetensors --instance single --out new/a.png", Code.INCOMPATIBLE, "funit",
        "instances", "--instance",
    ),
    # contents
    "no contents": (
        "sample icgan.safetensors --content images --out new/a.png", Code.INCOMPATIBLE, "icgan",
        "--content",
    ),
    "candidates of a content": (
        "sample funit.safetensors --content images --candidates 2 --out new/a.png", Code.INCOMPATIBLE,
        "funit", "--candidates",
    ),
    # archives
    "a name that leads out": ("pull up.tar.gz", Code.UNSAFE, "up.tar.gz", "../../G_best0.pth"),
    "a symbolic link": ("pull link.tar.gz", Code.UNSAFE, "link.tar.gz", "icgan/G.pth", "link"),
    "a hard link": ("pull hard.tar.gz", Code.UNSAFE, "hard.tar.gz", "icgan/G.pth", "link"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_any_work(cli, place, what):
    line, code, *named = REFUSED[what]
    before = sorted(place.rglob("*"))
    result = cli(*line.split())
    assert result.code == 2, result.err
    assert result.out == "" and "Traceback" not in result.err
    for name in named:
        assert name in result.err, (name, result.err)
    told = json.loads(cli(*line.split(), "--json").err.splitlines()[-1])["error"]
    assert told["code"] == code and told["where"]
    assert sorted(place.rglob("*")) == before, "files were left behind"


def test_contents_of_any_size_are_brought_to_the_models(cli, place):
    draw_images(place / "photos", 2)
    Image.open(place / "photos" / "0000.png").resize((57, 90)).save(place / "photos" / "0000.png")
    done = cli("sample", "funit.safetensors", "--content", "photos", "--class", "dogs", "--out", "new")
    assert done.code == 0, done.err
    made = sorted((place / "new").iterdir())
    assert [Image.open(path).size for path in made] == [(32, 32)] * 2
    loaded = fsgen.load("funit.safetensors", device="cpu").translating("photos")
    shown = load_images("photos", 32)
    assert torch.equal(loaded.model.extra["contents"], shown.pixels)  # the centre square, resized


def test_a_content_that_does_not_halve_is_refused(place):
    loaded, h = fsgen.load(place / "funit.safetensors", device="cpu"), torch.ones(1, 6)
    assert loaded.render(Inputs(content=torch.zeros(1, 3, 16, 40), h=h)).shape == (1, 3, 16, 40)
    for shape in ([3, 30, 32], [3, 8, 32], [1, 32, 32], [3, 0, 0]):
        with refused(Code.INCOMPATIBLE, shape, "3 channels", "8 px"):
            loaded.render(Inputs(content=torch.zeros(1, *shape), h=h))
