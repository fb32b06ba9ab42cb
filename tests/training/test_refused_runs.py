"""What a run is not made from, not put into and not resumed with: refused, and left as it is."""

from __future__ import annotations

import shutil

import pytest
from refusals import refused
from stops import After, adapt, outcome
from tiny import draw_images, make_source

from fsgen.errors import Code, FsgenError, Interrupted
from fsgen.io import checkpoint
from fsgen.io.run_folder import OURS, RunFolder
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
    with pytest.raises(FsgenError, match="not those this run was begun with") as caught:
        resume(stopped)
    assert caught.value.exit_code == 2 and str(images) in caught.value.message
    assert snapshot(stopped) == before


def test_renamed_images_are_the_same_images(stopped, whole):
    images = stopped.parent / "images"
    for path in images.iterdir():
        path.rename(path.with_name(f"x{path.name}"))  # the order by name stays
    resume(stopped)
    assert outcome(stopped)[:2] == whole("finetune")[:2]


def test_another_source_is_refused(stopped):
    make_source(stopped.parent / "source.safetensors", z_dim=5)
    with pytest.raises(FsgenError, match=r"source .* is not the one this run was begun with"):
        resume(stopped)
    (stopped.parent / "source.safetensors").unlink()
    with pytest.raises(FsgenError, match=r"no such file or run folder: .*source\.safetensors"):
        resume(stopped)


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_fewer_steps_than_done_are_refused(stopped, steps):
    before = snapshot(stopped)
    with pytest.raises(FsgenError, match=f"has done 2 steps: --steps {steps} is behind it"):
        resume(stopped, steps=steps)
    assert snapshot(stopped) == before


def test_no_run_there(tmp_path, drawings):
    for place in (tmp_path / "absent", drawings, drawings / "0000.png"):
        with pytest.raises(FsgenError, match="there is no run in"):
            resume(place)


def test_a_damaged_state_is_named(stopped):
    state = stopped / "state" / "latest.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(FsgenError, match=r"latest\.safetensors cannot be read"):
        resume(stopped)


def test_a_state_of_another_version_of_the_method_is_refused(tmp_path, tiny, drawings):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        adapt(drawings, run, tiny, "ewc", callbacks=After(2).callbacks)
    state = run / "state" / "latest.safetensors"
    tensors, header = checkpoint.read_file(state)
    name = next(name for name in tensors if name.startswith("method.ewc.fisher."))
    checkpoint.write_file(state, {"method.ewc.f": tensors.pop(name), **tensors}, header)
    before = snapshot(run)
    with pytest.raises(FsgenError, match="does not fit this version of ewc: there is no '") as caught:
        resume(run)
    assert caught.value.exit_code == 2 and snapshot(run) == before


def test_a_damaged_configuration_is_named(stopped):
    for text, message in (
        ("[run", "is not valid TOML"),
        ("[run]\nstepz = 3\n", "stepz"),
        ("run = 3", "not a table"),
    ):
        (stopped / "config.toml").write_text(text)
        with pytest.raises(FsgenError, match=message) as caught:
            resume(stopped)
        assert "config.toml" in caught.value.message


def test_a_finished_run_without_its_state_is_kept(tmp_path, tiny, drawings):
    run = adapt(drawings, tmp_path / "run", tiny, steps=1)
    shutil.rmtree(run / "state")
    before = snapshot(run)
    with pytest.raises(FsgenError, match="cannot go on"):
        resume(run)
    assert snapshot(run) == before


def test_a_run_in_the_way_is_left_alone_unless_forced(stopped, tiny, drawings):
    before = snapshot(stopped)
    with pytest.raises(FsgenError, match="there is a run in") as caught:
        adapt(drawings, stopped, tiny)
    assert f"fsgen adapt --resume {stopped}" in caught.value.hint and "--force" in caught.value.hint
    with pytest.raises(FsgenError, match="there is a run in"):
        adapt(drawings, stopped, tiny, dry_run=True)
    # Refused for another reason, a run to be replaced stays as well.
    no_critic = make_source(stopped.parent / "no_d.safetensors", ("g",))
    with pytest.raises(FsgenError, match="no discriminator"):
        adapt(drawings, stopped, no_critic, "ewc", force=True)
    assert snapshot(stopped) == before
    (stopped / "notes.txt").write_text("mine")
    adapt(drawings, stopped, tiny, steps=1, force=True)
    assert RunFolder.open(stopped).step == 1 and {p.name for p in stopped.iterdir()} == {*OURS, "notes.txt"}
    assert [line["step"] for line in RunFolder(stopped).history()] == [1]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_run_is_never_emptied(tmp_path, tiny, drawings, force):
    out = tmp_path / "mine"
    (out / "samples").mkdir(parents=True)
    (out / "samples" / "holiday.jpg").write_text("dear")
    with refused(Code.EXISTS, out):
        adapt(drawings, out, tiny, force=force)
    with pytest.raises(FsgenError, match="is a file, not a folder"):
        adapt(drawings, out / "samples" / "holiday.jpg", tiny, force=force)
    assert (out / "samples" / "holiday.jpg").read_text() == "dear"


def test_a_run_does_not_replace_what_it_is_made_from(tmp_path, tiny, drawings):
    run = adapt(drawings, tmp_path / "run", tiny, steps=1)
    for images, source in ((drawings, run), (run / "samples", tiny)):
        with pytest.raises(FsgenError, match="lies inside the run folder"):
            adapt(images, run, source, force=True)
    assert (run / "model.safetensors").exists() and (run / "samples" / "000001.png").exists()


def test_folders_that_cannot_be_made(tmp_path, tiny, drawings):
    (tmp_path / "file").write_text("")
    with pytest.raises(FsgenError, match="cannot be created: Not a directory") as caught:
        adapt(drawings, tmp_path / "file" / "run", tiny)
    assert caught.value.exit_code == 2
