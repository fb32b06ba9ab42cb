"""The program as a process: its --help, Ctrl-C, a closed pipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import fsgen
from fsgen.io import checkpoint

PROGRAM = Path(sys.executable).with_name("fsgen.exe" if os.name == "nt" else "fsgen")
COMMANDS = ("", "pull", "fisher", "adapt", "train", "sample", "eval", "compare", "info")
HELP = """
import sys
sys.argv = ["fsgen", *sys.argv[1:], "--help"]
from fsgen.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
print(len(sys.modules), file=sys.stderr)
heavy = {"torch", "numpy", "PIL", "matplotlib", "safetensors", "scipy", "jinja2", "pydantic"}
heavy &= set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
BARE = """
import sys, typer
app = typer.Typer(add_completion=False)
app.command()(lambda x=1: None)
sys.argv = ["bare", "--help"]
try:
    app()
except SystemExit as stop:
    assert not stop.code
print(len(sys.modules), file=sys.stderr)
"""
ROOM = 1.6  # times the modules of a program of one line; pydantic or torch alone exceed it


def test_help_is_quick_and_loads_nothing_heavy():
    """By the number of imported modules, which take nearly all of the time and vary with no load."""

    def modules(program, *arguments):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stderr.split()[-1]), done.stdout

    bare, _ = modules(BARE)
    for command in COMMANDS:
        n, shown = modules(HELP, *filter(None, [command]))
        assert f"Usage: fsgen {command}".strip() in shown
        assert n < ROOM * bare, f"{command} imports {n} modules, a bare program {bare}"


@pytest.mark.skipif(not PROGRAM.exists(), reason="fsgen is not installed beside this python")
def test_the_installed_program_is_this_one():
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{fsgen.__version__}\n"


def test_python_m_fsgen_is_the_program():
    done = subprocess.run([sys.executable, "-m", "fsgen", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{fsgen.__version__}\n"
    refused = subprocess.run([sys.executable, "-m", "fsgen", "info", "nope"], capture_output=True, text=True)
    assert refused.returncode == 2 and "nope" in refused.stderr


def test_dir_lists_the_verbs_without_loading_torch():
    code = "import sys, fsgen; print(*dir(fsgen)); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    verbs = {"load", "pull", "fisher", "adapt", "train", "sample", "evaluate", "compare"}
    assert verbs | {"FsgenError"} <= set(done.stdout.split())
    assert all(callable(getattr(fsgen, verb)) for verb in verbs)


@pytest.mark.skipif(os.name == "nt", reason="sends a signal as POSIX systems do")
def test_ctrl_c_saves_and_prints_how_to_resume(cli, tmp_path, tiny, drawings, one_thread):
    run = tmp_path / "a run"
    began = ["adapt", str(drawings), "--out", str(run), "--source", str(tiny), "--method", "finetune"]
    program = [sys.executable, "-c", "from fsgen.cli.app import main; main()", *began, "--steps", "1000000"]
    process = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (run / "log.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    assert "Ctrl-C" in err
    done = int(re.search(r"step (\d+) of 1000000", err)[1])
    printed = re.search(r"hint: .*fsgen (.*)", err)[1]
    assert shlex.split(printed) == ["adapt", "--resume", str(run)]

    assert cli(*shlex.split(printed), "--steps", done + 2).code == 0
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == done + 2
    whole = tmp_path / "whole"
    assert cli(*began[:3], whole, *began[4:], "--steps", done + 2).code == 0
    digests = [checkpoint.hash_tensors(load_file(folder / "model.safetensors")) for folder in (run, whole)]
    assert digests[0] == digests[1]


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
def test_a_closed_pipe_is_no_error():
    command = (
        f"{shlex.quote(sys.executable)} -c 'from fsgen.cli.app import main; main()' info --json | head -c 5"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout == '{\n  "' and done.stderr == ""
