"""Folders of checkpoints and archives of them: what is read, which run is preferred, what is refused."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import tempfile
from pathlib import Path

import pytest
import torch
from refusals import refused
from torch import Tensor, nn

from fsgen.errors import Code
from fsgen.importers import archives
from fsgen.importers.readers import read_foreign


def weights(number: float) -> dict[str, Tensor]:
    return {"linear.weight": torch.full((3, 4), number), "linear.u0": torch.full((1, 3), number)}


def write_run(folder: Path, run: str, number: float, fid: object = None, **config: object) -> None:
    """One run's files as the program leaves them: G and D from parallel training, the average not."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, value in (("G", number), ("D", number + 1)):
        torch.save({f"module.{k}": v for k, v in weights(value).items()}, folder / f"{part}{run}.pth")
    torch.save(weights(number + 2), folder / f"G_ema{run}.pth")
    torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}}, folder / f"G_optim{run}.pth")
    settings = {"resolution": 64, "G_activation": nn.ReLU(inplace=False), "ema": True, "use_ema": True}
    said = {"itr": 7, "best_FID": fid, "config": settings | config}
    torch.save(said, folder / f"state_dict{run}.pth")


def packed(path: Path, folder: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(folder, arcname=folder.name)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "tiny_res64", "_best0", 10, fid=30.5)
    write_run(tmp_path / "tiny_res64", "_best1", 20, fid=12.25)
    return tmp_path / "tiny_res64"


def number(foreign, part: str) -> float:
    (value,) = {float(x) for tensor in foreign.tensors[part].values() for x in tensor.flatten()}
    return value


# ---- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "the folder above", ".tar.gz", ".tar"])
def test_the_run_of_the_lower_distance_is_read(folder, form, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = {"folder": folder, "the folder above": folder.parent}.get(form)
    if path is None:
        path = packed(tmp_path / f"x{form}", folder, "w:gz" if form == ".tar.gz" else "w")
    foreign = read_foreign(path)
    assert foreign.layout == "folder" and foreign.tensors.keys() == {"G", "G_ema", "D"}
    assert (number(foreign, "G"), number(foreign, "D"), number(foreign, "G_ema")) == (20, 21, 22)
    assert foreign.extras["run"] == "best1" and foreign.extras["best_FID"] == 12.25
    assert foreign.extras["itr"] == 7
    assert foreign.settings["G"] == {"resolution": 64, "ema": True, "use_ema": True}  # and no activation
    assert foreign.extras["sha256"].keys() == {"G_best1.pth", "G_ema_best1.pth", "D_best1.pth"}
    assert not any((tmp_path / "scratch").iterdir()), "unpacked files were left behind"


@pytest.mark.parametrize(
    "first, second, chosen",
    [(3.0, 4.0, "best0"), (4, 3, "best1"), (float("nan"), 9.0, "best1"), ("none", 9.0, "best1"),
     (None, None, "best0")],
)  # fmt: skip
def test_an_unknown_distance_is_the_worst(tmp_path, first, second, chosen):
    write_run(tmp_path, "_best0", 1, fid=first)
    write_run(tmp_path, "_best1", 2, fid=second)
    assert read_foreign(tmp_path).extras["run"] == chosen


def test_files_may_be_fewer_and_without_a_run(tmp_path):
    write_run(tmp_path, "", 1)
    for name in ("G.pth", "D.pth", "state_dict.pth"):
        (tmp_path / name).unlink()
    foreign = read_foreign(tmp_path)
    assert number(foreign, "G_ema") == 3 and foreign.tensors.keys() == {"G_ema"}
    assert foreign.extras["run"] == "" and foreign.settings == {"G": {}}


def test_an_average_that_was_not_used_does_not_count(tmp_path):
    write_run(tmp_path, "_best0", 1, fid=1.0, use_ema=False)
    assert read_foreign(tmp_path).tensors.keys() == {"G", "D"}


def test_a_single_file_is_read_as_one(tmp_path):
    torch.save(weights(1), tmp_path / "G.pth")
    assert read_foreign(tmp_path / "G.pth").layout == "torch"


def test_what_a_file_says_of_itself_is_no_hash(tmp_path):
    write_run(tmp_path, "", 1)
    torch.save({"itr": 7, "run": "mine", "sha256": "0" * 64}, tmp_path / "state_dict.pth")
    extras = read_foreign(tmp_path).extras
    assert extras["itr"] == 7 and extras["run"] == "" and extras["sha256"].keys() == {
        "G.pth", "G_ema.pth", "D.pth"
    }  # fmt: skip


# ---- FUNIT: a generator's file, and its discriminator's ----------------------------------------------------


def write_snapshot(folder: Path, step: str, number: float, discriminator: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"gen": weights(number), "gen_test": weights(number + 1)}, folder / f"gen_{step}.pt")
    if discriminator:
        torch.save({"dis": weights(number + 2)}, folder / f"dis_{step}.pt")
    torch.save({"gen": {"state": {0: {"square_avg": torch.zeros(3)}}}}, folder / "optimizer.pt")
    return folder / f"gen_{step}.pt"


def test_a_discriminator_is_read_where_it_lies_beside_its_generator(tmp_path):
    one = write_snapshot(tmp_path, "00100000", 1)
    other = write_snapshot(tmp_path, "00200000", 5, discriminator=False)
    foreign = read_foreign(one, beside=True)
    assert (number(foreign, "gen"), number(foreign, "gen_test"), number(foreign, "dis")) == (1, 2, 3)
    assert foreign.layout == "folder"
    assert foreign.extras["sha256"].keys() == {"gen_00100000.pt", "dis_00100000.pt"}
    assert read_foreign(one).tensors.keys() == {"gen", "gen_test"}
    alone = read_foreign(other, beside=True)  # the discriminator is of another step
    assert alone.tensors.keys() == {"gen", "gen_test"} and alone.layout == "torch"
    assert read_foreign(tmp_path / "dis_00100000.pt", beside=True).tensors.keys() == {"dis"}
    renamed = one.rename(tmp_path / "gen_animals.pt")
    (tmp_path / "dis_00100000.pt").rename(tmp_path / "dis_animals.pt")
    assert read_foreign(renamed, beside=True).layout == "torch"  # not FUNIT's file names


@pytest.mark.parametrize("form", ["folder", ".tar.gz"])
def test_of_several_snapshots_the_last_counts(tmp_path, form):
    folder = tmp_path / "checkpoints"
    for step, start in (("00000900", 1), ("00001000", 5), ("00000950", 9)):
        write_snapshot(folder, step, start)
    torch.save({"dis": weights(20)}, folder / "dis_00002000.pt")  # its generator was never written
    foreign = read_foreign(folder if form == "folder" else packed(tmp_path / "x.tar.gz", folder))
    assert (number(foreign, "gen"), number(foreign, "dis")) == (5, 7)
    assert foreign.extras["sha256"].keys() == {"gen_00001000.pt", "dis_00001000.pt"}


def test_a_damaged_discriminator_is_named(tmp_path):
    file = write_snapshot(tmp_path, "00000001", 1)
    (tmp_path / "dis_00000001.pt").write_bytes(b"PK\x03\x04 torn")
    with refused(Code.DAMAGED, "dis_00000001.pt"):
        read_foreign(file, beside=True)


# ---- what is refused ---------------------------------------------------------------------------------------


class Evil:
    """Leaves a file behind where it is unpickled as pickle does it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_the_settings_is_run(folder, tmp_path):
    said = {"best_FID": 1.0, "config": {"G_activation": Evil(tmp_path / "ran")}}
    torch.save(said, folder / "state_dict_best0.pth")
    with refused(Code.UNSAFE, "state_dict_best0.pth", f"{os.mkdir.__module__}.mkdir"):
        read_foreign(folder)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))  # it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["nothing", "other files", "settings alone"])
def test_no_generator_is_refused(tmp_path, content):
    if content == "other files":
        torch.save(weights(1), tmp_path / "model_best0.pth")
    if content == "settings alone":
        torch.save({"itr": 1}, tmp_path / "state_dict_best0.pth")
    with refused(Code.UNSUPPORTED, tmp_path.name, "gen_00100000.pt"):
        read_foreign(tmp_path)


def test_several_checkpoints_are_refused(folder):
    write_run(folder.parent / "other", "_best0", 5)
    with refused(Code.USAGE, folder.parent.name, "2"):
        read_foreign(folder.parent)


def test_a_generator_that_is_no_state_dict_is_refused(folder):
    torch.save({"G": weights(1)}, folder / "G_best1.pth")
    with refused(Code.UNSUPPORTED, "G_best1.pth", "tiny_res64"):
        read_foreign(folder)


def member(name: str, **changes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info


UNSAFE = {
    "up": member("a/../../G_best0.pth", size=4),
    "absolute": member("/tmp/G_best0.pth", size=4),
    "drive": member("C:\\G_best0.pth", size=4),
    "backslashes": member("a\\..\\..\\b", size=4),
    "up, a folder": member("../a", type=tarfile.DIRTYPE),
    "symbolic link": member("G_best0.pth", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": member("a/D.pth", type=tarfile.LNKTYPE, linkname="a/G_best0.pth"),
    "device": member("G_best0.pth", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": member("G_best0.pth", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_archive_is_refused_whole(tmp_path, folder, kind, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a" / "scratch"))
    (tmp_path / "a" / "scratch").mkdir(parents=True)
    info = UNSAFE[kind]
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname="ours")
        archive.addfile(info, io.BytesIO(b"evil"[: info.size]))
    before = sorted(tmp_path.rglob("*"))
    with refused(Code.UNSAFE, path.name, info.name) as caught:
        read_foreign(path)
    assert caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_grows_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as archive:
        info = member("a/zeros.bin", size=64 * 2**20)
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with refused(Code.UNSAFE, path.name):
        read_foreign(path)


def test_the_limit_counts_what_comes_out_not_what_the_headers_say(tmp_path, monkeypatch):
    """A long name is read before there is a member to look at."""
    monkeypatch.setattr(archives, "GROWTH", 0)
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member("a", pax_headers={"comment": "x" * 2**21}))
    with refused(Code.UNSAFE, path.name):
        read_foreign(path)


def test_the_same_file_twice_is_refused(tmp_path, folder):
    path = tmp_path / "twice.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for _ in range(2):
            archive.add(folder / "G_best0.pth", arcname="a/G_best0.pth")
    with refused(Code.DAMAGED, path.name, "a/G_best0.pth"):
        read_foreign(path)


@pytest.mark.parametrize("name", ["gen_00000001.pt", "dis_00000001.pt"])
def test_an_archive_in_place_of_a_file_of_a_folder_is_refused(tmp_path, name):
    write_snapshot(tmp_path / "run", "00000001", 1)
    packed(tmp_path / "x.tar.gz", tmp_path / "run").rename(tmp_path / "run" / name)
    with refused(Code.DAMAGED, name):
        read_foreign(tmp_path / "run")
    with refused(Code.DAMAGED, name):
        read_foreign(packed(tmp_path / "y.tar", tmp_path / "run", "w"))


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, folder, share):
    whole = packed(tmp_path / "x.tar.gz", folder).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(whole[: int(share * len(whole))])
    with refused(Code.DAMAGED, tmp_path / "x.tar.gz"):
        read_foreign(tmp_path / "x.tar.gz")


def test_a_gzip_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a text" * 1000))
    with refused(Code.DAMAGED, tmp_path / "x.gz"):
        read_foreign(tmp_path / "x.gz")


def test_a_missing_archive_is_refused(tmp_path):
    with refused(Code.NOT_FOUND, tmp_path / "x.tar.gz"):
        read_foreign(tmp_path / "x.tar.gz")
