"""What a downloaded file must be: the one published, by its checksum, or else what its address gave first.

Those first checksums stand in ``downloads.json`` under ``home()``. A file on its way is ``NAME.part``, with
``NAME.part.json`` telling which version of it the server was sending.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsgen.atomic import atomic
from fsgen.errors import Code, FsgenError
from fsgen.io.cache_folders import home, make_folder

_CHUNK = 1 << 20
_DIGITS = 64  # of a SHA-256 in hex


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def ledger_path() -> Path:
    """The file that holds the checksums of what was downloaded without a published one."""
    return home() / "downloads.json"


def _ledger() -> dict[str, dict[str, Any]]:
    try:
        return json.loads(ledger_path().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FsgenError(
            f"{ledger_path()}, which holds the checksums of earlier downloads, is damaged",
            hint="mend it, or delete it to record them anew",
        ) from error


def recorded_hash(address: str) -> str | None:
    """The SHA-256 of what ``address`` gave the first time; None where that is not known."""
    return _ledger().get(address, {}).get("sha256")


def verify(address: str, path: Path, sha256: str | None) -> None:
    """Hold ``path`` to ``sha256``, else to what ``address`` gave the first time; record that where it is new.

    Where only the leading digits of ``sha256`` are known, it is held to both.

    Raises:
        FsgenError: it is another file.
    """
    found = hash_file(path)
    if sha256 is not None and not found.startswith(sha256.lower()):
        raise FsgenError(
            f"{address} did not send the published file: its SHA-256 is {found}, not {sha256.lower()}"
            + ("..." if len(sha256) < _DIGITS else ""),
            hint="try again; if it stays so, the file was changed or tampered with: don't use it",
        )
    if sha256 is not None and len(sha256) == _DIGITS:
        return
    known = _ledger()
    before = known.get(address)
    if before is None:
        today = datetime.now(UTC).date().isoformat()
        known[address] = {"sha256": found, "bytes": path.stat().st_size, "date": today}
        make_folder(home())
        with atomic(ledger_path()) as temporary:
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")
    elif before["sha256"] != found:
        raise FsgenError(
            f"the file at {address} has changed since {before['date']}: its SHA-256 was {before['sha256']} "
            f"and is now {found}",
            hint=f"if the change is intended, delete its entry from {ledger_path()} and try again",
        )


def is_downloaded(address: str, dest: Path, sha256: str | None) -> bool:
    known = sha256 if sha256 and len(sha256) == _DIGITS else recorded_hash(address) or sha256
    return known is not None and dest.is_file() and hash_file(dest).startswith(known.lower())


def part_path(dest: Path) -> Path:
    return dest.with_name(dest.name + ".part")


def note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    note_path(part).unlink(missing_ok=True)


def accept(address: str, part: Path, dest: Path, sha256: str | None) -> Path:
    """``part``, complete, checked and moved to ``dest``; thrown away where it is the wrong file."""
    try:
        verify(address, part, sha256)
    except FsgenError:
        discard(part)
        raise
    with disk_errors(part):
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(dest)
    discard(part)
    return dest


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the disk's errors in writing ``path`` into words."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) or error from error


def disk_error(error: Exception, path: Path) -> FsgenError | None:
    """``error`` in words if it is about the disk or the folder of ``path``, else None."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(path)
    if number not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return None
    hint = "choose a folder you may write to, or change its permissions"
    return FsgenError(f"{path.name} cannot be written into {path.parent}: {os.strerror(number)}", hint=hint)


def disk_full(path: Path, need: str = "") -> FsgenError:
    return FsgenError(
        f"the disk is full: {path.parent} has no room for {path.name.removesuffix('.part')}{need}",
        hint="free some space and try again: the download goes on where it stopped",
        code=Code.DOWNLOAD,
    )
