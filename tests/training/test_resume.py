"""A stopped or killed run resumes to the bytes of an uninterrupted one; failures keep the saved state."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from stops import METHODS, STEPS, After, adapt, outcome

from fsgen.callbacks import Callbacks
from fsgen.errors import Code, Interrupted
from fsgen.io.run_folder import RunFolder
from fsgen.methods.finetune import Finetune
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- stopped -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, tiny, drawings, whole, name):
    expected = whole(name)
    with refused(Code.INTERRUPTED, f"step 3 of {STEPS}", tmp_path / "a run") as caught:
        adapt(drawings, tmp_path / "a run", tiny, name, callbacks=After(3).callbacks)
    assert caught.value.exit_code == 130
    assert caught.value.hint.endswith(f"fsgen adapt --resume '{tmp_path / 'a run'}'")
    assert not (tmp_path / "a run" / "model.safetensors").exists()
    assert resume(tmp_path / "a run") == tmp_path / "a run"
    assert outcome(tmp_path / "a run") == expected


@pytest.mark.parametrize(("step", "die"), [(1, False), (2, False), (5, False), (1, True), (5, True)])
def test_wherever_it_was_stopped(tmp_path, tiny, drawings, whole, step, die):
    with pytest.raises(KeyboardInterrupt if die else Interrupted):
        adapt(drawings, tmp_path / "run", tiny, callbacks=After(step, die).callbacks)
    saved = {(1, True): 0, (5, True): 4}.get((step, die), step)
    assert RunFolder.open(tmp_path / "run").step == saved
    said = []
    resume(tmp_path / "run", callbacks=Callbacks(say=said.append))
    assert any("resum" in line and f"step {saved} of {STEPS}" in line for line in said)
    assert outcome(tmp_path / "run") == whole("finetune")


def test_stopped_again_and_again(tmp_path, tiny, drawings, whole):
    with pytest.raises(Interrupted):
        adapt(drawings, tmp_path / "run", tiny, "stack", callbacks=After(1).callbacks)
    for _ in range(STEPS - 2):
        with pytest.raises(Interrupted):
            resume(tmp_path / "run", callbacks=After(1).callbacks)
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == whole("stack")
    steps = [line["step"] for line in RunFolder(tmp_path / "run").history()]
    assert steps == list(range(1, STEPS + 1))  # one line where each process stopped, none twice


def test_a_stop_at_the_last_step_is_none(tmp_path, tiny, drawings, whole):
    run = adapt(drawings, tmp_path / "run", tiny, callbacks=After(STEPS).callbacks)
    assert outcome(run) == whole("finetune")


def test_a_finished_run_can_go_on_for_longer(tmp_path, tiny, drawings, whole):
    adapt(drawings, tmp_path / "run", tiny, "ewc-auto", steps=4)
    resume(tmp_path / "run", steps=STEPS)
    assert outcome(tmp_path / "run") == whole("ewc-auto")
    before = json.loads((tmp_path / "run" / "report.json").read_text())["run"]
    resume(tmp_path / "run")  # nothing left to do
    assert outcome(tmp_path / "run") == whole("ewc-auto")
    after = json.loads((tmp_path / "run" / "report.json").read_text())["run"]
    assert after["cost"]["seconds"] >= before["cost"]["seconds"] > 0


def test_lines_logged_after_the_last_save_come_once(tmp_path, tiny, drawings):
    with pytest.raises(KeyboardInterrupt):
        adapt(drawings, tmp_path / "run", tiny, callbacks=After(1, die=True).callbacks)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 1, "d": 9.0}\n{"step": 10, "d"')  # cut off
    resume(tmp_path / "run")
    lines = RunFolder(tmp_path / "run").history()
    assert [line["step"] for line in lines] == [1, STEPS] and lines[0]["d"] != 9.0


def test_stopped_before_the_first_step(tmp_path, tiny, drawings):
    callbacks = Callbacks(stop=lambda: True)
    with refused(Code.INTERRUPTED, "before the first step") as caught:
        adapt(
            drawings, tmp_path / "run", tiny, "ewc", callbacks=callbacks, seed=3
        )  # no Fisher of that seed is kept
    assert caught.value.exit_code == 130
    assert adapt(drawings, tmp_path / "run", tiny, "ewc", steps=1)  # nothing is in the way


# ---- kill -9 -------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
from safetensors import torch as st
import fsgen, fsgen.training.adapt, fsgen.io.checkpoint as checkpoint, fsgen.training.plots as plots
from fsgen.families.stylegan2 import family

family.LATENTS = 1024
plots.losses = plots.by_layer = lambda values, path, *rest: path.touch()

def dies(owner, name, count, half=None):
    real = getattr(owner, name)
    def call(*args, **options):
        nonlocal count
        count -= 1
        if count == 0:
            if half:
                half(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(owner, name, call)

def half_written(tensors, path, metadata):
    st.save_file(tensors, path, metadata)
    os.truncate(path, os.path.getsize(path) // 2)

job = json.load(sys.stdin)
run = lambda out: fsgen.adapt(job["images"], out=out, source=job["source"], **job["options"])
run(job["first"])  # imports and caches: once, not in every child
for out, what, when in job["deaths"]:
    child = os.fork()
    if child == 0:
        if what == "replace":
            dies(os, "replace", when)
        elif what == "save_file":
            dies(checkpoint, "save_file", when, half_written)
        run(out)
        os._exit(0)
    if what == "time":
        time.sleep(when)
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""
# Call or seconds at which it is killed, and the step saved by then (...: any). Files are written in this
# order: the configuration, the state at 0, 2, 4 and 6 steps, the grid, the model, the report.
SOME = [
    ("replace", 1, None),
    ("replace", 2, None),
    ("save_file", 3, 2),
    ("save_file", 5, 6),
    ("time", 0.3, ...),
]
REST = [
    *(("replace", n, step) for n, step in enumerate([0, 2, 4, 6, 6, 6], start=3)),
    *(("save_file", n, step) for n, step in ((1, None), (2, 0), (4, 4))),
    *(("time", tenths / 10, ...) for tenths in range(8)),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 is a signal of POSIX systems")
@pytest.mark.parametrize("deaths", [SOME, pytest.param(REST, marks=pytest.mark.slow)], ids=["some", "rest"])
def test_killed_at_any_moment(tmp_path, tiny, drawings, whole, deaths):
    expected = whole("finetune")
    runs = [tmp_path / f"{what}{when}" for what, when, _ in deaths]
    options = {"method": "finetune", "steps": STEPS, "device": "cpu", "save_every": 2}
    orders = [(str(run), what, when) for run, (what, when, _) in zip(runs, deaths, strict=True)]
    job = {
        "first": str(tmp_path / "first"),
        "deaths": orders,
        "images": str(drawings),
        "source": str(tiny),
        "options": options,
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED], input=json.dumps(job), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for run, (what, _, step), status in zip(runs, deaths, done.stdout.split(), strict=True):
        assert int(status) == 9 or what == "time", (run.name, status, done.stderr)
        if not (run / "config.toml").exists():  # killed before it began: the same command works
            adapt(drawings, run, tiny)
        else:
            assert step is ... or RunFolder.open(run).step == step, run.name
            resume(run)
        assert outcome(run) == expected, run.name
        assert not [path.name for path in run.rglob(".*")], run.name  # temporary files of the killed save


# ---- failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", range(1, 7))
def test_a_full_disk_keeps_the_last_state(tmp_path, tiny, drawings, whole, monkeypatch, write):
    expected, real, count = whole("finetune"), os.fsync, 0

    def fsync(descriptor):
        nonlocal count
        count += 1
        if count == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with refused(Code.SYSTEM, tmp_path / "run", "free some space") as caught:
        adapt(drawings, tmp_path / "run", tiny)
    assert caught.value.exit_code == 1
    if write == 1:  # not even the configuration: once there is room, the same command works
        adapt(drawings, tmp_path / "run", tiny)
    else:
        assert RunFolder.open(tmp_path / "run").step == {2: None, 3: 0, 4: 2, 5: 4}.get(write, STEPS)
        resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == expected


def test_a_full_disk_under_the_log(tmp_path, tiny, drawings, monkeypatch):
    real = Path.open

    def full(self, mode="r", *args, **options):
        if mode == "a":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with refused(Code.SYSTEM, tmp_path / "run" / "log.jsonl", "free some space") as caught:
        adapt(drawings, tmp_path / "run", tiny)
    assert caught.value.exit_code == 1


class Breaks(Finetune):
    """A loss term that is not finite from the fourth step on, and zero before."""

    def __init__(self, loss):
        super().__init__()
        self.loss, self.calls = loss, 0

    def loss_terms(self, context):
        self.calls += 1
        weight = next(context.g.parameters()).flatten()[0]
        if self.calls < 4:
            return {"odd": weight * 0}
        # The gradient alone, or the loss, is not finite.
        return {"odd": (weight * 0).sqrt() if self.loss == "gradient" else weight * float("nan")}


@pytest.mark.parametrize("loss", ["loss", "gradient"])
def test_values_that_are_not_finite_are_not_saved(tmp_path, tiny, drawings, monkeypatch, loss):
    monkeypatch.setattr("fsgen.training.adapt.parse_methods", lambda names, options: [Breaks(loss)])
    with refused(Code.DIVERGED, "step 4", "'weights of g'", tmp_path / "run", "--lr") as caught:
        adapt(drawings, tmp_path / "run", tiny)
    assert caught.value.exit_code == 1
    assert RunFolder.open(tmp_path / "run").step == 2
    state = load_file(tmp_path / "run" / "state" / "latest.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())
    assert not (tmp_path / "run" / "model.safetensors").exists()
