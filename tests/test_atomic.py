"""Atomic writes: a reader gets the old file or the new one, never a part."""

from __future__ import annotations

import errno

import pytest
from refusals import refused

from fsgen.atomic import atomic
from fsgen.errors import Code


def listing(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_the_new_file_appears_whole_and_alone(tmp_path):
    target = tmp_path / "model.tar.safetensors"
    target.write_text("old")
    with atomic(target) as temporary:
        assert temporary.suffix == ".safetensors" and temporary.parent == tmp_path
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert listing(tmp_path) == [target.name]


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    target = tmp_path / "a.png"
    target.write_text("old")
    with pytest.raises(type(failure)), atomic(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError(f"I/O error: No space left on device (os error {errno.ENOSPC})"),
    ],
)
def test_a_full_disk_is_a_failure_in_words(tmp_path, error):
    target = tmp_path / "a.png"
    target.write_text("old")
    with refused(Code.SYSTEM, target) as caught, atomic(target):
        raise error
    assert caught.value.exit_code == 1
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["a.png"]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    with refused(Code.UNWRITABLE, tmp_path / "absent", "mkdir"), atomic(tmp_path / "absent" / "a.png"):
        pass

    (tmp_path / "file").write_text("")
    with refused(Code.UNWRITABLE, tmp_path / "file") as caught, atomic(tmp_path / "file" / "a.png"):
        pass
    assert caught.value.exit_code == 2

    (tmp_path / "folder.png").mkdir()
    with refused(Code.UNWRITABLE, "folder.png"), atomic(tmp_path / "folder.png"):
        pass
    assert listing(tmp_path) == ["file", "folder.png"]


def test_errors_about_other_files_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.png"):
        (tmp_path / "elsewhere" / "source.png").read_bytes()
    assert listing(tmp_path) == []
