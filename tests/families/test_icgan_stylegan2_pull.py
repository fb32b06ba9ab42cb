"""IC-GANs with StyleGAN2's networks through ``fsgen pull``: a folder of snapshots, or an archive of it.

The published archives were never at hand. What is known of them: their program trains into a folder named
after the archive and goes by ``best-network-snapshot.pkl`` in it, a pickle like StyleGAN2-ADA's.
"""

from __future__ import annotations

import pickle
import tarfile

import pytest
import torch
from nvidia_files import nvidia, persistent  # noqa: F401 (a fixture)
from refusals import refused
from sg2_files import nets, spec_of

from fsgen.errors import Code
from fsgen.families.stylegan2 import family
from fsgen.importers.pull import pull
from fsgen.interfaces import Inputs, Networks
from fsgen.io.catalog import catalog

SPEC = spec_of(
    h_dim=2048, g_h_embed_dim=6, d_h_embed_dim=8, d_cmap_dim=8, d_mapping_layers=2
)  # as many features as the published


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch, nvidia):  # noqa: F811
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(family, "LATENTS", 1024)


def write_snapshot(folder, name="best-network-snapshot", seed=0):
    folder.mkdir(exist_ok=True)
    live, average = nets(SPEC, seed), nets(SPEC, seed + 7)
    held = {"training_set_kwargs": {"resolution": 16}, "augment_pipe": None}
    for key, kind, net in (
        ("G", "Generator", live.g),
        ("D", "Discriminator", live.d),
        ("G_ema", "Generator", average.g),
    ):
        held[key] = persistent(kind, dict(net.state_dict()))
    (folder / f"{name}.pkl").write_bytes(pickle.dumps(held))
    (folder / "training_options.json").write_text("{}")
    return Networks(average.g, live.d)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "icgan_stylegan2_coco_res16"


def packed(folder):
    path = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return path


def test_a_folder_and_an_archive_of_it_are_one_source(folder):
    built = write_snapshot(folder)
    write_snapshot(folder, "network-snapshot", seed=1)  # the last, as good as it was
    one, other = pull(str(folder)), pull(str(packed(folder)), name="packed")
    assert one.name == folder.name and one.model.hash == other.model.hash
    model = one.model
    assert model.family.name == "stylegan2" and set(model.networks) == {"g", "g_ema", "d"}
    assert model.spec["h_dim"] == 2048 and model.about["features"] == "swav"
    assert "read: best-network-snapshot.pkl" in one.notes and any("features" in note for note in one.notes)
    assert set(model.about["provenance"]["sha256"]) == {"best-network-snapshot.pkl"}
    rng = torch.Generator().manual_seed(0)
    h = torch.nn.functional.normalize(torch.randn(2, 2048, generator=rng), dim=1)
    inputs = Inputs(z=torch.randn(2, SPEC["z_dim"], generator=rng), h=h)
    with torch.no_grad():
        pictures = built.g(inputs)
        assert torch.equal(model.generator()(inputs), pictures)
        assert torch.equal(model.discriminator()(pictures, inputs), built.d(pictures, inputs))


def test_a_single_snapshot_needs_no_name_of_its_own(folder):
    write_snapshot(folder, "network-snapshot-000200")
    assert "read: network-snapshot-000200.pkl" in pull(str(folder)).notes


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_which_of_several_is_meant_is_not_guessed(folder, form):
    write_snapshot(folder, "network-snapshot-000000")
    write_snapshot(folder, "network-snapshot-000200", seed=1)
    path = folder if form == "folder" else packed(folder)
    both = "network-snapshot-000000.pkl to network-snapshot-000200.pkl"
    with refused(Code.USAGE, path.name, "2 snapshots", "best-network-snapshot.pkl", both):
        pull(str(path))
    assert pull(str(folder / "network-snapshot-000200.pkl")).model.spec["h_dim"] == 2048


def test_a_folder_of_two_kinds_is_refused(folder):
    write_snapshot(folder)
    torch.save({"linear.weight": torch.zeros(3)}, folder / "G.pth")
    with refused(Code.USAGE, folder.name, "2 checkpoints"):
        pull(str(folder))


def test_the_catalogue_has_the_published_archives():
    for resolution in (128, 256):
        entry = catalog()[f"icgan-stylegan2-coco-{resolution}"]
        assert entry.family == "stylegan2" and entry.resolution == resolution
        assert entry.url.endswith(f"/icgan_stylegan2_coco_res{resolution}.tar.gz")
