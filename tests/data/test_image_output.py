"""What is written is what was generated, and says where it comes from."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from fsgen.data.image_output import animation_writer, grid, pairs, picture, save_animation, save_png, to_uint8
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import Code


def levels(n=5, channels=3, height=4, width=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, height, width), generator=rng, dtype=torch.uint8)


def test_quantisation_inverts_floats_and_clamps():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(ImageSet(every, ["a"], ["b"], []).floats()), every)
    values = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0, float("inf"), float("-inf"), float("nan")])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 255, 0, 0]  # 127.5 rounds away from zero
    halves = (torch.arange(255) + 0.5) / 127.5 - 1
    assert torch.equal(to_uint8(halves.double() + 1e-6), torch.arange(1, 256, dtype=torch.uint8))
    assert torch.equal(to_uint8(halves.double() - 1e-6), torch.arange(0, 255, dtype=torch.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_puts_each_image_in_its_place(channels):
    images = levels(n=5, channels=channels)
    sheet = grid(images, columns=3, gap=2)
    assert sheet.size == (3 * 6 + 2 * 2, 2 * 4 + 2)
    assert sheet.mode == ("L" if channels == 1 else "RGB")
    array = np.array(sheet.convert("RGB"))
    for index in range(5):
        i, j = index // 3 * 6, index % 3 * 8
        shown = torch.from_numpy(array[i : i + 4, j : j + 6]).permute(2, 0, 1)
        assert torch.equal(shown, images[index].expand(3, -1, -1))
    assert (array[4:6] == 255).all() and (array[6:, 16:] == 255).all()


def test_grid_takes_floats_and_more_columns_than_images():
    images = levels(n=2)
    assert grid(images, columns=8, gap=1).size == (13, 4)
    assert np.array_equal(grid(images.float() / 127.5 - 1, columns=2), grid(images, columns=2))


def test_pairs_stand_one_above_the_other():
    top, bottom = levels(n=3, seed=1), levels(n=3, seed=2)
    array = np.array(pairs(top, bottom, columns=2, gap=2))
    assert array.shape == (2 * (4 + 2 + 4) + 6, 6 + 2 + 6, 3)

    def shown(i, j):
        return torch.from_numpy(array[i : i + 4, j : j + 6].copy()).permute(2, 0, 1)

    for index, (i, j) in enumerate([(0, 0), (0, 8), (16, 0)]):
        assert torch.equal(shown(i, j), top[index])
        assert torch.equal(shown(i + 6, j), bottom[index])
    assert (array[16:, 8:] == 255).all()
    with refused(Code.INCOMPATIBLE, list(top.shape), [3, 3, 8, 6]):
        pairs(top, levels(n=3, height=8), columns=2)


def test_png_holds_pixels_and_text(tmp_path):
    image = levels(n=1, height=8, width=8)[0]
    text = {"seed": "17", "source": "Öl auf Leinwand, 油彩", "licence": "CC0-1.0"}
    save_png(picture(image), tmp_path / "a.png", text)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.text == text
    assert torch.equal(load_images(tmp_path / "a.png", 8).pixels[0], image)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_unusable_files_and_frames_are_refused(tmp_path):
    image = picture(levels(n=1)[0])
    with refused(Code.UNSUPPORTED, "a.jpg", "a.png"):
        save_png(image, tmp_path / "a.jpg")
    with refused(Code.UNWRITABLE, tmp_path / "absent"):
        save_png(image, tmp_path / "absent" / "a.png")
    for path, frames, fps, code, named in [
        ("a.avi", [image], 24, Code.UNSUPPORTED, ("a.avi", ".gif, .webp, .mp4")),
        ("a.gif", [], 24, Code.TOO_FEW, ("a.gif",)),
        ("a.gif", [image], 0, Code.OUT_OF_RANGE, (0,)),
        ("a.gif", [image], float("nan"), Code.OUT_OF_RANGE, ("nan",)),
    ]:
        with refused(code, *named):
            save_animation(frames, tmp_path / path, fps)
    assert list(tmp_path.iterdir()) == []


def fade(n=8, size=(20, 13)):
    return [Image.new("RGB", size, (255 * index // (n - 1), 60, 120)) for index in range(n)]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_hold_all_frames_their_speed_and_text(tmp_path, suffix):
    path = tmp_path / f"walk{suffix}"
    frames = fade()
    save_animation(frames, path, fps=20, text={"seed": "3", "artist": "Ü"})
    with Image.open(path) as saved:
        assert saved.n_frames == len(frames) and saved.size == frames[0].size
        comment = saved.info["comment"] if suffix == ".gif" else saved.getexif()[0x010E]
        assert json.loads(comment) == {"seed": "3", "artist": "Ü"}
        for index, frame in enumerate(frames):
            saved.seek(index)
            saved.load()
            assert saved.info["duration"] == 50 and saved.info["loop"] == 0
            shown, meant = np.array(saved.convert("RGB"), int), np.array(frame, int)
            assert abs(shown - meant).mean() < 6
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_mp4_holds_all_frames(tmp_path):
    av = pytest.importorskip("av")
    save_animation(fade(), tmp_path / "walk.mp4", fps=12.5, text={"seed": "3"})
    with av.open(str(tmp_path / "walk.mp4")) as container:
        frames = list(container.decode(video=0))
        assert len(frames) == 8
        assert (frames[0].width, frames[0].height) == (20, 14)  # odd sides are made even
        assert container.streams.video[0].average_rate == 12.5
        assert json.loads(container.metadata["comment"]) == {"seed": "3"}


def test_mp4_without_av_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with refused(Code.MISSING_PACKAGE, "walk.mp4", "fsgen[video]"):
        animation_writer(tmp_path / "walk.mp4")
