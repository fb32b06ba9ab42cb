"""Files that are either the old one or the new one, whole, whatever kills the program while it writes.

Floor 0: no torch.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsgen.errors import Code, FsgenError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS}


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path``, moved over it when the block ends, removed when it fails.

    The temporary file exists, is empty, and has the suffix of ``path`` (Pillow and others look at it); its
    name starts with a dot, so that a listing of the folder skips it. The block may open it as it likes.

    Raises:
        FsgenError: the disk is full (code 1); the folder is absent or may not be written to (code 2).
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


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files in ``folder`` that a killed ``atomic`` left behind."""
    for left in folder.glob(".*"):
        if re.fullmatch(r"\..{1,40}\.[0-9a-f]{8}(\.\w+)?", left.name):
            with suppress(OSError):
                left.unlink()


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Turns what the system says about writing ``path`` into an ``FsgenError``; other errors pass.

    Raises:
        FsgenError: as ``atomic``.
    """
    try:
        yield
    except Exception as error:
        explained = _explained(error, path)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, path: Path) -> FsgenError | None:
    """``error`` in words if it is about the disk or the folder of ``path``, else None."""
    folder = path.parent
    number = getattr(error, "errno", None)
    # Writers in Rust (safetensors) report the system's error in their text alone.
    if number in _FULL or f"os error {errno.ENOSPC}" in str(error):
        return FsgenError(
            f"the disk is full: {path} could not be written",
            hint="free some space or choose another folder; what stood there before is intact",
            code=Code.SYSTEM,
        )
    culprit = getattr(error, "filename", None)
    elsewhere = isinstance(culprit, str) and Path(culprit).parent != folder
    if number not in _REFUSED or elsewhere:
        return None
    if not folder.exists():
        hint = f"create it first: mkdir -p '{folder}'"
        return FsgenError(f"there is no folder {folder} to write {path.name} into", hint=hint)
    hint = "choose a folder you may write to, or change its permissions"
    return FsgenError(f"{path.name} cannot be written into {folder}: {os.strerror(number)}", hint=hint)
