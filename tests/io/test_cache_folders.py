from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from refusals import refused

from fsgen.errors import Code
from fsgen.io import cache_folders


@pytest.fixture
def bare(monkeypatch, tmp_path):
    for name in ("FSGEN_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def test_fsgen_home_then_xdg_then_the_platform(bare, monkeypatch):
    assert cache_folders.home() == bare / ".cache" / "fsgen"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folders.home() == bare / "Library" / "Caches" / "fsgen"
    monkeypatch.setattr(sys, "platform", "win32")
    assert cache_folders.home() == bare / "AppData" / "Local" / "fsgen"
    monkeypatch.setenv("LOCALAPPDATA", str(bare / "local"))
    assert cache_folders.home() == bare / "local" / "fsgen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "xdg"))
    assert cache_folders.home() == bare / "xdg" / "fsgen"
    monkeypatch.setenv("FSGEN_HOME", str(bare / "mine"))
    assert cache_folders.home() == bare / "mine"
    folders = {cache_folders.sources_dir(), cache_folders.fisher_dir(), cache_folders.weights_dir()}
    assert len(folders) == 3 and {f.parent for f in folders} == {bare / "mine"}
    assert not any(f.exists() for f in (bare / "mine", *folders))


def test_a_relative_home_stays_put_when_the_program_moves(bare, monkeypatch):
    (bare / "there").mkdir()
    monkeypatch.chdir(bare)
    monkeypatch.setenv("FSGEN_HOME", "mine")
    assert cache_folders.home() == bare / "mine"
    monkeypatch.setenv("FSGEN_HOME", "~/mine")
    monkeypatch.setenv("HOME", str(bare))
    assert cache_folders.home().is_absolute() and "~" not in str(cache_folders.home())


def test_make_folder(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b"
    assert cache_folders.make_folder(folder) == folder and folder.is_dir()
    assert cache_folders.make_folder(folder) == folder
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(Code.UNWRITABLE, place):
            cache_folders.make_folder(place)

    def full(self, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with refused(Code.SYSTEM, tmp_path / "c"):
        cache_folders.make_folder(tmp_path / "c")
