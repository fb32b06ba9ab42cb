"""Refused inputs, run folders and resumptions: nothing is changed."""

from __future__ import annotations

import shutil

import pytest
from refusals import refused
from stops import After, adapt, outcome
from tiny import draw_images, make_source

from fsgen.errors import Code, Interrupted
from fsgen.io import checkpoint
from fsgen.io.run_folder import ADAPTER, OURS, RunFolder
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def stopped(tmp_path, tiny, drawings):
    """A run stopped after two steps, with images and a source of its own."""
    images, source = tmp_path / "images", tmp_path / "source.safetensors"
    shutil.copytree(drawings, images), shutil.copy(tiny, source)
    with pytest.raises(Interrupted):
        adapt(images, tmp_path / "run", source, callbacks=After(2).callbacks)
    return tmp_path / "run"


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_other_images_are_refused(stopped, change):
    images = stopped.parent / "images"
    if change == "removed":
        (images / "0000.png").unlink()
    else:
        draw_images(images, 1 if change == "changed" else 6, seed=9 if change == "changed" else 0)
    before = snapshot(stopped)
    with refused(Code.CHANGED, images) as caught:
        resume(stopped)
    assert caught.value.exit_code == 2
    assert snapshot(stopped) == before


def test_renamed_images_are_the_same_images(stopped, whole):
    images = stopped.parent / "images"
    for path in images.iterdir():
        path.rename(path.with_name(f"x{path.name}"))  # the order by name stays
    resume(stopped)
    assert outcome(stopped)[:2] == whole("finetune")[:2]


def test_another_source_is_refused(stopped):
    source = make_source(stopped.parent / "source.safetensors", z_dim=5)
    with refused(Code.CHANGED, source):
        resume(stopped)
    source.unlink()
    with refused(Code.NOT_FOUND, source):
        resume(stopped)


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_fewer_steps_than_done_are_refused(stopped, steps):
    before = snapshot(stopped)
    with refused(Code.OUT_OF_RANGE, "2 steps", f"--steps {steps}"):
        resume(stopped, steps=steps)
    assert snapshot(stopped) == before


def test_places_without_a_run(tmp_path, drawings):
    for place in (tmp_path / "absent", drawings, drawings / "0000.png"):
        with refused(Code.NOT_FOUND, place, "config.toml"):
            resume(place)


def test_a_damaged_state_is_named(stopped):
    state = stopped / "state" / "latest.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with refused(Code.DAMAGED, state):
        resume(stopped)


def test_a_state_of_other_networks_is_refused(stopped):
    state = stopped / "state" / "latest.safetensors"
    tensors, header = checkpoint.read_file(state)
    tensors["g.odd"] = tensors.pop("g.mapping.fc0.weight")
    checkpoint.write_file(state, tensors, header)
    before = snapshot(stopped)
    with refused(Code.INCOMPATIBLE, state, "mapping.fc0.weight", "odd"):
        resume(stopped)
    assert snapshot(stopped) == before


def test_a_state_of_another_version_of_the_method_is_refused(tmp_path, tiny, drawings):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        adapt(drawings, run, tiny, "ewc", callbacks=After(2).callbacks)
    state = run / "state" / "latest.safetensors"
    tensors, header = checkpoint.read_file(state)
    name = next(name for name in tensors if name.startswith("method.ewc.fisher."))
    checkpoint.write_file(state, {"method.ewc.f": tensors.pop(name), **tensors}, header)
    before = snapshot(run)
    with refused(Code.INCOMPATIBLE, "ewc", name.removeprefix("method.ewc.")) as caught:
        resume(run)
    assert caught.value.exit_code == 2 and snapshot(run) == before


def test_a_damaged_configuration_is_named(stopped):
    for text, code, named in (
        ("[run", Code.DAMAGED, "TOML"),
        ("[run]\nstepz = 3\n", Code.UNKNOWN_NAME, "'stepz'"),
        ("run = 3", Code.OUT_OF_RANGE, "[run]"),
    ):
        (stopped / "config.toml").write_text(text)
        with refused(code, named, "config.toml"):
            resume(stopped)


def test_a_finished_run_without_its_state_is_kept(tmp_path, tiny, drawings):
    run = adapt(drawings, tmp_path / "run", tiny, steps=1)
    shutil.rmtree(run / "state")
    before = snapshot(run)
    with refused(Code.NOT_FOUND, run, "state/"):
        resume(run)
    assert snapshot(run) == before


def test_a_run_in_the_way_is_replaced_only_with_force(stopped, tiny, drawings):
    before = snapshot(stopped)
    with refused(Code.EXISTS, stopped, f"fsgen adapt --resume {stopped}", "--force"):
        adapt(drawings, stopped, tiny)
    with refused(Code.EXISTS, stopped):
        adapt(drawings, stopped, tiny, dry_run=True)
    # Refused for another reason, a run to be replaced stays as well.
    no_discriminator = make_source(stopped.parent / "no_d.safetensors", ("g",))
    with refused(Code.INCOMPATIBLE, "discriminator", "--ewc-proxy"):
        adapt(drawings, stopped, no_discriminator, "ewc", force=True)
    assert snapshot(stopped) == before
    (stopped / "notes.txt").write_text("mine")
    adapt(drawings, stopped, tiny, steps=1, force=True)
    assert RunFolder.open(stopped).step == 1 and {p.name for p in stopped.iterdir()} == {
        *OURS,
        "notes.txt",
    } - {ADAPTER}
    assert [line["step"] for line in RunFolder(stopped).history()] == [1]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_run_is_never_emptied(tmp_path, tiny, drawings, force):
    out = tmp_path / "mine"
    (out / "samples").mkdir(parents=True)
    (out / "samples" / "holiday.jpg").write_text("dear")
    with refused(Code.EXISTS, out, "--out"):
        adapt(drawings, out, tiny, force=force)
    with refused(Code.EXISTS, out / "samples" / "holiday.jpg", "--out"):
        adapt(drawings, out / "samples" / "holiday.jpg", tiny, force=force)
    assert (out / "samples" / "holiday.jpg").read_text() == "dear"


def test_a_run_does_not_replace_its_own_inputs(tmp_path, tiny, drawings):
    run = adapt(drawings, tmp_path / "run", tiny, steps=1)
    for images, source in ((drawings, run), (run / "samples", tiny)):
        with refused(Code.INCOMPATIBLE, run, images if source == tiny else source, "--out"):
            adapt(images, run, source, force=True)
    assert (run / "model.safetensors").exists() and (run / "samples" / "000001.png").exists()


def test_folders_that_cannot_be_made(tmp_path, tiny, drawings):
    (tmp_path / "file").write_text("")
    with refused(Code.UNWRITABLE, tmp_path / "file" / "run", "Not a directory") as caught:
        adapt(drawings, tmp_path / "file" / "run", tiny)
    assert caught.value.exit_code == 2
