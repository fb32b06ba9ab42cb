"""Where images are looked for: folders, archives, single files; and how an empty hand is reported."""

from __future__ import annotations

import io
import os
import zipfile

import pytest
from PIL import Image
from refusals import refused

import fsgen.data.files as module
from fsgen.data.images import find_images, load_images
from fsgen.errors import Code


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def picture():
    return Image.effect_noise((16, 16), 80)


def test_a_folder_is_searched_in_the_order_of_names(tmp_path):
    for name in [
        "b.png",
        "a/z.JPG",
        "a/c.webp",
        ".hidden.png",
        ".git/x.png",
        "README.md",
        ".DS_Store",
        "c.json",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [item.name for item in find_images(tmp_path)] == ["a/c.webp", "a/z.JPG", "b.png"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(encoded(picture()))
    (tmp_path / "in" / "there").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")
    assert [item.name for item in find_images(tmp_path / "in")] == ["there/a.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_is_read_in_place_whatever_its_members_are_called(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    names = [
        "../../escape.png",
        "/abs.png",
        "a b/ü.png",
        "x.png",
        "__MACOSX/._x.png",
        ".hid/y.png",
        "notes.txt",
    ]
    with zipfile.ZipFile(inside / "shots.zip", "w") as archive:
        for name in [*names, "x.png"]:  # the same name twice
            archive.writestr(name, encoded(Image.new("RGB", (8, 8), (len(name), 0, 0))))
    images = load_images(inside / "shots.zip", 8)
    assert images.names == ["../../escape.png", "/abs.png", "a b/ü.png", "x.png", "x.png"]
    assert images.pixels[:, 0, 0, 0].tolist() == [len(name) for name in images.names]
    assert [entry.name for entry in inside.iterdir()] == ["shots.zip"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["inside"]


def test_an_encrypted_or_damaged_member_is_skipped(tmp_path):
    path = tmp_path / "shots.zip"
    good = encoded(picture())
    with zipfile.ZipFile(path, "w") as archive:
        for name in ["a.png", "b.png", "c.png"]:
            archive.writestr(name, good)
    data = bytearray(path.read_bytes())
    data[data.find(good) + len(good) // 2] ^= 0xFF  # a.png: checksum
    entry = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 1)
    data[entry + 8] |= 1  # b.png: "encrypted"
    path.write_bytes(data)
    images = load_images(path, 8)
    assert images.names == ["c.png"]
    assert [name for name, _ in images.skipped] == ["a.png", "b.png"]
    assert "CRC" in images.skipped[0][1] and "encrypted" in images.skipped[1][1]


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123
            file.write(encoded(picture()))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert load_images(tmp_path, 8).names[0].encode("utf-8")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("absent", Code.NOT_FOUND),
        ("empty folder", Code.NOT_FOUND),
        ("no images", Code.NOT_FOUND),
        ("none readable", Code.DAMAGED),
        ("bad zip", Code.DAMAGED),
        ("text", Code.DAMAGED),
        ("few", Code.OUT_OF_RANGE),
    ],
)
def test_refusals_name_the_path_and_the_remedy(tmp_path, kind, code):
    path = tmp_path / "shots"
    limit = None
    if kind == "empty folder":
        path.mkdir()
    elif kind == "no images":
        path.mkdir()
        (path / "README.md").write_text("hello")
    elif kind == "none readable":
        path.mkdir()
        (path / "a.png").write_text("hello")
        (path / "b.png").write_text("hello")
    elif kind == "bad zip":
        path = tmp_path / "shots.zip"
        path.write_bytes(b"PK\x03\x04 cut short")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "few":
        path, limit = tmp_path, 0
    with refused(code, limit if kind == "few" else path) as caught:
        load_images(path, 8, limit=limit)
    assert caught.value.exit_code == 2 and caught.value.hint
    if kind in {"empty folder", "no images"}:
        assert ".png" in caught.value.hint and ".tiff" in caught.value.hint


def test_an_archive_of_thousands_opens_once(tmp_path, monkeypatch):
    tiny = encoded(Image.new("RGB", (4, 4)))
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for index in range(1000):
            archive.writestr(f"{index:05}.png", tiny)
    opened = []
    monkeypatch.setattr(
        module.zipfile, "ZipFile", lambda path, real=zipfile.ZipFile: opened.append(path) or real(path)
    )
    assert len(load_images(tmp_path / "many.zip", 4)) == 1000
    assert len(opened) == 2  # one to list, one to read
