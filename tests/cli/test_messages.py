"""What is refused: exit code 2 (1 for failures), one clear sentence, a remedy, no traceback, no harm done."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import draw_images, make_source
from typer.main import get_command

import fsgen
from fsgen.cli.app import app


@pytest.fixture
def place(tmp_path, tiny, drawings, monkeypatch):
    """A folder with one of everything that goes wrong."""
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    shutil.copy(tiny, tmp_path / "source.safetensors")
    shutil.copytree(drawings, tmp_path / "images")
    (tmp_path / "empty").mkdir()
    draw_images(tmp_path / "junk", 2)
    for path in (tmp_path / "junk").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "cut.safetensors").write_bytes(tiny.read_bytes()[:-20])
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"G_ema": 1}))
    make_source(tmp_path / "no_d.safetensors", ("g",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    return tmp_path


def snapshot(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def check(result, code, sentence, remedy):
    assert result.code == code, result.err
    assert result.out == ""
    assert re.search(sentence, result.err), result.err
    assert re.search(remedy, result.err), result.err
    assert "Traceback" not in result.err


ADAPT = "adapt images --out run --source source.safetensors"
SAMPLE = "sample source.safetensors --out a.png"
# What is typed, what is said about it, and the remedy.
REFUSED = {
    # images
    "nothing given": ("adapt", "IMAGES and --out are needed", "hint: fsgen adapt"),
    "no out": ("adapt images", "IMAGES and --out are needed", "hint: fsgen adapt"),
    "empty folder": ("adapt empty --out run", "error: there is no image in empty", r"\.png"),
    "no such path": ("adapt absent --out run", "there is no file or folder absent", "check the path"),
    "nothing readable": (
        "adapt junk --out run", r"none of the 2 image files in junk can be read \(0000",
        "image viewer",
    ),
    # sources and models
    "unknown source": (
        "adapt images --out run --source peep64", "no source 'peep64'",
        "did you mean 'peeps64'",
    ),
    "quite unknown": ("adapt images --out run --source qqqq", "no source 'qqqq'", "hint: fsgen info lists"),
    "not pulled yet": (
        "adapt images --out run --source ffhq", "'ffhq' is in the catalogue",
        "hint: fsgen pull ffhq",
    ),
    "no file": (
        "adapt images --out run --source a/b.safetensors", "no such file or run folder: a/b",
        "error",
    ),
    "truncated": (
        "adapt images --out run --source cut.safetensors", "error: cut.safetensors cannot be read",
        "cut short",
    ),
    "not ours": (
        "adapt images --out run --source resnet.safetensors", "resnet.safetensors was not written by fsgen",
        "fsgen pull resnet.safetensors",
    ),
    "a pickle": (
        "adapt images --out run --source net.pkl", "net.pkl cannot be read",
        "hint: .* fsgen pull net.pkl",
    ),
    "a folder": (
        "adapt images --out run --source images", "images is a folder without model.safetensors",
        "error",
    ),
    "another family": ("pull resnet.safetensors", "resnet.safetensors .* no family", "stylegan2"),
    "no network": ("pull net.pkl", r"net\.pkl", "error"),
    "nothing to pull": ("pull fhq", "no source 'fhq'", "did you mean 'ffhq'"),
    "terms": ("pull ffhq", "ffhq is not for commercial use", "hint: .* fsgen pull ffhq --yes"),
    "nothing to sample": ("sample peeps63 --out a.png", "no source 'peeps63'", "peeps64"),
    "nothing to show": ("info peeps63", "no source 'peeps63'", "peeps64"),
    "nothing to estimate": ("fisher peeps63", "no source 'peeps63'", "peeps64"),
    # methods and options
    "unknown method": (f"{ADAPT} --method ewx", "no method 'ewx'", "did you mean 'ewc'"),
    "one of two": (f"{ADAPT} --method ewc,difaugment", "'difaugment'", "did you mean 'diffaugment'"),
    "twice": (f"{ADAPT} --method ewc,ewc", "'ewc' is given twice", "error"),
    "no method": (f"{ADAPT} --method ,", "no method given", "known: "),
    "unknown option": (f"{ADAPT} --ewc-lamda 3", "No such option: --ewc-lamda", "--ewc-lambda"),
    "option of another": (
        f"{ADAPT} --method finetune --ewc-lambda 3", "options of 'ewc' are given",
        "--method finetune,ewc",
    ),
    "no lambda": (f"{ADAPT} --ewc-lambda much", "'much' is not a lambda", "--ewc-lambda auto"),
    "negative lambda": (f"{ADAPT} --ewc-lambda -1", "lambda -1 is not a number of at least 0", "error"),
    "no proxy": (f"{ADAPT} --ewc-proxy adverse", "'proxy' cannot be 'adverse'", "did you mean 'adversarial'"),
    "no samples": (f"{ADAPT} --ewc-samples 0", "from 0 samples cannot be estimated", "hint"),
    "no policy": (
        f"{ADAPT} --method diffaugment --diffaugment-policy colour", "no policy 'colour'",
        "'color'",
    ),
    "no place": (
        f"{ADAPT} --method diffaugment --diffaugment-where d_only", "'where' cannot be 'd_only'",
        "d-only",
    ),
    "unknown command": ("adopt", "No such command 'adopt'", "adapt"),
    "no number": (f"{ADAPT} --steps many", "Invalid value for '--steps'", "integer"),
    "no steps": (f"{ADAPT} --steps 0", "steps, sample-every and save-every", "at least 1"),
    "no rate": (f"{ADAPT} --lr nan", "--lr is above 0", "error"),
    "no batch": (f"{ADAPT} --batch 0", "--batch is at least 1", "error"),
    "no fit": (f"{ADAPT} --fit stretch", "no fit 'stretch'", "crop or pad"),
    "no stop": (f"{ADAPT} --stop best", "no stop 'best'", "steps or auto"),
    "no device": (f"{ADAPT} --device tpu", "no device 'tpu'", "usable: auto, cpu"),
    "no critic": (
        "adapt images --out run --source no_d.safetensors", "no discriminator, so the adversarial",
        "--proxy reconstruction",
    ),
    "beside resume": ("adapt --resume mine --lr 1", "takes no --lr", "fsgen adapt --resume RUN"),
    "images and resume": ("adapt images --resume mine", "takes no images", "fsgen adapt --resume RUN"),
    "option and resume": ("adapt --resume mine --ewc-lambda 1", "no --ewc-lambda", "hint"),
    # places
    "no run": ("adapt --resume mine", "there is no run in mine", r"config\.toml"),
    "taken": (
        "adapt images --out mine --source source.safetensors", "mine is not empty",
        "choose another --out",
    ),
    "taken, forced": (
        "adapt images --out mine --source source.safetensors --force", "mine is not empty",
        "choose another --out",
    ),
    "a file": (
        "adapt images --out file --source source.safetensors", "file is a file, not a folder",
        "another --out",
    ),
    "below a file": (
        "adapt images --out file/run --source source.safetensors", "file/run cannot be created",
        "choose another",
    ),
    "sample below a file": (
        "sample source.safetensors --out file/a.png", "cannot be created",
        "choose another",
    ),
    # samples
    "no seeds": (f"{SAMPLE} --seeds x", "'x' is not a list", "0-63"),
    "seeds twice": (f"{SAMPLE} --seeds 1 --n 2", "say the same", "one of"),
    "no pictures": (f"{SAMPLE} --n 0", "--n is at least 1", "error"),
    "no grid": (f"{SAMPLE} --grid 8", "'8' is not a grid", "8x8"),
    "small grid": (f"{SAMPLE} --grid 2x2 --n 5", "5 pictures do not fit", "larger grid"),
    "no film": ("sample source.safetensors --out a.gif", "a.gif is a film", "--interpolate"),
    "no plot": ("fisher source.safetensors --plot a.jpg", "written as PNG, not as a.jpg", "a.png"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_sentence(cli, place, what):
    line, sentence, remedy = REFUSED[what]
    before = snapshot(place)
    check(cli(*line.split()), 2, sentence, remedy)
    after = snapshot(place)
    for path in [p for p in after if p.parts[0] == "run" and not after[p]]:
        del after[path]  # an empty folder may stay
    assert after == before


def test_a_run_in_the_way(cli, place):
    assert cli(*f"{ADAPT} --method finetune --steps 1".split()).code == 0
    before = snapshot(place)
    check(cli(*ADAPT.split()), 2, "there is a run in run already", "fsgen adapt --resume run; .*--force")
    check(cli("adapt", "--resume", "run", "--steps", 0), 2, "done 1 steps: --steps 0 is behind", "error")
    assert snapshot(place) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(cli, place):
    (place / "mine").chmod(0o500)
    check(cli("adapt", "images", "--out", "mine/run"), 2, "run cannot be created: Permission", "choose")
    check(cli("sample", "source.safetensors", "--out", "mine/a.png"), 2, "cannot be written", "choose")


def test_an_unwritable_folder_even_for_root(cli, place, monkeypatch):
    real = os.mkdir

    def mkdir(path, *rest, **options):
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    check(cli("adapt", "images", "--out", "locked/run"), 2, "run cannot be created: Permission", "choose")


def test_a_full_disk_is_a_failure(cli, place, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fisher, pull = "fisher source.safetensors --samples 1", "pull source.safetensors"
    for line in (f"{ADAPT} --method finetune", SAMPLE, fisher, pull):
        check(
            cli(*line.split()), 1, "error: the disk is full: .* could not be written", "hint: free some space"
        )


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("odd [red]thing[/red]"), 1, r"RuntimeError: odd \[red\]thing\[/red\]"),
        (OSError(errno.ENOSPC, "No space left"), 1, "the disk is full"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_nobody_foresaw(cli, place, monkeypatch, error, code, message):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("fsgen.models.model.load", fail)
    check(cli("info", "peeps64"), code, message, "")
    if code == 1:
        with pytest.raises(type(error)):  # python shows it, and where it came from
            cli("info", "peeps64", "--debug")


def test_debug_shows_where(cli, place):
    from fsgen.errors import FsgenError

    for flag in ("--debug", "-v"):
        with pytest.raises(FsgenError):
            cli("info", "absent", flag)


@pytest.mark.parametrize("call", ["os.system", "builtins.eval", "nested"])
def test_a_hostile_file(cli, place, call):
    mark = place / "ran"
    touch, opened = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    reduced = (eval, (opened,)) if call == "builtins.eval" else (os.system, (touch,))

    class Evil:
        def __reduce__(self):
            return reduced

    if call == "nested":
        torch.save({"g_ema": {"conv1.conv.weight": torch.zeros(3), "x": Evil()}}, place / "gift.pt")
    else:
        (place / "gift.pt").write_bytes(pickle.dumps({"G_ema": Evil()}))
    check(cli("pull", "gift.pt"), 2, r"error: gift\.pt", "")
    assert not mark.exists() and not list((place / "home").rglob("*.safetensors"))


def texts(path):
    """The texts in a module, with X for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(getattr(part, "value", "X")) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_command_and_flag_in_a_message_exists():
    commands = get_command(app).commands
    flags = {
        name: {flag for p in command.params for flag in p.opts + p.secondary_opts}
        for name, command in commands.items()
    }
    known = set().union(*flags.values()) | {"--version", "--help"}
    seen = 0
    for path in Path(fsgen.__file__).parent.rglob("*.py"):
        for text in texts(path):
            for name, rest in re.findall(r"\bfsgen ([a-z]+)((?: [^\s;,)]+)*)", text):
                if name in flags:
                    seen += 1
                    wrong = set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - flags[name]
                    assert not wrong, f"{path.name}: {text}"
            wrong = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known
            assert not wrong, f"{path.name}: {text}"
    assert seen > 10
