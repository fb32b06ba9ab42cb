"""An IC-GAN's folder, and an archive of it, through ``fsgen pull``."""

from __future__ import annotations

import tarfile

import published_biggan as published
import pytest
import torch
from refusals import refused

from fsgen.errors import Code
from fsgen.importers.pull import pull


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "icgan_tiny"
    made.mkdir()
    halves = (True, True, False)
    shape = published.Shape((8, 4, 4), (2, 4, 8), halves, features=2048, instance=6)
    torch.save({f"module.{key}": value for key, value in published.g_state(shape).items()}, made / "G.pth")
    torch.save(published.g_state(shape, seed=5), made / "G_ema.pth")
    torch.save({f"module.{key}": value for key, value in published.d_state(shape).items()}, made / "D.pth")
    return made


def test_a_folder_and_an_archive_of_it_are_one_source(tmp_path, folder):
    with tarfile.open(tmp_path / "icgan_tiny.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    one = pull(str(folder))
    other = pull(str(tmp_path / "icgan_tiny.tar.gz"), name="packed")
    assert one.name == "icgan_tiny" and one.model.hash == other.model.hash
    assert set(one.model.networks) == {"g", "g_ema", "d"}
    assert one.model.about["features"] in ("swav", "resnet50") and any("features" in n for n in one.notes)
    assert "read: G.pth, G_ema.pth, D.pth" in one.notes
    assert set(one.model.about["provenance"]["sha256"]) == {"G.pth", "G_ema.pth", "D.pth"}
    with refused(Code.EXISTS, "icgan_tiny"):
        pull(str(tmp_path / "icgan_tiny.tar.gz"))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with refused(Code.UNSUPPORTED, "empty", "generator"):
        pull(str(tmp_path / "empty"))
