from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fsgen.errors import FsgenError, Interrupted
from fsgen.metrics import weights
from fsgen.metrics.weights import CATALOGUE, locate, locate_all


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(--weights-dir, fsgen's own folder, torch's checkpoints), all empty; no copy of clean-fid's in /tmp."""
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "fsgen"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "_clean_fid_copy", lambda file: None)
    from fsgen.io.home import weights_dir

    found = tmp_path / "mine", weights_dir(), tmp_path / "torch" / "hub" / "checkpoints"
    for place in found:
        place.mkdir(parents=True, exist_ok=True)
    return found


def test_the_first_place_that_has_it_wins(places):
    for place in reversed(places):
        path = place / CATALOGUE["alexnet"].file
        path.write_bytes(b"x")
        assert locate("alexnet", places[0]) == path
    assert locate("alexnet") == places[1] / CATALOGUE["alexnet"].file


def test_absent_files_are_named_with_address_and_place(places):
    (places[1] / CATALOGUE["vgg16"].file).write_bytes(b"x")
    with pytest.raises(FsgenError) as caught:
        locate_all(["inception", "vgg16", "alexnet"], places[0])
    text = str(caught.value)
    for name in ("inception", "alexnet"):
        assert CATALOGUE[name].url in text and str(places[0] / CATALOGUE[name].file) in text
        assert f"{CATALOGUE[name].megabytes} MB" in text and CATALOGUE[name].used_by in text
    assert CATALOGUE["vgg16"].file not in text and "--weights-dir" in text
    assert caught.value.code == 2
    with pytest.raises(FsgenError) as caught:
        locate("inception")
    assert str(places[1] / CATALOGUE["inception"].file) in str(caught.value)


def test_a_download_goes_where_it_is_looked_for(places):
    asked = []

    def download(url, destination):
        asked.append(url)
        destination.write_bytes(b"weights")
        return destination

    expected = places[1] / CATALOGUE["inception"].file
    assert locate("inception", download=download) == expected
    assert locate("inception", download=download) == expected
    assert asked == [CATALOGUE["inception"].url]
    assert locate("inception", places[0], download) == expected  # fsgen's own copy will do


def test_a_download_is_checked_against_its_name(places, monkeypatch):
    right = hashlib.sha256(b"right").hexdigest()[:8]
    monkeypatch.setitem(CATALOGUE, "alexnet", replace(CATALOGUE["alexnet"], sha256=right))

    def bring(content):
        def download(url, destination):
            destination.write_bytes(content)
            return destination

        return download

    with pytest.raises(FsgenError, match="not the published file") as caught:
        locate("alexnet", places[0], bring(b"wrong"))
    assert caught.value.code == 1 and not list(places[0].iterdir())
    assert locate("alexnet", places[0], bring(b"right")).read_bytes() == b"right"


def raising(error):
    def download(url, destination):
        raise error

    return download


@pytest.mark.parametrize("error", [FsgenError("no route to host"), OSError("no route to host")])
def test_a_failed_download_says_why_and_what_to_do_instead(places, error):
    with pytest.raises(FsgenError, match="no route to host") as caught:
        locate("vgg16", places[0], raising(error))
    assert CATALOGUE["vgg16"].url in str(caught.value) and caught.value.code == 1


def test_an_interruption_is_passed_on(places):
    with pytest.raises(Interrupted):
        locate("vgg16", places[0], raising(Interrupted("stopped")))


def test_wrong_names_and_folders_are_refused(places):
    with pytest.raises(FsgenError, match="did you mean 'alexnet'"):
        locate("alexnett")
    with pytest.raises(FsgenError, match="there is no folder"):
        locate("alexnet", places[0] / "no")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no owner there")
def test_a_shared_folder_is_trusted_with_own_files_only(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.tempfile, "gettempdir", lambda: str(tmp_path))
    file = "some-weights-no-one-has.pt"
    (tmp_path / file).write_bytes(b"x")
    assert weights._clean_fid_copy(file) == tmp_path / file
    monkeypatch.setattr(os, "getuid", lambda: Path(tmp_path).stat().st_uid + 1)
    assert weights._clean_fid_copy(file) is None


def test_torchs_cache_is_where_torch_says(monkeypatch):
    import torch

    for variables in ({}, {"XDG_CACHE_HOME": "/x"}, {"XDG_CACHE_HOME": "/x", "TORCH_HOME": "/t"}):
        for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert weights._torch_checkpoints() == Path(torch.hub.get_dir()) / "checkpoints"
