"""The commands from pull to sample on a small source: arguments, output, files."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from tiny import ABOUT

import fsgen
from fsgen.io.catalog import catalog
from fsgen.models import model as models


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_from_a_foreign_file_to_images(cli, home, tmp_path, tiny, drawings):
    """All commands in turn, with names that would break shells and markup."""
    state = models.load_model(tiny).networks["g_ema"]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "their [bold]net.safetensors")
    pulled = cli("pull", "their [bold]net.safetensors", "--name", "theirs")
    assert pulled.code == 0 and "note: " in pulled.err and "no discriminator" in pulled.err
    assert "their [bold]net.safetensors" in pulled.err
    assert f"{home}/sources/theirs.safetensors" in pulled.out.replace("\n", "")

    fisher = cli("fisher", "theirs", "--proxy", "reconstruction", "--samples", 2, "--out", "f.safetensors")
    assert fisher.code == 0 and "b16.torgb" in fisher.out and (tmp_path / "f.safetensors").is_file()

    (tmp_path / "ten [x]").symlink_to(drawings)
    out = "runs/the [red]first"
    adapted = cli(
        "adapt", "ten [x]", "--source", "theirs", "--out", out, "--method", "ewc,diffaugment", "--steps", 2,
        "--ewc-proxy", "reconstruction", "--ewc-samples", 2, "--ewc-lambda", "50", "--diffaugment-policy",
        "color", "--seed", 3, "--batch", 2,
    )  # fmt: skip
    assert adapted.code == 0, adapted.err
    assert "no discriminator" in adapted.err
    assert "step 2/2" in adapted.err and "images/s" in adapted.err
    assert f"'{out}'" in adapted.out and f"'{out}/samples/000002.png'" in adapted.out
    config = (tmp_path / out / "config.toml").read_text()
    for line in ('lambda = "50.0"', "seed = 3", "batch = 2", 'policy = "color"', 'source = "theirs"'):
        assert line in config

    hinted = adapted.out.split("sample: ")[1].splitlines()[0]
    sheet = cli(*shlex.split(hinted)[1:])  # the command it proposes
    assert sheet.code == 0 and Image.open(tmp_path / "grid.png").size == (8 * 18 - 2, 8 * 18 - 2)
    pairs = cli("sample", out, "--compare", "theirs", "--grid", "4x1", "--out", "new [b]/pairs.png")
    assert pairs.code == 0 and "'new [b]/pairs.png'" in pairs.out
    film = cli("sample", out, "--seeds", "0-1", "--interpolate", "--frames", 2, "--out", "walk.gif")
    assert film.code == 0 and Image.open(tmp_path / "walk.gif").n_frames == 4
    assert cli("sample", out, "--strength", 0.5, "--swap-above", 8, "--out", "mixed", "--n", 2).code == 0
    assert len(list((tmp_path / "mixed").iterdir())) == 2

    shown = cli("info", out)
    assert shown.code == 0 and "[red]first/model.safetensors" in shown.out
    listed = cli("info")
    assert listed.code == 0 and "theirs" in listed.out and "peeps64" in listed.out and "ewc" in listed.out


def test_pictures_of_every_kind(cli, tmp_path, tiny):
    folder = tmp_path / "art"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def noise(*shape, high=255, kind=np.uint8):
        return rng.integers(0, high, shape).astype(kind)

    Image.fromarray(noise(1, 1, 3)).save(folder / "one.png")
    Image.fromarray(noise(3000, 20, 3)).save(folder / "tall.jpg")
    Image.new("RGB", (5000, 5000), "teal").save(folder / "huge.png")
    Image.fromarray(noise(30, 40, 4)).convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(noise(20, 20, high=65535, kind=np.uint16)).save(folder / "deep.png")
    Image.fromarray(noise(20, 20, 4)).save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 30, 3)).save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes((folder / "alpha.png").read_bytes()[:200])
    (folder / "notes [b].jpg").write_text("no picture")
    (folder / "readme.txt").write_text("no picture either")
    done = cli("adapt", folder, "--out", "run", "--source", tiny, "--method", "finetune", "--steps", 1)
    assert done.code == 0, done.err
    assert "7 read, 2 skipped" in done.err
    assert "skipped broken.png" in done.err and "skipped notes [b].jpg" in done.err
    assert "readme" not in done.err and "Traceback" not in done.err


def test_with_json_stdout_is_json(cli, home, tmp_path, tiny, drawings):
    found = {}
    run = ["--source", tiny, "--method", "finetune", "--steps", 1]
    for name, arguments in {
        "pull": ["pull", tiny, "--name", "mine"],
        "info": ["info"],
        "info of a file": ["info", tiny],
        "fisher": ["fisher", tiny, "--samples", 2],
        "dry run": ["adapt", drawings, "--out", "run", *run, "--dry-run"],
        "adapt": ["adapt", drawings, "--out", "run", *run],
        "resume": ["adapt", "--resume", "run", "--steps", 2],
        "sample": ["sample", "run", "--out", "folder", "--seeds", "4,6"],
    }.items():
        result = cli(*arguments, "--json")
        assert result.code == 0, result.err
        found[name] = json.loads(result.out)
    model = models.load_model(tiny)
    assert found["pull"]["hash"] == found["info of a file"]["hash"] == model.hash
    assert found["info of a file"]["title"] == ABOUT["title"] and found["info of a file"]["resolution"] == 16
    assert found["info of a file"]["parameters"]["d"] == sum(
        p.numel() for p in model.discriminator().parameters()
    )
    assert set(found["info"]) == {"sources", "families", "methods"}
    by_name = {source["name"]: source for source in found["info"]["sources"]}
    assert set(by_name) == {*catalog(), "mine"} and by_name["mine"]["here"] and not by_name["ffhq"]["here"]
    assert found["fisher"]["samples"] == 2 and found["fisher"]["trace"] > 0
    assert len(found["fisher"]["layers"]) == len(model.family.layers(model.spec))
    assert found["dry run"]["run"]["steps"] == 1 and found["dry run"]["recipe"]["batch"] == 4
    assert found["adapt"]["path"] == "run" and found["resume"]["run"]["steps"] == 2
    assert found["resume"]["run"]["model"]["hash"] == models.load_model(tmp_path / "run").hash
    assert found["sample"] == {
        "files": ["folder/seed00004.png", "folder/seed00006.png"], "seeds": [4, 6]
    }  # fmt: skip


def test_a_dry_run_prints_a_configuration(cli, tmp_path, tiny, drawings):
    shown = cli("adapt", drawings, "--out", "run", "--source", tiny, "--lr", 0.5, "--mirror", "--dry-run")
    assert shown.code == 0 and not (tmp_path / "run").exists()
    (tmp_path / "shown.toml").write_text(shown.out)
    from fsgen.config import read_toml

    config = read_toml(tmp_path / "shown.toml")
    assert config["recipe"]["lr"] == 0.5 and config["run"]["mirror"] is True
    assert config["method"]["ewc"]["lambda"] == "auto"


def test_a_dry_run_of_fisher_checks_and_estimates_nothing(cli, tmp_path, tiny, home):
    shown = json.loads(cli("fisher", tiny, "--samples", 3, "--dry-run", "--json").out)
    assert shown["samples"] == 3 and shown["network"] == "g" and shown["cached"] is False
    assert cli("fisher", tiny, "--samples", 3).code == 0
    assert json.loads(cli("fisher", tiny, "--samples", 3, "--dry-run", "--json").out)["cached"] is True
    refused = cli("fisher", tiny, "--proxy", "adversary", "--dry-run")
    assert refused.code == 2 and "adversarial" in refused.err


def test_defaults_of_the_program_are_those_of_the_functions(cli, tmp_path, tiny, drawings):
    printed = json.loads(cli("adapt", drawings, "--out", "a", "--source", tiny, "--dry-run", "--json").out)
    assert printed == fsgen.adapt(drawings, out=tmp_path / "b", source=tiny, dry_run=True)


def test_a_class_is_sampled(cli, tmp_path, drawings):
    import shutil

    for name in ("cats", "dogs"):
        shutil.copytree(drawings, tmp_path / "pets" / name)
    small = ["--size", 16, "--width", 4, "--steps", 1, "--device", "cpu"]
    trained = cli("train", "pets", "--classes", "--out", "run", *small)
    assert trained.code == 0 and "run/samples/000001.png" in trained.out, trained.err
    assert cli("train", "--resume", "run", "--steps", 2).code == 0
    assert cli("sample", "run", "--class", "dogs", "--out", "dogs.png", "--n", 2).code == 0
    assert Image.open(tmp_path / "dogs.png").text["class"] == "dogs"
    refused = cli("sample", "run", "--class", "dgs", "--out", "x.png")
    assert refused.code == 2 and "did you mean 'dogs'" in refused.err
    assert cli("train", "pets", "--out", "run", *small).code == 2  # there is a run
    assert cli("train", "--out", "other").code == 2


def test_a_fisher_as_a_table_and_a_plot(cli, tmp_path, tiny):
    shown = cli("fisher", tiny, "--samples", 2, "--plot", "plot.png")
    assert shown.code == 0 and (tmp_path / "plot.png").exists()
    model = models.load_model(tiny)
    for layer, names in model.family.layers(model.spec).items():
        sizes = sum(dict(model.generator().named_parameters())[name].numel() for name in names)
        assert any(line.split()[:2] == [layer, f"{sizes:,}"] for line in shown.out.splitlines())
    assert "2 samples, proxy adversarial, network g; trace " in shown.out


def test_terms_are_shown_and_confirmed_on_a_terminal(cli, home, monkeypatch):
    import sys

    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, **options: asked.append((text, options)))
    refused = cli("pull", "ffhq")
    assert refused.code == 2 and [options for _, options in asked] == [{"err": True}]
    terms = catalog()["ffhq"]
    assert terms.licence in refused.err and terms.terms in refused.err and "non-commercial" in refused.err


def test_version_and_no_arguments(cli):
    assert cli("--version").out == f"{fsgen.__version__}\n"
    for arguments in ([], ["--help"], ["-h"]):
        shown = cli(*arguments)
        for command in ("pull", "fisher", "adapt", "train", "sample", "eval", "compare", "info"):
            assert command in shown.out + shown.err
