"""Sets of images of any size: decoded when they are asked for, a few batches ahead, and never kept."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from fsgen.data.decode import PILLOW_LIMITS, Fit, decode, decoder_version, reason
from fsgen.data.files import ImageFile, find_images, opener
from fsgen.errors import Code, FsgenError

THREADS = min(4, os.cpu_count() or 1)
_TURN = 8  # files that a thread takes at once
_CHUNK = 1 << 20  # bytes
_Open = Callable[[ImageFile], BinaryIO]
_Look = Callable[[bytes], tuple[Tensor, tuple[int, int]]]
T, R = TypeVar("T"), TypeVar("R")


@dataclass
class _File:
    """A file that should hold an image, and what is known of it by now."""

    item: ImageFile
    sha256: str | None = None  # of its bytes
    size: tuple[int, int] | None = None  # (width, height): it was decoded
    fault: str | None = None  # why it cannot be


@dataclass(frozen=True)
class _Seen:
    """What came of one attempt at a file."""

    sha256: str | None = None
    size: tuple[int, int] | None = None
    fault: str | None = None
    pixels: Tensor | None = None  # uint8 [C, R, R]


class ImageStream:
    """Image files in the order of their names; image i is the i-th of those that can be decoded.

    Which those are is known as far as a pass (``batches``) has come, or from what an earlier one has
    ``learned``. Until then, files that will turn out damaged are counted in. What was said of a file holds:
    one that changes later is an error, so that every pass gives the same images.
    """

    def __init__(
        self, path: Path | str, items: list[ImageFile], say: Callable[[str], None] | None, limit: int | None
    ) -> None:
        self._path, self._say = path, say or (lambda line: None)
        self._files = [_File(item) for item in items]
        self._limit = min(limit or len(items), len(items))
        self._resolution: int | None = None

    def __len__(self) -> int:
        return len(self._images())

    @property
    def names(self) -> list[str]:
        """Of the images, relative to the folder or archive."""
        return [file.item.name for file in self._images()]

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each image file's bytes."""
        while unread := [file for file in self._images() if file.sha256 is None]:
            self._hash(unread)  # an unreadable one gives way to the next where there is a limit
        return [file.sha256 for file in self._images()]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Name and reason of each file that could not be read."""
        return [(file.item.name, file.fault) for file in self._files if file.fault is not None]

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted hashes: which images these are, whatever they are called."""
        return hash_images(self.hashes)

    @property
    def pixel_hash(self) -> str:
        """SHA-256 that names the pixels of ``batches``, given its arguments: a key for what they lead to.

        It covers the bytes of all readable files in their order, the limit and the decoder; it is the same
        before and after a pass.
        """
        self._hash([file for file in self._files if file.sha256 is None and file.fault is None])
        limit = "" if self._limit == len(self._files) else str(self._limit)
        hashes = [file.sha256 for file in self._files if file.sha256 is not None]
        return hashlib.sha256("\n".join([decoder_version(), limit, *hashes]).encode()).hexdigest()

    @property
    def resized(self) -> int:
        """How many of the images decoded so far were not squares of the resolution asked for last."""
        square = (self._resolution, self._resolution)
        return sum(file.size not in (None, square) for file in self._images())

    def batches(
        self,
        resolution: int,
        batch: int,
        *,
        fit: Fit = "crop",
        channels: int = 3,
        rows: Collection[int] | None = None,
    ) -> Iterator[Tensor]:
        """The images in order, uint8 [n, channels, resolution, resolution], n = ``batch`` but in the last.

        Args:
            resolution: side of the result, pixels.
            batch: images at a time; about two batches more are held, decoded ahead.
            fit: ``crop`` the centre square, or ``pad`` to a square with white.
            channels: 3 (RGB) or 1 (grey).
            rows: only these images, in order of their numbers; numbers beyond the last give nothing.

        Raises:
            FsgenError: not one file can be read, or one is not what it was in an earlier pass.
        """
        self._resolution = resolution
        look = partial(decode, resolution=resolution, fit=fit, channels=channels)
        ready: list[Tensor] = []
        for pixels in self._decoded(look, 2 * batch + THREADS, rows):
            ready.append(pixels)
            if len(ready) == batch:
                yield torch.stack(ready)
                ready = []
        if ready:
            yield torch.stack(ready)

    def scan_state(self) -> dict[str, Any]:
        """What passes have found out so far, as plain values for ``recall``."""
        files = []
        for file in self._files:
            if file.size is None and file.fault is None:
                break
            if file.sha256 is not None:  # one that cannot even be read may come and go, and nothing changes
                files.append([file.sha256, file.size and list(file.size), file.fault])
        return {"resolution": self._resolution, "files": files}

    def load_scan_state(self, learned: Mapping[str, Any]) -> bool:
        """Take over what an earlier pass has ``learned``, and say what it skipped.

        False, and nothing changes, where it was about other files.
        """
        self._hash([file for file in self._files if file.sha256 is None and file.fault is None])
        readable = [file for file in self._files if file.sha256 is not None]
        found = [(sha256, size and tuple(size), fault) for sha256, size, fault in learned["files"]]
        if len(found) > len(readable):
            return False
        for file, (sha256, size, fault) in zip(readable, found, strict=False):
            unknown = file.size is None and file.fault is None
            if sha256 != file.sha256 or not (unknown or (file.size, file.fault) == (size, fault)):
                return False
        for file, (_, size, fault) in zip(readable, found, strict=False):
            file.size = size
            if fault is not None:
                self._skip(file, fault)
        self._resolution = learned["resolution"]
        return True

    def _images(self) -> list[_File]:
        """The files that hold an image, or may."""
        return [file for file in self._files if file.fault is None][: self._limit]

    def _known(self) -> list[_File]:
        """The files that are known to hold an image; passes go in order, so that these come first."""
        return [file for file in self._images() if file.size is not None]

    def _decoded(self, look: _Look, ahead: int, rows: Collection[int] | None) -> Iterator[Tensor]:
        """uint8 [C, R, R] of each image asked for; what number a file has that is new, decoding tells."""
        known = self._known()
        wanted = range(self._limit) if rows is None else frozenset(rows)
        end = min(self._limit, max(wanted, default=-1) + 1)
        again = [file for row, file in enumerate(known) if row in wanted]
        new = [file for file in self._files if file.size is None and file.fault is None]
        queue, row = again + (new if len(known) < end else []), len(known)
        with opener(self._files[0].item) as open_, PILLOW_LIMITS:
            work = partial(_seen, open_=open_, look=look)
            with closing(_parallel(work, queue, ahead)) as results:
                for index, (file, seen) in enumerate(results):
                    if not self._settled(file, seen):
                        continue
                    numbered = index < len(again)
                    if numbered or row in wanted:
                        yield seen.pixels
                    row += not numbered
                    if row == end and not numbered:
                        break
        if not self._images():
            self._refuse()

    def _settled(self, file: _File, seen: _Seen) -> bool:
        """Note what was seen of a file; whether it is an image.

        Raises:
            FsgenError: it was seen otherwise before.
        """
        changed = file.sha256 is not None and seen.sha256 != file.sha256
        if changed or (file.size is not None and seen.fault is not None):
            why = "it has changed" if changed and seen.sha256 else seen.fault
            raise FsgenError(
                f"{file.item.name} in {self._path} is no longer what it was at first: {why}",
                hint="start again when nothing else is writing there",
                code=Code.SYSTEM,
            )
        file.sha256 = seen.sha256
        if seen.fault is not None:
            self._skip(file, seen.fault)
            return False
        file.size = seen.size
        return True

    def _hash(self, files: list[_File]) -> None:
        if not files:
            return
        with opener(files[0].item) as open_:
            for file, seen in _parallel(partial(_hashed, open_=open_), files, 16 * THREADS):
                file.sha256 = seen.sha256
                if seen.fault is not None:
                    self._skip(file, seen.fault)
        if not self._images():
            self._refuse()

    def _skip(self, file: _File, fault: str) -> None:
        if file.fault is None:
            file.fault = fault
            self._say(f"skipped {file.item.name}: {fault}")

    def _refuse(self) -> None:
        (name, fault), n = self.skipped[0], len(self._files)
        which = f"none of the {n} image files in {self._path}" if n > 1 else f"no image in {self._path}"
        raise FsgenError(
            f"{which} can be read ({name}: {fault})",
            hint="check that the files open in an image viewer, or export them again as PNG",
        )


def open_images(
    path: Path | str, *, say: Callable[[str], None] | None = None, limit: int | None = None
) -> ImageStream:
    """The images at ``path``; nothing is decoded, and nothing read before its hash is asked for.

    Args:
        path: as for ``find_images``.
        say: told in one line about each file that has to be skipped.
        limit: the first that many images.

    Raises:
        FsgenError: as ``find_images``.
    """
    if limit is not None and limit < 1:
        raise FsgenError(f"{limit} images are too few", hint="ask for at least 1")
    return ImageStream(path, find_images(path), say, limit)


def hash_images(hashes: Iterable[str]) -> str:
    """SHA-256 over the sorted hashes."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def _seen(file: _File, open_: _Open, look: _Look) -> _Seen:
    sha256 = None
    try:
        with open_(file.item) as stream:
            data = stream.read()
        sha256 = hashlib.sha256(data).hexdigest()
        pixels, size = look(data)
    except Exception as error:  # decoders raise nearly anything on a damaged file
        return _Seen(sha256, fault=reason(error))
    return _Seen(sha256, size, None, pixels)


def _hashed(file: _File, open_: _Open) -> _Seen:
    total = hashlib.sha256()
    try:
        with open_(file.item) as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    except Exception as error:  # so does zipfile
        return _Seen(fault=reason(error))
    return _Seen(total.hexdigest())


def _parallel(work: Callable[[T], R], things: list[T], ahead: int) -> Iterator[tuple[T, R]]:
    """Each of ``things`` with what ``work`` makes of it, in order; threads are about ``ahead`` further.

    They take a few at a time: small images are decoded faster than they are handed from thread to thread.
    """
    pool, pending, enough = ThreadPoolExecutor(THREADS, "images"), deque(), Event()

    def turn(part: list[T]) -> list[tuple[T, R]]:
        return [(thing, work(thing)) for thing in part if not enough.is_set()]

    try:
        for start in range(0, len(things), _TURN):
            pending.append(pool.submit(turn, things[start : start + _TURN]))
            if len(pending) * _TURN > ahead:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:  # also where the consumer has seen enough
        enough.set()
        pool.shutdown(cancel_futures=True)
