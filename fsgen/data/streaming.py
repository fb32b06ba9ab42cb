"""Image sets of any size: decoded on demand, a few batches ahead, never kept in memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import IO, Any

import torch
from torch import Tensor

from fsgen.config import PlainDict
from fsgen.data.decode import PILLOW_LIMITS, Fit, decode, decoder_version, reason
from fsgen.data.files import ImageFile, find_images, opener
from fsgen.errors import Code, FsgenError

THREADS = min(4, os.cpu_count() or 1)
_TURN = 8  # files per task of a thread
_CHUNK = 1 << 20  # bytes
_Open = Callable[[ImageFile], IO[bytes]]
_Decode = Callable[[bytes], tuple[Tensor, tuple[int, int]]]  # -> pixels, (width, height) of the file


@dataclass
class _File:
    """An image file and the results of passes so far."""

    item: ImageFile
    sha256: str | None = None  # of its bytes
    size: tuple[int, int] | None = None  # (width, height) once decoded
    fault: str | None = None  # reason why it cannot be decoded


@dataclass(frozen=True)
class _Result:
    """Result of reading or decoding a file once."""

    sha256: str | None = None
    size: tuple[int, int] | None = None
    fault: str | None = None
    pixels: Tensor | None = None  # uint8 [C, R, R]


class ImageStream:
    """Image files in the order of their names; image i is the i-th file that can be decoded.

    A pass (``batches``) or an earlier one's ``scan_state`` tells which files can be; until then, damaged
    files are counted too. A file that changes later raises an error, so that all passes give equal images.
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
        """Image names relative to the folder or archive."""
        return [file.item.name for file in self._images()]

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each image file's bytes."""
        while unread := [file for file in self._images() if file.sha256 is None]:
            self._hash(unread)  # with a limit, the next file replaces an unreadable one
        return [file.sha256 for file in self._images() if file.sha256 is not None]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Name and reason of each file that could not be read."""
        return [(file.item.name, file.fault) for file in self._files if file.fault is not None]

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted hashes, which identifies the images regardless of their names."""
        return hash_images(self.hashes)

    @property
    def pixel_hash(self) -> str:
        """SHA-256 that identifies the pixels of ``batches``, given its arguments: for cache keys.

        It covers the bytes of all readable files in order, the limit and the decoder, and does not depend on
        earlier passes.
        """
        self._hash([file for file in self._files if file.sha256 is None and file.fault is None])
        limit = "" if self._limit == len(self._files) else str(self._limit)
        hashes = [file.sha256 for file in self._files if file.sha256 is not None]
        return hashlib.sha256("\n".join([decoder_version(), limit, *hashes]).encode()).hexdigest()

    @property
    def resized(self) -> int:
        """Number of images decoded so far whose size was not that of the last ``batches`` call."""
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
        """Yield the images in order, uint8 [n, channels, resolution, resolution]; the last n may be smaller.

        Args:
            resolution: side of the result, pixels.
            batch: n; about two more batches are decoded ahead.
            fit: ``crop`` the centre square, or ``pad`` to a square with white.
            channels: 3 (RGB) or 1 (grey).
            rows: indices of the images to yield, in ascending order; those beyond the last are ignored.

        Raises:
            FsgenError: no file can be read, or one has changed since an earlier pass.
        """
        self._resolution = resolution
        decode_file = partial(decode, resolution=resolution, fit=fit, channels=channels)
        ready: list[Tensor] = []
        for pixels in self._decoded(decode_file, 2 * batch + THREADS, rows):
            ready.append(pixels)
            if len(ready) == batch:
                yield torch.stack(ready)
                ready = []
        if ready:
            yield torch.stack(ready)

    def scan_state(self) -> PlainDict:
        """Results of passes so far, as plain values for ``load_scan_state``."""
        files = []
        for file in self._files:
            if file.size is None and file.fault is None:
                break
            if file.sha256 is not None:  # an unreadable file changes no image
                files.append([file.sha256, file.size and list(file.size), file.fault])
        return {"resolution": self._resolution, "files": files}

    def load_scan_state(self, state: Mapping[str, Any]) -> bool:
        """Load the ``scan_state`` of an earlier pass and report the files it skipped.

        Returns False, without any change, if the state is of other files.
        """
        self._hash([file for file in self._files if file.sha256 is None and file.fault is None])
        readable = [file for file in self._files if file.sha256 is not None]
        found = [(sha256, size and tuple(size), fault) for sha256, size, fault in state["files"]]
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
        self._resolution = state["resolution"]
        return True

    def _images(self) -> list[_File]:
        """Files that are images, as far as known."""
        return [file for file in self._files if file.fault is None][: self._limit]

    def _known(self) -> list[_File]:
        """Files that were decoded; passes go in order, so these come first."""
        return [file for file in self._images() if file.size is not None]

    def _decoded(self, decode_file: _Decode, ahead: int, rows: Collection[int] | None) -> Iterator[Tensor]:
        """Yield uint8 [C, R, R] of each requested image; decoding new files determines their indices."""
        known = self._known()
        wanted = range(self._limit) if rows is None else frozenset(rows)
        end = min(self._limit, max(wanted, default=-1) + 1)
        again = [file for row, file in enumerate(known) if row in wanted]
        new = [file for file in self._files if file.size is None and file.fault is None]
        queue, row = again + (new if len(known) < end else []), len(known)
        with opener(self._files[0].item) as open_, PILLOW_LIMITS:
            work = partial(_decode_file, open_=open_, decode_file=decode_file)
            with closing(_parallel(work, queue, ahead)) as results:
                for index, (file, result) in enumerate(results):
                    self._record(file, result)
                    if result.pixels is None:
                        continue
                    numbered = index < len(again)
                    if numbered or row in wanted:
                        yield result.pixels
                    row += not numbered
                    if row == end and not numbered:
                        break
        if not self._images():
            self._refuse()

    def _record(self, file: _File, result: _Result) -> None:
        """Record the result of decoding a file.

        Raises:
            FsgenError: an earlier result differs.
        """
        changed = file.sha256 is not None and result.sha256 != file.sha256
        if changed or (file.size is not None and result.fault is not None):
            why = "it has changed" if changed and result.sha256 else result.fault
            message = f"{file.item.name} in {self._path} is no longer the file read first: {why}"
            hint = "start again when no program is writing there"
            raise FsgenError(message, code=Code.SYSTEM, where=file.item.name, hint=hint)
        file.sha256 = result.sha256
        if result.fault is not None:
            self._skip(file, result.fault)
        else:
            file.size = result.size

    def _hash(self, files: list[_File]) -> None:
        if not files:
            return
        with opener(files[0].item) as open_:
            for file, result in _parallel(partial(_hash_file, open_=open_), files, 16 * THREADS):
                file.sha256 = result.sha256
                if result.fault is not None:
                    self._skip(file, result.fault)
        if not self._images():
            self._refuse()

    def _skip(self, file: _File, fault: str) -> None:
        if file.fault is None:
            file.fault = fault
            self._say(f"skipped {file.item.name}: {fault}")

    def _refuse(self) -> None:
        (name, fault), n = self.skipped[0], len(self._files)
        which = f"none of the {n} image files in {self._path}" if n > 1 else f"no image in {self._path}"
        hint = "check that the files open in an image viewer, or export them again as PNG"
        message = f"{which} can be read ({name}: {fault})"
        raise FsgenError(message, code=Code.DAMAGED, where=self._path, hint=hint)


def open_images(
    path: Path | str, *, say: Callable[[str], None] | None = None, limit: int | None = None
) -> ImageStream:
    """Find the images at ``path``, without decoding or reading them.

    Args:
        path: as for ``find_images``.
        say: called with one line about each skipped file.
        limit: use the first ``limit`` images.

    Raises:
        FsgenError: as ``find_images``; a limit below 1.
    """
    if limit is not None and limit < 1:
        raise FsgenError(
            f"{limit} images are too few", code=Code.OUT_OF_RANGE, where=limit, hint="at least 1"
        )
    return ImageStream(path, find_images(path), say, limit)


def hash_images(hashes: Iterable[str]) -> str:
    """SHA-256 over the sorted hashes."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def _decode_file(file: _File, open_: _Open, decode_file: _Decode) -> _Result:
    sha256 = None
    try:
        with open_(file.item) as stream:
            data = stream.read()
        sha256 = hashlib.sha256(data).hexdigest()
        pixels, size = decode_file(data)
    except Exception as error:  # decoders raise nearly anything on a damaged file
        return _Result(sha256, fault=reason(error))
    return _Result(sha256, size, None, pixels)


def _hash_file(file: _File, open_: _Open) -> _Result:
    total = hashlib.sha256()
    try:
        with open_(file.item) as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    except Exception as error:  # so does zipfile
        return _Result(fault=reason(error))
    return _Result(total.hexdigest())


def _parallel(
    work: Callable[[_File], _Result], files: list[_File], ahead: int
) -> Generator[tuple[_File, _Result], None, None]:
    """Yield each file with its result, in order; threads work about ``ahead`` files further.

    A task has several files, since decoding a small image takes less time than passing it between threads.
    """
    pending: deque[Future[list[tuple[_File, _Result]]]] = deque()
    pool, stopped = ThreadPoolExecutor(THREADS, "images"), Event()

    def turn(part: list[_File]) -> list[tuple[_File, _Result]]:
        return [(file, work(file)) for file in part if not stopped.is_set()]

    try:
        for start in range(0, len(files), _TURN):
            pending.append(pool.submit(turn, files[start : start + _TURN]))
            if len(pending) * _TURN > ahead:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:  # also if the consumer stops early
        stopped.set()
        pool.shutdown(cancel_futures=True)
