"""Find image files: in a folder, in a zip archive, or a single file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from fsgen.errors import Code, FsgenError

# fmt: off
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
)
# fmt: on
_MOST_BYTES = 4 << 30  # of one file


@dataclass(frozen=True)
class ImageFile:
    """One image file, not opened yet."""

    name: str  # relative to the folder or archive, with "/"; always valid UTF-8
    path: Path  # the file itself, or its archive
    member: zipfile.ZipInfo | None = None


def find_images(path: Path | str) -> list[ImageFile]:
    """Find the image files at ``path`` by suffix, sorted by name, without hidden ones.

    Args:
        path: a folder (searched recursively), a zip archive (read in place) or one image file (any suffix).

    Raises:
        FsgenError: no such path, no image there, or a broken archive.
    """
    path = Path(path)
    if path.is_dir():
        found = _in_folder(path)
    elif not path.exists():
        hint = "check the path; images may be a folder, a zip archive or one image file"
        raise FsgenError(f"there is no file or folder {path}", code=Code.NOT_FOUND, where=path, hint=hint)
    elif path.suffix.lower() not in SUFFIXES and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        found = _in_archive(path)
    else:
        found = [ImageFile(_printable(path.name), path)]
    if not found:
        hint = f"put some there; fsgen reads {', '.join(SUFFIXES)}"
        raise FsgenError(f"there is no image in {path}", code=Code.NOT_FOUND, where=path, hint=hint)
    return sorted(found, key=lambda item: item.name)


@contextmanager
def opener(first: ImageFile) -> Iterator[Callable[[ImageFile], IO[bytes]]]:
    """Yield a thread-safe function that opens ``first`` or files found with it; an archive is opened once.

    The function raises the errors of the file system and ``zipfile``, and ValueError for something other
    than a regular file or larger than 4 GiB.
    """
    if first.member is None:
        yield _open_file
        return
    with _open_archive(first.path) as archive:

        def open_member(file: ImageFile) -> IO[bytes]:
            assert file.member is not None  # found in this archive
            _check_size(file.member.file_size)  # zipfile reads no more, whatever it unpacks to
            return archive.open(file.member)

        yield open_member


def _in_folder(folder: Path) -> list[ImageFile]:
    def refuse(error: OSError) -> None:
        message = f"the folder {error.filename} cannot be read: {error.strerror}"
        raise FsgenError(message, code=Code.UNWRITABLE, where=error.filename) from error

    found, visited = [], set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in visited and status.st_ino:  # a link to a parent would never end
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent, name) for name in files if _is_image_name(name)]
        found += [ImageFile(_printable(path.relative_to(folder).as_posix()), path) for path in paths]
    return found


def _in_archive(path: Path) -> list[ImageFile]:
    with _open_archive(path) as archive:
        members = archive.infolist()
    found = []
    for member in members:
        parts = PurePosixPath(member.filename).parts
        hidden = any(part.startswith(".") and part.strip(".") for part in parts) or "__MACOSX" in parts
        if not member.is_dir() and not hidden and _is_image_name(member.filename):
            found.append(ImageFile(_printable(member.filename), path, member))
    return found


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        message, hint = f"the archive {path} cannot be read: {error}", "it may be incomplete: create it again"
        raise FsgenError(message, code=Code.DAMAGED, where=path, hint=hint) from error


def _is_image_name(name: str) -> bool:
    name = PurePosixPath(name).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _printable(name: str) -> str:
    """Replace bytes of file names that are not UTF-8, which could not be printed."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _open_file(file: ImageFile) -> IO[bytes]:
    if not file.path.is_file():  # a broken link, or a pipe that would never end
        raise ValueError("not a regular file")
    _check_size(file.path.stat().st_size)
    return file.path.open("rb")


def _check_size(size: int) -> None:
    if size > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES >> 30} GiB")
