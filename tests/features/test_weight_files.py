from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from refusals import refused

from fsgen.errors import Code, FsgenError, Interrupted
from fsgen.features import weight_files
from fsgen.features.feature_networks import METRIC_EXTRACTORS
from fsgen.features.inception import Inception
from fsgen.features.weight_files import BASE, CATALOGUE, file_for, list_files, locate_file, locate_files


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(--weights-dir, fsgen's own folder, torch's checkpoints), all empty; no copy of clean-fid's in /tmp."""
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "fsgen"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weight_files, "_clean_fid_copy", lambda file: None)
    from fsgen.io.cache_folders import weights_dir

    found = tmp_path / "mine", weights_dir(), tmp_path / "torch" / "hub" / "checkpoints"
    for place in found:
        place.mkdir(parents=True, exist_ok=True)
    return found


def test_the_first_place_that_has_it_wins(places):
    for place in reversed(places):
        path = place / CATALOGUE["alexnet"].file
        path.write_bytes(b"x")
        assert locate_file("alexnet", places[0]) == path
    assert locate_file("alexnet") == places[1] / CATALOGUE["alexnet"].file


def test_absent_files_are_named_with_address_and_place(places):
    (places[1] / CATALOGUE["vgg16"].file).write_bytes(b"x")
    with refused(Code.MISSING_WEIGHTS, "--weights-dir") as caught:
        locate_files(["inception", "vgg16", "alexnet"], places[0])
    text = str(caught.value)
    for name in ("inception", "alexnet"):
        assert CATALOGUE[name].url in text and str(places[0] / CATALOGUE[name].file) in text
        assert f"{CATALOGUE[name].megabytes} MB" in text and CATALOGUE[name].used_by in text
    assert CATALOGUE["vgg16"].file not in text
    assert "fsgen pull metrics inception alexnet\n" in text
    assert caught.value.exit_code == 2
    with refused(Code.MISSING_WEIGHTS, places[1] / CATALOGUE["inception"].file):
        locate_file("inception")
    with refused(Code.MISSING_WEIGHTS, "fsgen pull metrics inception clip\n"):
        locate_files(["inception", "clip"])


def test_a_download_goes_to_the_folder_that_is_searched(places):
    asked = []

    def download(url, destination, sha256):
        asked.append((url, sha256))
        destination.write_bytes(b"weights")
        return destination

    expected = places[1] / CATALOGUE["alexnet"].file
    assert locate_file("alexnet", download=download) == expected
    assert locate_file("alexnet", download=download) == expected
    assert asked == [(CATALOGUE["alexnet"].url, "7be5be79")]
    assert locate_file("alexnet", places[0], download) == expected  # fsgen's own copy is used


def test_files_and_what_reads_them(places):
    assert file_for("inception") == file_for("inception", "clean") == "inception"
    assert file_for("inception", "legacy_tensorflow") == "inception"
    assert file_for("inception", "legacy_pytorch") == "inception_pytorch"
    assert file_for("inception", "torchvision") == "inception_torchvision"
    for name in ("clip", "dinov2", "alexnet", "vgg16"):
        assert file_for(name, "legacy_pytorch") == name  # the mode is Inception's
    assert {file_for("inception", mode) for mode in Inception.modes} <= set(CATALOGUE)
    assert set(BASE) <= set(CATALOGUE) and set(METRIC_EXTRACTORS) <= set(CATALOGUE)


def test_what_a_file_is_called_holds_the_digits_of_its_checksum():
    for entry in CATALOGUE.values():
        digits = re.search(r"-([0-9a-f]{8})\.pth$", entry.file)
        assert entry.sha256 == (digits[1] if digits else ""), entry.file


def test_the_table_says_what_is_here(places):
    (places[2] / CATALOGUE["dinov2"].file).write_bytes(b"x")
    rows = {row["name"]: row for row in list_files()}
    assert list(rows) == list(CATALOGUE)
    assert rows["dinov2"]["path"] == places[2] / CATALOGUE["dinov2"].file and rows["clip"]["path"] is None
    for name, row in rows.items():
        assert {key: row[key] for key in row if key != "path"} == {
            key: getattr(CATALOGUE[name], key) for key in ("name", "file", "url", "megabytes", "used_by")
        }


def raising(error):
    def download(url, destination, sha256):
        raise error

    return download


@pytest.mark.parametrize("error", [FsgenError("no route to host"), OSError("no route to host")])
def test_a_failed_download_says_why_and_what_to_do_instead(places, error):
    with refused(
        Code.DOWNLOAD, "no route to host", CATALOGUE["vgg16"].url, CATALOGUE["vgg16"].file
    ) as caught:
        locate_file("vgg16", places[0], raising(error))
    assert caught.value.exit_code == 1


def test_an_interruption_is_passed_on(places):
    with pytest.raises(Interrupted):
        locate_file("vgg16", places[0], raising(Interrupted("stopped")))


def test_wrong_names_and_folders_are_refused(places):
    with refused(Code.UNKNOWN_NAME, "'alexnett'", "did you mean 'alexnet'"):
        locate_file("alexnett")
    with refused(Code.NOT_FOUND, "--weights-dir", places[0] / "no"):
        locate_file("alexnet", places[0] / "no")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no owner there")
def test_a_shared_folder_is_trusted_with_own_files_only(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files.tempfile, "gettempdir", lambda: str(tmp_path))
    file = "some-weights-no-one-has.pt"
    (tmp_path / file).write_bytes(b"x")
    assert weight_files._clean_fid_copy(file) == tmp_path / file
    monkeypatch.setattr(os, "getuid", lambda: Path(tmp_path).stat().st_uid + 1)
    assert weight_files._clean_fid_copy(file) is None


def test_torchs_cache_is_where_torch_says(monkeypatch):
    import torch

    for variables in ({}, {"XDG_CACHE_HOME": "/x"}, {"XDG_CACHE_HOME": "/x", "TORCH_HOME": "/t"}):
        for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert weight_files._torch_checkpoints() == Path(torch.hub.get_dir()) / "checkpoints"
