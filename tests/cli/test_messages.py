"""Refusals: exit code 2 (1 for failures), what is at fault and a remedy, no traceback, nothing changed."""

from __future__ import annotations

import ast
import errno
import json
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
from fsgen.errors import Code, FsgenError


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


def check(result, code, *named):
    """``named``: files, options and values in the message or its hint."""
    assert result.code == code, result.err
    assert result.out == ""
    for name in named:
        assert str(name) in result.err, (name, result.err)
    assert "Traceback" not in result.err


OURS = "--source source.safetensors"
ADAPT = f"adapt images --out run {OURS}"
SAMPLE = "sample source.safetensors --out a.png"
# The command, the code of the refusal, and the names in its message or hint: the file, option or value at
# fault, and the remedy.
REFUSED = {
    # images
    "nothing given": ("adapt", Code.USAGE, "IMAGES", "--out", "hint: fsgen adapt"),
    "no out": ("adapt images", Code.USAGE, "IMAGES", "--out", "hint: fsgen adapt"),
    "nothing to train on": ("train --out run", Code.USAGE, "IMAGES", "--out", "hint: fsgen train"),
    "empty folder": ("adapt empty --out run", Code.NOT_FOUND, "empty", ".png"),
    "no such path": ("adapt absent --out run", Code.NOT_FOUND, "absent"),
    "nothing readable": ("adapt junk --out run", Code.DAMAGED, "2 image files", "junk", "0000"),
    # sources and models
    "unknown source": (
        "adapt images --out run --source peep64", Code.UNKNOWN_NAME, "'peep64'", "did you mean 'peeps64'",
    ),
    "quite unknown": (
        "adapt images --out run --source qqqq", Code.UNKNOWN_NAME, "'qqqq'", "hint: fsgen info",
    ),
    "not pulled yet": (
        "adapt images --out run --source ffhq", Code.NOT_FOUND, "'ffhq'", "hint: fsgen pull ffhq",
    ),
    "no file": ("adapt images --out run --source a/b.safetensors", Code.NOT_FOUND, "a/b.safetensors"),
    "truncated": (
        "adapt images --out run --source cut.safetensors", Code.DAMAGED, "cut.safetensors", "hint: ",
    ),
    "not ours": (
        "adapt images --out run --source resnet.safetensors", Code.UNSUPPORTED, "resnet.safetensors",
        "fsgen pull resnet.safetensors",
    ),
    "a pickle": ("adapt images --out run --source net.pkl", Code.DAMAGED, "net.pkl", "fsgen pull net.pkl"),
    "a folder": ("adapt images --out run --source images", Code.NOT_FOUND, "images", "model.safetensors"),
    "another family": ("pull resnet.safetensors", Code.UNSUPPORTED, "resnet.safetensors", "stylegan2"),
    "no network": ("pull net.pkl", Code.UNSUPPORTED, "net.pkl"),
    "nothing to pull": ("pull fhq", Code.UNKNOWN_NAME, "'fhq'", "did you mean 'ffhq'"),
    "terms": ("pull ffhq", Code.DECLINED, "ffhq", "fsgen pull ffhq --yes"),
    "nothing to sample": ("sample peeps63 --out a.png", Code.UNKNOWN_NAME, "'peeps63'", "peeps64"),
    "nothing to show": ("info peeps63", Code.UNKNOWN_NAME, "'peeps63'", "peeps64"),
    "nothing to estimate": ("fisher peeps63", Code.UNKNOWN_NAME, "'peeps63'", "peeps64"),
    # methods and options
    "unknown method": (f"{ADAPT} --method ewx", Code.UNKNOWN_NAME, "'ewx'", "did you mean 'ewc'"),
    "one of two": (
        f"{ADAPT} --method ewc,difaugment", Code.UNKNOWN_NAME, "'difaugment'", "did you mean 'diffaugment'",
    ),
    "twice": (f"{ADAPT} --method ewc,ewc", Code.USAGE, "'ewc'", "'ewc,ewc'"),
    "no method": (f"{ADAPT} --method ,", Code.USAGE, "method", "known: finetune, ewc"),
    "unknown option": (f"{ADAPT} --ewc-lamda 3", Code.USAGE, "--ewc-lamda", "--ewc-lambda"),
    "option of another": (
        f"{ADAPT} --method finetune --ewc-lambda 3", Code.USAGE, "'ewc'", "'finetune'",
        "--method finetune,ewc",
    ),
    "no lambda": (f"{ADAPT} --ewc-lambda much", Code.OUT_OF_RANGE, "--ewc-lambda much", "--ewc-lambda auto"),
    "negative lambda": (f"{ADAPT} --ewc-lambda -1", Code.OUT_OF_RANGE, "lambda", "-1"),
    "no proxy": (
        f"{ADAPT} --ewc-proxy adverse", Code.OUT_OF_RANGE, "'proxy'", "'adverse'",
        "did you mean 'adversarial'",
    ),
    "no samples": (f"{ADAPT} --ewc-samples 0", Code.OUT_OF_RANGE, "0 samples", "--samples"),
    "no policy": (
        f"{ADAPT} --method diffaugment --diffaugment-policy colour", Code.UNKNOWN_NAME, "'colour'", "'color'",
    ),
    "no place": (
        f"{ADAPT} --method diffaugment --diffaugment-where d_only", Code.OUT_OF_RANGE, "'where'", "'d_only'",
        "d-only",
    ),
    "unknown command": ("adopt", Code.USAGE, "'adopt'", "adapt"),
    "no number": (f"{ADAPT} --steps many", Code.USAGE, "'--steps'", "integer"),
    "no steps": (f"{ADAPT} --steps 0", Code.OUT_OF_RANGE, "--steps", "at least 1"),
    "no grids": (f"{ADAPT} --sample-every 0", Code.OUT_OF_RANGE, "--sample-every", "at least 1"),
    "no saves": (f"{ADAPT} --save-every -1", Code.OUT_OF_RANGE, "--save-every", "at least 1"),
    "no rate": (f"{ADAPT} --lr nan", Code.OUT_OF_RANGE, "--lr", "above 0"),
    "no batch": (f"{ADAPT} --batch 0", Code.OUT_OF_RANGE, "--batch", "at least 1"),
    "no fit": (f"{ADAPT} --fit stretch", Code.UNKNOWN_NAME, "'stretch'", "crop or pad"),
    "no stop": (f"{ADAPT} --stop best", Code.UNKNOWN_NAME, "'best'", "steps or auto"),
    "no device": (f"{ADAPT} --device tpu", Code.UNKNOWN_NAME, "'tpu'", "auto, cpu"),
    "no discriminator": (
        "adapt images --out run --source no_d.safetensors", Code.INCOMPATIBLE, "discriminator",
        "--proxy reconstruction", "--ewc-proxy",
    ),
    "beside resume": ("adapt --resume mine --lr 1", Code.USAGE, "--lr", "fsgen adapt --resume RUN"),
    "images and resume": ("adapt images --resume mine", Code.USAGE, "images", "fsgen adapt --resume RUN"),
    "option and resume": ("adapt --resume mine --ewc-lambda 1", Code.USAGE, "--ewc-lambda", "--steps"),
    "config and resume": ("train --resume mine --config a.toml", Code.USAGE, "--config", "fsgen train"),
    # places
    "no run": ("adapt --resume mine", Code.NOT_FOUND, "mine", "config.toml"),
    "taken": (f"adapt images --out mine {OURS}", Code.EXISTS, "mine", "--out"),
    "taken, forced": (f"adapt images --out mine {OURS} --force", Code.EXISTS, "mine", "--out"),
    "a file": (f"adapt images --out file {OURS}", Code.EXISTS, "file", "--out"),
    "below a file": (f"adapt images --out file/run {OURS}", Code.UNWRITABLE, "file/run"),
    "sample below a file": ("sample source.safetensors --out file/a.png", Code.UNWRITABLE, "file"),
    # samples
    "no seeds": (f"{SAMPLE} --seeds x", Code.OUT_OF_RANGE, "'x'", "--seeds 0-63"),
    "seeds twice": (f"{SAMPLE} --seeds 1 --n 2", Code.USAGE, "--seeds", "--n"),
    "no pictures": (f"{SAMPLE} --n 0", Code.OUT_OF_RANGE, "--n", "at least 1"),
    "no grid": (f"{SAMPLE} --grid 8", Code.OUT_OF_RANGE, "'8'", "--grid 8x8"),
    "small grid": (f"{SAMPLE} --grid 2x2 --n 5", Code.OUT_OF_RANGE, "5 ", "2x2"),
    "no animation": ("sample source.safetensors --out a.gif", Code.USAGE, "a.gif", "--interpolate"),
    "no plot": ("fisher source.safetensors --plot a.jpg", Code.UNSUPPORTED, "a.jpg", "a.png"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_sentence(cli, place, what):
    line, code, *named = REFUSED[what]
    before = snapshot(place)
    check(cli(*line.split()), 2, *named)
    result = cli(*line.split(), "--json")
    told = json.loads(result.err.splitlines()[-1])["error"]
    assert result.code == 2 and result.out == "" and told["code"] == code
    assert (
        told["message"]
        and "\n" not in told["message"]
        and told.keys() == {"message", "code", "where", "hint"}
    )
    assert told["where"] or what == "unknown command"
    after = snapshot(place)
    for path in [p for p in after if p.parts[0] == "run" and not after[p]]:
        del after[path]  # an empty folder may stay
    assert after == before


def test_a_run_in_the_way(cli, place):
    assert cli(*f"{ADAPT} --method finetune --steps 1".split()).code == 0
    before = snapshot(place)
    check(cli(*ADAPT.split()), 2, "run", "fsgen adapt --resume run", "--force")
    check(cli("adapt", "--resume", "run", "--steps", 0), 2, "1 steps", "--steps 0")
    assert snapshot(place) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(cli, place):
    (place / "mine").chmod(0o500)
    check(cli("adapt", "images", "--out", "mine/run"), 2, "mine/run", "Permission denied")
    check(cli("sample", "source.safetensors", "--out", "mine/a.png"), 2, "mine", "Permission denied")


def test_an_unwritable_folder_even_for_root(cli, place, monkeypatch):
    real = os.mkdir

    def mkdir(path, *rest, **options):
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    check(cli("adapt", "images", "--out", "locked/run"), 2, "locked/run", "Permission denied")


def test_a_full_disk_is_a_failure(cli, place, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fisher, pull = "fisher source.safetensors --samples 1", "pull source.safetensors"
    for line in (f"{ADAPT} --method finetune", SAMPLE, fisher, pull):
        check(cli(*line.split()), 1, "error: the disk is full", "hint: free some space")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("odd [red]thing[/red]"), 1, "RuntimeError: odd [red]thing[/red]"),
        (OSError(errno.ENOSPC, "No space left"), 1, "the disk is full"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_unexpected_errors(cli, place, monkeypatch, error, code, message):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("fsgen.models.model.load_model", fail)
    check(cli("info", "peeps64"), code, message)
    if code == 1:
        with pytest.raises(type(error)):  # python shows it, and where it came from
            cli("info", "peeps64", "--debug")


def test_debug_shows_where(cli, place):
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
    check(cli("pull", "gift.pt"), 2, "error: gift.pt")
    assert not mark.exists() and not list((place / "home").rglob("*.safetensors"))


def texts(path):
    """The strings of a module, with X for the fields of f-strings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_command_and_flag_in_a_message_exists():
    commands = get_command(app).commands
    flags = {
        name: {flag for p in command.params for flag in p.opts + p.secondary_opts}
        for name, command in commands.items()
    }
    known = set().union(*flags.values()) | {"--version", "--help", "--help-all"}
    seen = 0
    for path in Path(fsgen.__file__).parent.rglob("*.py"):
        for text in texts(path):
            for name, rest in re.findall(r"\bfsgen ([a-z]+)((?: [^\s;,)]+)*)", text):
                if name in flags:
                    seen += 1
                    wrong = set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - flags[name]
                    assert not wrong, f"{path.name}: {text}"
            wrong = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known
            wrong = {
                flag for flag in wrong if not (flag.endswith("-") and any(f.startswith(flag) for f in known))
            }
            assert not wrong, f"{path.name}: {text}"
    assert seen > 10
