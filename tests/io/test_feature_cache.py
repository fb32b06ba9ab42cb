"""Cached features are those that were kept under exactly this key, or there are none."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fsgen.data.streaming import open_images
from fsgen.io import checkpoint, feature_cache
from fsgen.io.feature_cache import entry_path, features_dir, lookup, store

KEY = {"images": "files abc at 64 px", "network": "inception clean 1 def", "device": "cpu"}
ABOUT = {"resolution": 64, "files": [["abc", [64, 64], None], ["def", None, "cut short"]]}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))


def some(seed=0, shape=(7, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def entries():
    return sorted(path for path in features_dir().iterdir())


# ---- hit and miss


def test_what_was_kept_is_found_again():
    said = []
    assert lookup(KEY, said.append) is None and not features_dir().exists()
    assert store(KEY, some(), ABOUT, said.append)
    entry = lookup(dict(reversed(KEY.items())), said.append)
    assert torch.equal(entry.features, some()) and entry.features.dtype == torch.float32
    assert entry.about == ABOUT and said == []
    assert store(KEY, some(1), {}) and torch.equal(lookup(KEY).features, some(1)) and len(entries()) == 1


@pytest.mark.parametrize("name", [*KEY, "more"])
def test_any_other_key_is_a_miss(name, monkeypatch):
    store(KEY, some(), ABOUT)
    assert lookup(KEY | {name: "other"}) is None
    monkeypatch.setattr(feature_cache, "FORMAT", "fsgen-features/2")
    assert lookup(KEY) is None


def test_only_matrices_of_float32_are_kept():
    for wrong in (some().double(), some()[0]):
        with pytest.raises(ValueError, match="float32"):
            store(KEY, wrong, ABOUT)


def test_what_was_read_stays_when_its_file_goes():
    store(KEY, some(shape=(400, 400)), ABOUT)
    entry = lookup(KEY)
    with entry_path(KEY).open("rb+") as file:
        file.truncate(10)
    assert torch.equal(entry.features, some(shape=(400, 400)))


def test_a_set_of_images_and_its_features_come_back_together(tmp_path):
    from tiny import draw_images

    shots = draw_images(tmp_path / "shots", 4)
    (shots / "0 damaged.png").write_bytes(b"no image")

    def features(said):
        stream = open_images(shots, say=said.append)
        key = KEY | {"images": stream.pixel_hash}
        entry = lookup(key)
        if entry is not None and stream.load_scan_state(entry.about):
            return entry.features, stream, "kept"
        computed = torch.cat([batch.float().mean(dim=(2, 3)) for batch in stream.batches(8, 3)])
        store(key, computed, stream.scan_state())
        return computed, stream, "computed"

    heard, again = [], []
    first, stream, how = features(heard)
    second, recalled, how_again = features(again)
    assert (how, how_again) == ("computed", "kept") and torch.equal(first, second)
    assert recalled.hashes == stream.hashes and len(stream) == len(first) == 4
    assert heard == again and recalled.skipped == stream.skipped and recalled.resized == stream.resized == 4
    (shots / "0 damaged.png").write_bytes(b"no image either")
    assert features([])[2] == "computed"


# ---- damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def cut_short(path):
    path.write_bytes(path.read_bytes()[:5])


def empty(path):
    path.write_bytes(b"")


def flip_in_tensors(path):
    flip(path, len(path.read_bytes()) - 20)


def flip_in_header(path):
    flip(path, path.read_bytes().index(b"cut short"))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def another_kind(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def another_programs(path):
    save_file({"features": some()}, path)


def a_checkpoint(path):
    checkpoint.write_file(path, {"features": some()}, {"family": "stylegan2"})


def another_entry(path):
    other = KEY | {"images": "others"}
    store(other, some(1), ABOUT)
    entry_path(other).replace(path)


def unsealed(path):
    _, header = checkpoint.read_file(path)
    checkpoint.write_file(path, {"features": some(2)}, {k: v for k, v in header.items() if k != "seal"})


def other_tensors(path):
    _, header = checkpoint.read_file(path)
    checkpoint.write_file(path, {"features": some(2)}, header)


DAMAGE = [
    cut, cut_short, empty, flip_in_tensors, flip_in_header, another_kind, another_programs, a_checkpoint,
    another_entry, unsealed, other_tensors,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_named_once_not_believed_and_replaced(damage):
    store(KEY, some(), ABOUT)
    damage(entry_path(KEY))
    said = []
    assert lookup(KEY, said.append) is None
    assert len(said) == 1 and str(entry_path(KEY)) in said[0]
    assert lookup(KEY) is None  # also without a callback
    assert store(KEY, some(), ABOUT, said.append) and len(said) == 1
    assert torch.equal(lookup(KEY, said.append).features, some()) and len(said) == 1


def test_whatever_byte_is_flipped_nothing_else_is_read():
    store(KEY, some(shape=(2, 2)), ABOUT)
    whole = entry_path(KEY).read_bytes()
    believed = 0
    for index in range(len(whole)):
        data = bytearray(whole)
        data[index] ^= 1
        entry_path(KEY).write_bytes(data)
        entry = lookup(KEY)
        believed += entry is not None
        assert entry is None or (torch.equal(entry.features, some(shape=(2, 2))) and entry.about == ABOUT)
    assert believed < 30  # such as blanks, and what names the file's format


# ---- where nothing can be kept


def test_a_place_that_cannot_be_written_to_costs_one_line(tmp_path, monkeypatch):
    said = []
    (tmp_path / "home").write_text("a file where a folder should be")
    assert not store(KEY, some(), ABOUT, said.append) and len(said) == 1
    assert str(features_dir()) in said[0]
    assert lookup(KEY, said.append) is None
    (tmp_path / "home").unlink()
    store(KEY, some(), ABOUT)
    os.utime(entry_path(KEY), (1, 1))
    entry_path(KEY).unlink()
    entry_path(KEY).mkdir()  # no file can take its place
    assert lookup(KEY) is None and not store(KEY, some(), ABOUT, said.append) and len(said) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_still_read():
    store(KEY, some(), ABOUT)
    features_dir().chmod(0o500)
    said = []
    try:
        assert torch.equal(lookup(KEY, said.append).features, some()) and said == []
        assert not store(KEY | {"more": 1}, some(), ABOUT, said.append) and len(said) == 1
    finally:
        features_dir().chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_costs_one_line_and_no_entry(number, monkeypatch):
    store(KEY, some(), ABOUT)

    def refuse(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    said = []
    assert not store(KEY, some(1), ABOUT, said.append)
    assert len(said) == 1
    assert entries() == [entry_path(KEY)] and torch.equal(lookup(KEY).features, some())


# ---- how much is kept


def keep(name, when, size=1000):
    key = KEY | {"images": name}
    store(key, some(shape=(size // 4, 1)), {})
    os.utime(entry_path(key), (when, when))
    return key


def test_what_was_not_used_for_longest_goes_first(monkeypatch):
    now = time.time()
    a, b, c = (keep(name, now - age) for name, age in (("a", 300), ("b", 200), ("c", 100)))
    one = entry_path(a).stat().st_size
    monkeypatch.setattr(feature_cache, "LIMIT", 3 * one)
    assert lookup(a) is not None  # used just now: b is the oldest
    d = keep("d", now)
    assert [lookup(key) is not None for key in (a, b, c, d)] == [True, False, True, True]
    assert sum(path.stat().st_size for path in entries()) <= feature_cache.LIMIT
    before = entry_path(c).stat().st_mtime
    assert store(d, some(1, shape=(250, 1)), {})  # in place of itself
    assert all(lookup(key) is not None for key in (a, c, d)) and entry_path(c).stat().st_mtime > before


def test_more_than_the_cache_may_hold_is_not_kept(monkeypatch):
    a = keep("a", time.time())
    monkeypatch.setattr(feature_cache, "LIMIT", 2000)
    said = []
    assert not store(KEY, some(shape=(600, 1)), {}, said.append) and len(said) == 1
    assert lookup(a) is not None


# ---- other processes


def write_often(seed):
    said = []
    for turn in range(60):
        values = torch.full((50, 40), seed + turn / 100)
        store({"images": "shared"}, values, {"seed": seed, "turn": turn}, said.append)
    os._exit(len(said))


def write_and_die():
    def save(tensors, path, metadata):
        save_file(tensors, path, metadata)
        with Path(path).open("rb+") as file:
            file.truncate(path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = save
    store({"images": "shared"}, some(1), {})


def forked(work, *arguments):
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_two_processes_may_write_the_same_entry():
    said, found, key = [], 0, {"images": "shared"}
    both = [forked(write_often, seed) for seed in (1, 2)]
    while any(process.is_alive() for process in both):
        entry = lookup(key, said.append)
        if entry is not None:
            found += 1
            about = entry.about
            assert torch.equal(entry.features, torch.full((50, 40), about["seed"] + about["turn"] / 100))
    assert [process.exitcode for process in both] == [0, 0] and said == []
    assert found and lookup(key).about["turn"] == 59 and len(entries()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_writer_that_is_killed_leaves_the_entry_and_nothing_for_long():
    key = {"images": "shared"}
    store(key, some(), ABOUT)
    process = forked(write_and_die)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert torch.equal(lookup(key).features, some())
    [left] = [path for path in entries() if path != entry_path(key)]
    store(KEY, some(), {})
    assert left.exists()  # somebody may still be writing it
    old = time.time() - 2 * 24 * 3600
    os.utime(left, (old, old))
    store(KEY, some(), {})
    assert entries() == sorted([entry_path(key), entry_path(KEY)])
