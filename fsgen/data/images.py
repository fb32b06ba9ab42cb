"""Images in: a folder, a zip archive or one file, whatever its format and mode, to square uint8 tensors."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fsgen.errors import FsgenError

# fmt: off
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
)
# Decoders that only decode: Pillow's EPS reader, for one, would run Ghostscript on the file.
_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA",
    "ICO",
)
# fmt: on
_MOST_PIXELS = 400_000_000
_MOST_BYTES = 4 << 30  # of one file
_BIG_JPEG = 16_000_000  # pixels from which a JPEG is decoded at a fraction of its size
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


@dataclass(frozen=True)
class Item:
    """One file that should hold an image."""

    name: str  # relative to the folder or archive, with "/"; always printable as UTF-8
    path: Path  # the file itself, or the archive that holds it
    member: zipfile.ZipInfo | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one resolution, in the order of their names."""

    pixels: Tensor  # uint8 [n, C, R, R]
    names: list[str]
    hashes: list[str]  # SHA-256 of each file's bytes
    skipped: list[tuple[str, str]]  # name and reason of each file that could not be read

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted hashes: which images these are, whatever they are called."""
        return hashlib.sha256("\n".join(sorted(self.hashes)).encode()).hexdigest()

    def floats(self, rows: slice | Tensor | list[int] = slice(None)) -> Tensor:
        """Float32 [n, C, R, R] in [-1, 1] of the images at ``rows`` (a slice or indices)."""
        return self.pixels[rows].float() / 127.5 - 1


def find_images(path: Path | str) -> list[Item]:
    """The image files at ``path``, known by their suffix, sorted by name; hidden ones are left out.

    Args:
        path: a folder (searched recursively), a zip archive (read in place) or one image file (any suffix).

    Raises:
        FsgenError: no such path, nothing there that looks like an image, or a broken archive.
    """
    path = Path(path)
    if path.is_dir():
        found = _in_folder(path)
    elif not path.exists():
        raise FsgenError(
            f"there is no file or folder {path}",
            hint="check the path; images may be a folder, a zip archive or one image file",
        )
    elif path.suffix.lower() not in SUFFIXES and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        found = _in_archive(path)
    else:
        found = [Item(_printable(path.name), path)]
    if not found:
        raise FsgenError(
            f"there is no image in {path}", hint=f"put some there; fsgen looks for {', '.join(SUFFIXES)}"
        )
    return sorted(found, key=lambda item: item.name)


def load_images(
    path: Path | str,
    resolution: int,
    *,
    fit: Literal["crop", "pad"] = "crop",
    channels: int = 3,
    say: Callable[[str], None] | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Read the images at ``path``, upright, over white where transparent, squared and resampled (Lanczos).

    Args:
        path: as for ``find_images``.
        resolution: side of the result, pixels.
        fit: ``crop`` the centre square, or ``pad`` to a square with white.
        channels: 3 (RGB) or 1 (grey).
        say: told in one line about each file that had to be skipped.
        limit: stop after that many images.

    Raises:
        FsgenError: as ``find_images``, or not one file can be read.
    """
    if limit is not None and limit < 1:
        raise FsgenError(f"{limit} images are too few", hint="ask for at least 1")
    items = find_images(path)
    room = len(items) if limit is None else min(limit, len(items))
    pixels = _room_for(room, channels, resolution)
    names, hashes, skipped = [], [], []
    with _reader(items) as read:
        for item in items:
            if len(names) == room:
                break
            try:
                data = read(item)
                pixels[len(names)] = decode(data, resolution, fit=fit, channels=channels)
            except Exception as error:  # decoders raise nearly anything on a damaged file
                skipped.append((item.name, _reason(error)))
                if say:
                    say(f"skipped {item.name}: {skipped[-1][1]}")
                continue
            names.append(item.name)
            hashes.append(hashlib.sha256(data).hexdigest())
    if not names:
        name, reason = skipped[0]
        which = f"none of the {len(items)} image files in {path}" if len(items) > 1 else f"no image in {path}"
        raise FsgenError(
            f"{which} can be read ({name}: {reason})",
            hint="check that the files open in an image viewer, or export them again as PNG",
        )
    return ImageSet(pixels[: len(names)], names, hashes, skipped)


def decode(
    data: bytes, resolution: int, *, fit: Literal["crop", "pad"] = "crop", channels: int = 3
) -> Tensor:
    """One encoded image as uint8 [channels, resolution, resolution]; see ``load_images``.

    Raises:
        Exception: whatever Pillow raises on a damaged file or a picture too large.
    """
    with _patient_pillow():
        image = Image.open(io.BytesIO(data), formats=_formats())
        if image.format == "JPEG" and image.width * image.height > _BIG_JPEG:
            image.draft(None, (4 * resolution, 4 * resolution))  # decodes to at least this size
        image.load()  # complains of truncated files
        picture = _upright(image)
    if fit == "crop" and picture.width != picture.height:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    picture = _resized(_flat(picture), resolution)
    values = torch.from_numpy(np.array(picture.convert("L" if channels == 1 else "RGB")))
    return values[None] if channels == 1 else values.permute(2, 0, 1)


def _room_for(n: int, channels: int, resolution: int) -> Tensor:
    shape = (n, channels, resolution, resolution)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except RuntimeError as error:
        need = f"{n * channels * resolution**2 / 2**30:.1f} GiB"
        raise FsgenError(
            f"{n} images of {resolution} px need {need} of memory, more than there is",
            hint="use fewer images or a smaller resolution",
            code=1,
        ) from error


def _in_folder(folder: Path) -> list[Item]:
    def refuse(error: OSError) -> None:
        raise FsgenError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    found, seen = [], set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen and status.st_ino:  # a link back up would never end
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent, name) for name in files if _looks_like_image(name)]
        found += [Item(_printable(path.relative_to(folder).as_posix()), path) for path in paths]
    return found


def _in_archive(path: Path) -> list[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise FsgenError(
            f"the archive {path} cannot be read: {error}",
            hint="it may be incomplete: download or zip it again",
        ) from error
    found = []
    for member in members:
        parts = PurePosixPath(member.filename).parts
        hidden = any(part.startswith(".") and part.strip(".") for part in parts) or "__MACOSX" in parts
        if not member.is_dir() and not hidden and _looks_like_image(member.filename):
            found.append(Item(_printable(member.filename), path, member))
    return found


def _looks_like_image(name: str) -> bool:
    name = PurePosixPath(name).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _printable(name: str) -> str:
    """File systems allow names that are not UTF-8; Python's stand-ins for their bytes cannot be printed."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@contextmanager
def _reader(items: list[Item]) -> Iterator[Callable[[Item], bytes]]:
    """A function that reads the bytes of one of ``items``, which share an archive if they have one."""
    if items[0].member is None:
        yield lambda item: _checked(item.path).read_bytes()
        return
    with zipfile.ZipFile(items[0].path) as archive:
        yield lambda item: archive.read(_modest(item.member))


def _checked(path: Path) -> Path:
    if not path.is_file():  # a broken link, or a pipe that would never end
        raise ValueError("not a regular file")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES >> 30} GiB")
    return path


def _modest(member: zipfile.ZipInfo) -> zipfile.ZipInfo:
    if member.file_size > _MOST_BYTES:  # reading stops there, whatever the archive unpacks to
        raise ValueError(f"larger than {_MOST_BYTES >> 30} GiB")
    return member


@contextmanager
def _patient_pillow() -> Iterator[None]:
    """Pillow with its limit on pixels at ours (it raises beyond twice the number), and without warnings."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _formats() -> list[str]:
    """Those of ``_FORMATS`` that this Pillow knows (HEIF takes a plugin, AVIF a recent version)."""
    if "WEBP" not in Image.OPEN:
        Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {_MOST_PIXELS // 1_000_000} million pixels; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF orientation asks; unreadable EXIF asks for nothing."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # the picture itself is fine
        turn = None
    return image if turn is None else image.transpose(turn)


def _flat(picture: Image.Image) -> Image.Image:
    """``picture`` as 8-bit grey or RGB, over white where it is transparent."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(np.asarray(picture, dtype=np.float32), picture.mode)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", picture.size, "white")
        picture.paste(layer, mask=layer.getchannel("A"))
    # Grey stays grey until it is small: a third of the memory.
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _eight_bits(values: np.ndarray, mode: str) -> Image.Image:
    """Grey ``values`` [H, W] deeper than 8 bits as 8.

    Only 16-bit files say what white is (65535). For floats it is the least of 1, 255 and 65535 that no value
    exceeds, for 32-bit integers 65535; where values lie outside, the darkest is black and the lightest white.
    """
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    whites = {"F": (1, 255, 65535)}.get(mode, (65535,))
    white = next((white for white in whites if high <= white), None)
    if low < 0 or white is None:
        values, white = values - low, high - low
    return Image.fromarray((values * (255 / max(white, 1e-30)) + 0.5).astype(np.uint8))


def _resized(picture: Image.Image, resolution: int) -> Image.Image:
    """Scaled so that the longer side is ``resolution``; white fills up the square, if need be."""
    longest = max(picture.size)
    size = tuple(max(1, round(side * resolution / longest)) for side in picture.size)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if size == (resolution, resolution):
        return picture
    square = Image.new(picture.mode, (resolution, resolution), "white")
    square.paste(picture, ((resolution - size[0]) // 2, (resolution - size[1]) // 2))
    return square
