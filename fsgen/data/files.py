"""Where images are: the files of a folder, the members of a zip archive, one file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fsgen.errors import FsgenError

# fmt: off
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
)
# fmt: on
_MOST_BYTES = 4 << 30  # of one file


@dataclass(frozen=True)
class ImageFile:
    """One file that should hold an image."""

    name: str  # relative to the folder or archive, with "/"; always printable as UTF-8
    path: Path  # the file itself, or the archive that holds it
    member: zipfile.ZipInfo | None = None


def find_images(path: Path | str) -> list[ImageFile]:
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
        found = [ImageFile(_printable(path.name), path)]
    if not found:
        raise FsgenError(
            f"there is no image in {path}", hint=f"put some there; fsgen looks for {', '.join(SUFFIXES)}"
        )
    return sorted(found, key=lambda item: item.name)


@contextmanager
def opener(first: ImageFile) -> Iterator[Callable[[ImageFile], BinaryIO]]:
    """A function that opens ``first`` or others found with it, in any thread; an archive is opened once.

    The function raises whatever the file system and ``zipfile`` do, and ValueError for what is no file or
    larger than 4 GiB.
    """
    if first.member is None:
        yield lambda item: _checked(item.path).open("rb")
        return
    with _archive(first.path) as archive:
        yield lambda item: archive.open(_modest(item.member))


def _in_folder(folder: Path) -> list[ImageFile]:
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
        found += [ImageFile(_printable(path.relative_to(folder).as_posix()), path) for path in paths]
    return found


def _in_archive(path: Path) -> list[ImageFile]:
    with _archive(path) as archive:
        members = archive.infolist()
    found = []
    for member in members:
        parts = PurePosixPath(member.filename).parts
        hidden = any(part.startswith(".") and part.strip(".") for part in parts) or "__MACOSX" in parts
        if not member.is_dir() and not hidden and _looks_like_image(member.filename):
            found.append(ImageFile(_printable(member.filename), path, member))
    return found


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise FsgenError(
            f"the archive {path} cannot be read: {error}",
            hint="it may be incomplete: download or zip it again",
        ) from error


def _looks_like_image(name: str) -> bool:
    name = PurePosixPath(name).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _printable(name: str) -> str:
    """File systems allow names that are not UTF-8; Python's stand-ins for their bytes cannot be printed."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


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
