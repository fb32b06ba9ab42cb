"""Any readable image in; what cannot be read is named."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import fsgen.data.decode as module
from fsgen.data.images import load_images
from fsgen.errors import FsgenError

R = 16


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def scene(size=(32, 32)):
    """Four flat quarters, all different, so that turns and swapped channels show."""
    width, height = size
    image = Image.new("RGB", size, (200, 30, 40))
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), fill=(20, 180, 60))
    draw.rectangle((0, height // 2, width // 2 - 1, height), fill=(40, 50, 190))
    draw.rectangle((width // 2, height // 2, width, height), fill=(230, 220, 90))
    return image


def load(tmp_path, data, name="a.png", resolution=R, **options):
    (tmp_path / name).write_bytes(data)
    return load_images(tmp_path / name, resolution, **options).pixels[0]


def corners(pixels):
    """The colours of the four quarters, [4, C]; taken well away from the edges between them."""
    q = pixels.shape[-1] // 4
    return pixels[:, [q, q, -q, -q], [q, -q, q, -q]].T.int()


SCENE = torch.tensor([[200, 30, 40], [20, 180, 60], [40, 50, 190], [230, 220, 90]])
GREY = torch.from_numpy(np.array(scene().convert("L"))[[8, 8, 24, 24], [8, 24, 8, 24]].astype(int))[:, None]


# ---- every mode


def sixteen_bit(mode, dtype):
    levels = np.array(scene().convert("L")).astype(np.uint32) * 257
    return Image.frombytes(mode, (32, 32), levels.astype(dtype).tobytes())


def floats(scale, offset=0.0):
    return Image.fromarray(np.array(scene().convert("L"), np.float32) / 255 * scale + offset)


MODES = {
    "rgb": (scene(), "PNG"),
    "jpeg": (scene(), "JPEG"),
    "cmyk": (scene().convert("CMYK"), "JPEG"),
    "palette": (scene().quantize(16), "PNG"),
    "bmp": (scene(), "BMP"),
    "webp": (scene(), "WEBP"),
    "gif": (scene(), "GIF"),
    "jpeg2000": (scene(), "JPEG2000"),
    "tga": (scene(), "TGA"),
    "opaque": (scene().convert("RGBA"), "PNG"),
}
GREYS = {
    "grey": (scene().convert("L"), "PNG"),
    "16-bit": (sixteen_bit("I;16", "<u2"), "PNG"),
    "16-bit big-endian": (sixteen_bit("I;16B", ">u2"), "TIFF"),
    "16-bit in 32": (Image.fromarray(np.array(scene().convert("L"), np.int32) * 257), "TIFF"),
    "float to 1": (floats(1.0), "TIFF"),
    "float to 255": (floats(255.0), "TIFF"),
    "float to 65535": (floats(65535.0), "TIFF"),
    "grey and alpha": (scene().convert("L").convert("LA"), "PNG"),
}


@pytest.mark.parametrize("mode", MODES)
def test_colour_modes(tmp_path, mode):
    image, format = MODES[mode]
    if format not in Image.SAVE and Image.init() and format not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {format}")
    pixels = load(tmp_path, encoded(image, format))
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, R, R)
    assert (corners(pixels) - SCENE).abs().max() <= (12 if format in {"JPEG", "WEBP", "JPEG2000"} else 2)


@pytest.mark.parametrize("mode", GREYS)
def test_grey_modes_are_scaled_not_clipped(tmp_path, mode):
    image, format = GREYS[mode]
    data = encoded(image, format)
    assert (corners(load(tmp_path, data)) - GREY).abs().max() <= 1
    pixels = load(tmp_path, data, channels=1)
    assert pixels.shape == (1, R, R) and (corners(pixels) - GREY).abs().max() <= 1


def test_ranges_that_no_convention_covers_are_stretched(tmp_path):
    pixels = load(tmp_path, encoded(floats(3e6, offset=-1e6), "TIFF"), channels=1)
    low, high = int(GREY.min()), int(GREY.max())
    assert (corners(pixels) - (GREY - low) * 255 // (high - low)).abs().max() <= 2
    broken = np.full((32, 32), 0.5, np.float32)
    broken[:, 20:] = np.nan
    pixels = load(tmp_path, encoded(Image.fromarray(broken), "TIFF"))
    assert pixels[:, 8, 4].tolist() == [128] * 3 and pixels[:, 8, 14].tolist() == [0] * 3


def test_one_bit(tmp_path):
    image = Image.new("1", (32, 32), 1)
    image.paste(0, (0, 0, 16, 32))
    pixels = load(tmp_path, encoded(image))
    assert corners(pixels)[:, 0].tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "colour key"])
def test_transparency_shows_white(tmp_path, mode):
    image = scene().convert("RGBA")
    image.putalpha(Image.new("L", (32, 32), 255))
    image.paste((0, 0, 0, 0), (0, 0, 16, 16))
    if mode == "P":
        data = encoded(image.quantize(32), "PNG")
    elif mode == "colour key":
        data = encoded(scene(), transparency=(200, 30, 40))
    else:
        data = encoded(image.convert(mode), "PNG")
    seen = corners(load(tmp_path, data))
    expected = GREY.expand(-1, 3).clone() if mode == "LA" else SCENE.clone()
    expected[0] = 255
    assert (seen - expected).abs().max() <= 2


def test_half_transparent_is_half_white(tmp_path):
    pixels = load(tmp_path, encoded(Image.new("RGBA", (8, 8), (0, 100, 200, 51))))
    assert (pixels[:, 0, 0].int() - torch.tensor([204, 224, 244])).abs().max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation(tmp_path, orientation, format):
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that undo each orientation
    stored = scene((40, 24))
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    pixels = load(tmp_path, encoded(stored, format, exif=exif, **options))
    assert (corners(pixels) - SCENE).abs().max() <= 6


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_many_frames(tmp_path, format):
    others = [Image.new("RGB", (32, 32), colour) for colour in ("black", "white")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(scene(), format, save_all=True, append_images=others, **options)
    assert (corners(load(tmp_path, data)) - SCENE).abs().max() <= 2


# ---- every shape


def test_centre_crop_and_pad(tmp_path):
    image = Image.new("RGB", (48, 16), "red")
    image.paste("blue", (16, 0, 32, 16))
    data = encoded(image)
    crop = load(tmp_path, data)
    assert (crop == torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]).all()
    pad = load(tmp_path, data, fit="pad", resolution=48)
    assert (pad[:, :16] == 255).all() and (pad[:, 32:] == 255).all()
    assert pad[:, 24, 8].tolist() == [255, 0, 0] and pad[:, 24, 24].tolist() == [0, 0, 255]
    upright = load(tmp_path, encoded(image.transpose(Image.Transpose.TRANSPOSE)), fit="pad", resolution=48)
    assert torch.equal(upright, pad.transpose(1, 2))
    grey = load(tmp_path, data, fit="pad", channels=1)
    assert (grey[:, 0] == 255).all()


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    resolution=st.integers(1, 64),
    fit=st.sampled_from(["crop", "pad"]),
)
def test_any_size_gives_a_square(width, height, resolution, fit):
    data = encoded(Image.new("RGB", (width, height), (10, 20, 30)))
    pixels, size = module.decode(data, resolution, fit=fit)
    assert size == (width, height)
    assert pixels.shape == (3, resolution, resolution)
    colour = torch.tensor([10, 20, 30])
    picture = pixels.flatten(1).T.eq(colour).all(dim=1)
    assert picture.all() if fit == "crop" else picture.any()
    assert (pixels.flatten(1).T[~picture] == 255).all()


def test_resampling_is_antialiased_lanczos(tmp_path):
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    grey = load(tmp_path, encoded(Image.fromarray(stripes)))
    assert grey.min() >= 120 and grey.max() <= 135  # a resampler that picks pixels gives 0 or 255
    ramp = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    expected = torch.from_numpy(np.array(ramp.resize((32, 32), Image.Resampling.LANCZOS)))
    assert torch.equal(load(tmp_path, encoded(ramp), resolution=32, channels=1)[0], expected)
    assert torch.equal(load(tmp_path, encoded(ramp), resolution=8)[0], torch.from_numpy(np.array(ramp)))


def test_a_big_jpeg_is_decoded_small_but_looks_the_same(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise).resize((800, 640)), "JPEG", quality=95)
    plain = load(tmp_path, data, resolution=64)
    monkeypatch.setattr(module, "_BIG_JPEG", 1000)
    small = load(tmp_path, data, resolution=64)
    assert not torch.equal(plain, small)
    assert (plain.float() - small.float()).abs().mean() < 1


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_huge_is_accepted_and_beyond_is_skipped(tmp_path):
    usual = Image.MAX_IMAGE_PIXELS
    # More pixels than Pillow takes by itself, 179 million, also in the square; one bit each is quick.
    (tmp_path / "huge.png").write_bytes(encoded(Image.new("1", (13400, 13600), 1), compress_level=1))
    (tmp_path / "bomb.png").write_bytes(png_header(100_000, 100_000))
    images = load_images(tmp_path, R)
    assert images.names == ["huge.png"] and (images.pixels == 255).all()
    assert images.names == ["huge.png"] and "400 million" in dict(images.skipped)["bomb.png"]
    assert usual == Image.MAX_IMAGE_PIXELS


def test_giants_are_decoded_one_at_a_time(monkeypatch):
    inside, most = [], []

    def square(image, *_, real=module._square):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        picture = real(image, *_)
        inside.pop()
        return picture

    monkeypatch.setattr(module, "_square", square)
    for giant, expected in ((10_000, True), (100, False)):
        monkeypatch.setattr(module, "_GIANT", giant)
        most.clear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: module.decode(encoded(scene()), 8), range(8)))
        assert (max(most) > 1) is expected


# ---- what cannot be read


def test_unreadable_files_are_skipped_named_and_counted(tmp_path):
    whole = encoded(Image.effect_noise((64, 64), 80))
    (tmp_path / "good.png").write_bytes(whole)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jpg").write_bytes(encoded(scene((200, 200)), "JPEG")[:700])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.webp").write_text("not an image")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (tmp_path / "broken.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "notes.md").write_text("ignored")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    heard = []
    images = load_images(tmp_path, R, say=heard.append)
    assert images.names == ["good.png"] and len(images) == len(images.pixels) == 1
    bad = {"cut.png", "cut.jpg", "empty.png", "text.webp", "script.png", "broken.png"}
    assert {name for name, _ in images.skipped} - {"pipe.png"} == bad
    assert len(heard) == len(images.skipped)
    for line, (name, reason) in zip(heard, images.skipped, strict=True):
        assert name in line and reason in line
    assert all(reason and "\n" not in reason and "BytesIO" not in reason for _, reason in images.skipped)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_never_escape_as_another_error(tmp_path_factory, data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
    content = bytearray(encoded(scene(), format))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{format.lower()}"
    path.write_bytes(content)
    try:
        assert load_images(path, 8).pixels.shape == (1, 3, 8, 8)
    except FsgenError as error:
        assert error.exit_code == 2


# ---- what comes out


def test_hashes_digest_floats_and_limit(tmp_path):
    shades = [0, 51, 255]
    for name, shade in zip("cab", shades, strict=True):
        (tmp_path / f"{name}.png").write_bytes(encoded(Image.new("RGB", (4, 4), (shade, shade, shade))))
    images = load_images(tmp_path, 4)
    assert images.names == ["a.png", "b.png", "c.png"]
    assert images.hashes == [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in images.names
    ]
    assert images.floats().dtype == torch.float32
    torch.testing.assert_close(images.floats()[:, 0, 0, 0], torch.tensor([-0.6, 1.0, -1.0]))
    assert images.floats(slice(1, 2)).shape == images.floats([1]).shape == (1, 3, 4, 4)
    (tmp_path / "a.png").rename(tmp_path / "z.png")
    assert load_images(tmp_path, 4).digest == images.digest
    some = load_images(tmp_path, 4, limit=2)
    assert some.names == ["b.png", "c.png"] and some.digest != images.digest
