"""Decode one image file of any format and mode to a square uint8 tensor."""

from __future__ import annotations

import io
import threading
import warnings
from contextlib import nullcontext
from typing import Literal

import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

Fit = Literal["crop", "pad"]
"""The two ways to make an image square: cut its longer side, or add white."""

# fmt: off
# Safe decoders only: Pillow's EPS reader, for example, would run Ghostscript on the file.
_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA",
    "ICO",
)
# fmt: on
_RECIPE = 1  # increased when a change here gives different pixels for the same file
_MOST_PIXELS = 400_000_000
_BIG_JPEG = 16_000_000  # pixels from which a JPEG is decoded at a fraction of its size
_GIANT = 64_000_000  # pixels from which images are decoded one at a time, to spare the memory
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes, resolution: int, *, fit: Fit = "crop", channels: int = 3
) -> tuple[Tensor, tuple[int, int]]:
    """Decode an image: upright, transparency over white, square, resampled (Lanczos).

    Args:
        data: the file's bytes.
        resolution: side of the result, pixels.
        fit: ``crop`` the centre square, or ``pad`` to a square with white.
        channels: 3 (RGB) or 1 (grey).

    Returns:
        uint8 [channels, resolution, resolution], and (width, height) of the file.

    Raises:
        Exception: any of Pillow's for a damaged file or too large an image; see ``reason``.
    """
    with PILLOW_LIMITS:
        image = Image.open(io.BytesIO(data), formats=_formats())
        size = image.size
        with _GIANT_LOCK if size[0] * size[1] > _GIANT else nullcontext():
            picture = _square(image, resolution, fit)
    values = torch.from_numpy(np.array(picture.convert("L" if channels == 1 else "RGB")))
    return values[None] if channels == 1 else values.permute(2, 0, 1), size


def decoder_version() -> str:
    """Identify the decoder: everything besides file and arguments that the pixels depend on."""
    return f"{_RECIPE}; Pillow {PIL.__version__}: {' '.join(_formats())}"


def reason(error: Exception) -> str:
    """Short text for an error of ``decode``."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {_MOST_PIXELS // 1_000_000} million pixels; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class _PillowLimits:
    """Context that silences Pillow's warnings and sets its pixel limit (it raises beyond twice the number).

    Both are global to the process: the first thread to enter sets them, the last one to exit restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MOST_PIXELS // 2
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit
                self._filters.__exit__(None, None, None)


PILLOW_LIMITS = _PillowLimits()
"""Entered by ``decode``; entering it around many calls saves time."""
_GIANT_LOCK = threading.Lock()


def _formats() -> list[str]:
    """The ``_FORMATS`` that this Pillow supports (HEIF needs a plugin, AVIF a recent version)."""
    if "WEBP" not in Image.OPEN:
        Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _square(image: Image.Image, resolution: int, fit: Fit) -> Image.Image:
    if image.format == "JPEG" and image.width * image.height > _BIG_JPEG:
        image.draft(None, (4 * resolution, 4 * resolution))  # decodes to at least this size
    image.load()  # raises on truncated files
    picture = _upright(image)
    if fit == "crop" and picture.width != picture.height:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return _resized(_flat(picture), resolution)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; ignore unreadable EXIF."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the image itself is fine
        turn = None
    return image if turn is None else image.transpose(turn)


def _flat(picture: Image.Image) -> Image.Image:
    """Convert to 8-bit grey or RGB, transparency over white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(np.asarray(picture, dtype=np.float32), picture.mode)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", picture.size, "white")
        picture.paste(layer, mask=layer.getchannel("A"))
    # Grey stays grey until resampled: a third of the memory.
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _eight_bits(values: np.ndarray, mode: str) -> Image.Image:
    """Convert grey ``values`` [H, W] of more than 8 bits to 8.

    White is 65535 in integer files; in float files the least of 1, 255 and 65535 that no value exceeds. If
    values exceed that range or are negative, the darkest becomes black and the lightest white.
    """
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    whites = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    white = next((white for white in whites if high <= white), 0.0)
    if low < 0 or not white:
        values, white = values - low, high - low
    return Image.fromarray((values * (255 / max(white, 1e-30)) + 0.5).astype(np.uint8))


def _resized(picture: Image.Image, resolution: int) -> Image.Image:
    """Scale the longer side to ``resolution`` and pad to a square with white."""
    width, height = (max(1, round(side * resolution / max(picture.size))) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if width == height == resolution:
        return picture
    square = Image.new(picture.mode, (resolution, resolution), "white")
    square.paste(picture, ((resolution - width) // 2, (resolution - height) // 2))
    return square
