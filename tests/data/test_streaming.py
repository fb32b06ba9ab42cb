"""Sets of images that pass by: the same pixels as loading them, a few batches at a time, every time."""

from __future__ import annotations

import hashlib
import io
import json
import time
import warnings
import zipfile

import pytest
import torch
from PIL import Image
from refusals import refused

import fsgen.data.streaming as module
from fsgen.data.images import load_images
from fsgen.data.streaming import open_images
from fsgen.errors import Code

R = 8


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def colour(index, size=(R, R)):
    return encoded(Image.new("RGB", size, (index, 255 - index, index // 2)))


def contents(n=11):
    """Name -> bytes: ``n`` images of several sizes, with damaged ones before, among and after them."""
    files = {f"{i:02}.png": colour(10 * i, [(R, R), (12, R), (5, 5)][i % 3]) for i in range(n)}
    whole = encoded(Image.effect_noise((40, 40), 90))
    damaged = {"00 first.png": b"", "03 cut.png": whole[:500], "04 text.jpg": b"hello", "99.webp": b"RIFF"}
    return files | damaged


def fill(folder, files):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "images", contents())


@pytest.fixture(params=["folder", "zip"])
def place(request, folder):
    if request.param == "folder":
        return folder
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents().items():
            archive.writestr(name, data)
    return path


def gather(stream, batch=4, **options):
    return torch.cat(list(stream.batches(R, batch, **options)))


def one_by_one(files, **options):
    """Another way to the same: every file decoded on its own, in the order of names."""
    found = []
    for name in sorted(files):
        try:
            found.append(module.decode(files[name], R, **options)[0])
        except Exception:
            continue
    return torch.stack(found)


# ---- the same images as ever


@pytest.mark.parametrize("batch", [1, 3, 11, 100])
def test_batches_are_what_loading_gives(place, batch):
    said = []
    stream, loaded = open_images(place, say=said.append), load_images(place, R)
    parts = list(stream.batches(R, batch))
    assert all(part.dtype == torch.uint8 and len(part) == batch for part in parts[:-1])
    assert torch.equal(torch.cat(parts), loaded.pixels)
    assert torch.equal(loaded.pixels, one_by_one(contents()))
    assert (stream.names, stream.hashes, stream.skipped) == (loaded.names, loaded.hashes, loaded.skipped)
    assert stream.digest == loaded.digest and len(stream) == len(loaded) == 11
    assert len(said) == len(loaded.skipped) == 4
    for line, (name, reason) in zip(said, loaded.skipped, strict=True):
        assert name in line and reason in line


@pytest.mark.parametrize("options", [{"fit": "pad"}, {"channels": 1}, {"fit": "pad", "channels": 1}])
def test_every_option_is_passed_on(folder, options):
    images = gather(open_images(folder), **options)
    assert torch.equal(images, one_by_one(contents(), **options))
    assert images.shape != (11, 3, R, R) or not torch.equal(images, gather(open_images(folder)))


@pytest.mark.parametrize("limit", [1, 4, 11, 12, 100])
def test_a_limit_counts_images_not_files(place, limit):
    stream, loaded = open_images(place, limit=limit), load_images(place, R, limit=limit)
    assert torch.equal(gather(stream), loaded.pixels)
    assert torch.equal(loaded.pixels, one_by_one(contents())[:limit])
    assert stream.hashes == loaded.hashes and len(stream) == min(limit, 11)
    assert stream.skipped == loaded.skipped  # what lies behind is not looked at
    with refused(Code.OUT_OF_RANGE, 0):
        open_images(place, limit=0)


def test_a_second_pass_is_like_the_first_and_silent(place):
    said = []
    stream = open_images(place, say=said.append)
    first, spoken = gather(stream), list(said)
    assert torch.equal(gather(stream, batch=2), first) and said == spoken


def test_passes_at_once_do_not_disturb_each_other(folder):
    said = []
    stream = open_images(folder, say=said.append, limit=7)
    pairs = list(zip(stream.batches(R, 2), stream.batches(R, 2), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(torch.cat([a for a, _ in pairs]), one_by_one(contents())[:7])
    assert len(said) == len(set(said)) == len(stream.skipped)


@pytest.mark.parametrize("rows", [[0], [2, 3, 9], range(5), {10, 4}, [9, 77], []])
@pytest.mark.parametrize("known", [False, "in part", True])
def test_rows_count_images_before_and_after_they_are_known(folder, rows, known):
    stream, every = open_images(folder), one_by_one(contents())
    if known:
        next(batches := stream.batches(R, 4))
        if known is True:
            list(batches)
        batches.close()
    expected = every[[row for row in sorted(rows) if row < len(every)]]
    assert torch.equal(torch.cat([every[:0], *stream.batches(R, 2, rows=rows)]), expected)


def test_known_rows_are_decoded_alone(folder, monkeypatch):
    stream, decoded = open_images(folder), []
    gather(stream)
    monkeypatch.setattr(
        module, "decode", lambda *a, real=module.decode, **k: decoded.append(1) or real(*a, **k)
    )
    gather(stream, rows=[3, 8])
    assert len(decoded) == 2


# ---- how it is done


def test_only_a_few_batches_are_held(tmp_path, monkeypatch):
    files = {f"{i:03}.png": colour(i) for i in range(200)}
    fill(tmp_path / "many", files)
    decoded = []
    monkeypatch.setattr(
        module, "decode", lambda *a, real=module.decode, **k: decoded.append(1) or real(*a, **k)
    )
    batches = open_images(tmp_path / "many").batches(R, 5)
    for taken in (5, 10, 15):
        next(batches)
        until = time.monotonic() + 5
        while len(decoded) < taken + 5 and time.monotonic() < until:  # threads go on by themselves
            time.sleep(0.01)
        time.sleep(0.05)
        assert taken + 5 <= len(decoded) <= taken + 2 * 5 + module.THREADS + 2 * module._TURN
    batches.close()
    before = len(decoded)
    time.sleep(0.05)
    assert len(decoded) == before < 60


def test_nothing_is_decoded_for_hashes_and_read_once_for_loading(folder, monkeypatch):
    monkeypatch.setattr(module, "decode", lambda *_, **__: pytest.fail("decoded"))
    stream = open_images(folder)
    assert (
        len(stream.hashes) == len(stream.names) == 15
        and stream.pixel_hash
        and stream.digest
        and not stream.resized
    )
    monkeypatch.undo()
    reads = []
    monkeypatch.setattr(module, "_hash_file", lambda *_, **__: pytest.fail("read for its hash alone"))
    monkeypatch.setattr(
        module, "_decode_file", lambda *a, real=module._decode_file, **k: reads.append(1) or real(*a, **k)
    )
    assert len(load_images(folder, R)) == 11 and len(reads) == 15


def test_pillow_is_left_as_it_was(folder):
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    stream = open_images(folder)
    one, other = stream.batches(R, 2), stream.batches(R, 2)
    next(one), next(other)
    one.close()
    assert limit < Image.MAX_IMAGE_PIXELS
    other.close()
    assert limit == Image.MAX_IMAGE_PIXELS and list(warnings.filters) == filters


# ---- which images


def test_ordered_names_the_pixels(folder, monkeypatch):
    first = open_images(folder).pixel_hash
    stream = open_images(folder)
    gather(stream)
    assert stream.pixel_hash == first == open_images(folder, limit=99).pixel_hash
    others = [open_images(folder, limit=4).pixel_hash]
    (folder / "00.png").rename(folder / "zz.png")
    moved = open_images(folder)
    gather(moved)
    others.append(moved.pixel_hash)
    assert moved.digest == stream.digest
    (folder / "zz.png").write_bytes(colour(201))
    others.append(open_images(folder).pixel_hash)
    monkeypatch.setattr(module, "decoder_version", lambda: "another Pillow")
    others.append(open_images(folder).pixel_hash)
    assert len({first, *others}) == 5


def test_odd_counts_images_that_were_squared_or_resized(tmp_path):
    sizes = [(R, R), (R, R + 1), (2 * R, 2 * R), (R, R), (3, 3)]
    stream = open_images(fill(tmp_path / "a", {f"{i}.png": colour(i, size) for i, size in enumerate(sizes)}))
    assert stream.resized == 0
    gather(stream)
    assert stream.resized == 3
    list(stream.batches(2 * R, 4))
    assert stream.resized == 4


def test_a_big_jpeg_decoded_at_a_fraction_keeps_its_own_size(tmp_path):
    beyond = encoded(Image.new("L", (8300, 8200), 90), "JPEG")
    stream = open_images(fill(tmp_path / "a", {"a.jpg": beyond, "b.png": colour(1)}))
    assert gather(stream).shape == (2, 3, R, R) and stream.resized == 1
    assert stream.scan_state()["files"][0][1] == [8300, 8200]


# ---- what a pass finds out is kept


@pytest.mark.parametrize("limit", [None, 3, 7])
def test_what_was_learned_is_recalled_in_place_of_a_pass(place, limit):
    said = []
    stream = open_images(place, limit=limit)
    gather(stream)
    fresh = open_images(place, say=said.append, limit=limit)
    assert fresh.load_scan_state(json.loads(json.dumps(stream.scan_state())))
    for what in ("names", "hashes", "skipped", "digest", "pixel_hash", "resized"):
        assert getattr(fresh, what) == getattr(stream, what), what
    assert len(said) == len(stream.skipped) and len(fresh) == len(stream)
    assert torch.equal(gather(fresh), gather(stream))


def test_a_pass_that_broke_off_teaches_its_part(folder):
    stream, every = open_images(folder), one_by_one(contents())
    next(batches := stream.batches(R, 5))
    batches.close()
    fresh = open_images(folder)
    assert fresh.load_scan_state(stream.scan_state()) and fresh.scan_state() == stream.scan_state()
    assert 1 <= len(fresh.skipped) < 4 and torch.equal(gather(fresh), every)
    assert fresh.load_scan_state(stream.scan_state()) and len(fresh) == 11  # less than is known by now


@pytest.mark.parametrize("change", ["altered", "removed", "mended"])
def test_what_was_learned_of_others_is_not_believed(folder, change):
    stream = open_images(folder)
    gather(stream)
    if change == "altered":
        (folder / "05.png").write_bytes(colour(99))
    elif change == "removed":
        (folder / "99.webp").unlink()
    else:
        (folder / "03 cut.png").write_bytes(colour(98))
    fresh = open_images(folder)
    assert not fresh.load_scan_state(stream.scan_state())
    assert fresh.skipped == [] and fresh.resized == 0


# ---- what goes wrong


def test_a_file_that_changes_between_passes_is_an_error(folder):
    for change in (lambda path: path.write_bytes(colour(200)), lambda path: path.unlink()):
        fill(folder, contents())
        stream = open_images(folder)
        gather(stream)
        change(folder / "06.png")
        with refused(Code.SYSTEM, "06.png", folder) as caught:
            gather(stream)
        assert caught.value.exit_code == 1 and caught.value.hint
    fill(folder, contents())
    stream = open_images(folder)
    assert stream.pixel_hash
    (folder / "06.png").write_bytes(colour(200))  # hashed, not decoded yet
    with refused(Code.SYSTEM, "06.png"):
        gather(stream)


def test_files_that_cannot_even_be_read_are_skipped_and_change_no_hash(folder):
    before = open_images(folder).pixel_hash
    (folder / "00 broken.png").symlink_to(folder / "absent")
    (folder / "dir.png").mkdir()
    stream = open_images(folder)
    assert stream.pixel_hash == before
    assert stream.skipped == [("00 broken.png", "not a regular file")]  # a folder is no file to begin with
    gather(stream)
    assert len(stream) == 11 and len(stream.skipped) == 5
    fresh = open_images(folder)
    assert fresh.load_scan_state(stream.scan_state()) and fresh.skipped == stream.skipped


@pytest.mark.parametrize("bad", [b"hello", None])
def test_no_image_at_all_is_refused(tmp_path, bad):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        if bad is None:
            (tmp_path / "in" / name).symlink_to(tmp_path / "absent")
        else:
            (tmp_path / "in" / name).write_bytes(bad)
    with refused(Code.DAMAGED, tmp_path / "in", 2, "a.png"):
        list(open_images(tmp_path / "in").batches(R, 4))
    if bad is None:
        with refused(Code.DAMAGED, tmp_path / "in", 2):
            open_images(tmp_path / "in").digest  # noqa: B018


def test_a_set_of_one_says_so_once_it_is_read(tmp_path):
    stream = open_images(fill(tmp_path / "a", {"a.png": colour(1), "b.png": b"cut"}))
    assert len(stream) == 2
    gather(stream)
    assert len(stream) == 1 and stream.hashes == [hashlib.sha256(colour(1)).hexdigest()]
