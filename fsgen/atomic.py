"""Atomic file writes: a reader finds the old file or the new one, whatever kills the writer. No torch."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsgen.errors import Code, FsgenError

FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS}


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it over ``path`` on success, remove it on failure.

    The temporary file exists, is empty and has the suffix of ``path``, which Pillow and others inspect; its
    name starts with a dot, so that folder listings skip it.

    Raises:
        FsgenError: full disk (exit code 1); absent or read-only folder (2).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        with explain_errors(path):
            temporary.touch(mode=0o666, exist_ok=False)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file through ``atomic``; the same errors."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_temporaries(folder: Path) -> None:
    """Remove temporary files of killed ``atomic`` calls from ``folder``."""
    for file in folder.glob(".*"):
        if re.fullmatch(r"\..{1,40}\.[0-9a-f]{8}(\.\w+)?", file.name):
            with suppress(OSError):
                file.unlink()


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Raise system errors in writing ``path`` as ``FsgenError``; other errors pass unchanged.

    Raises:
        FsgenError: as ``atomic``.
    """
    try:
        yield
    except Exception as error:
        explained = disk_error(error, path)
        if explained is None:
            raise
        raise explained from error


def disk_error(error: Exception, path: Path) -> FsgenError | None:
    """Convert an error about the disk or the folder of ``path`` to an ``FsgenError``; None for others."""
    folder = path.parent
    number = getattr(error, "errno", None)
    # Writers in Rust (safetensors) put the system's error number only into their text.
    if number in FULL or f"os error {errno.ENOSPC}" in str(error):
        hint = "free some space or choose another folder, then try again; existing files are unchanged"
        message = f"the disk is full: {path} could not be written"
        return FsgenError(message, code=Code.SYSTEM, where=path, hint=hint)
    culprit = getattr(error, "filename", None)
    elsewhere = isinstance(culprit, str) and Path(culprit).parent != folder
    if number not in _REFUSED or elsewhere:
        return None
    if not folder.exists():
        message, hint = f"there is no folder {folder} for {path.name}", f"create it: mkdir -p '{folder}'"
    else:
        message = f"{path.name} cannot be written into {folder}: {os.strerror(number)}"
        hint = "choose a folder you may write to, or change its permissions"
    return FsgenError(message, code=Code.UNWRITABLE, where=path, hint=hint)
