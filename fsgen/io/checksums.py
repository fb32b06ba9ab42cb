"""Checksums of downloads: the published SHA-256, or else that of the first download from an address.

First checksums are recorded in ``downloads.json`` under ``home()``. An unfinished download is ``NAME.part``;
``NAME.part.json`` records its address and version.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from fsgen.atomic import atomic, explain_errors
from fsgen.config import PlainDict
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
    """File with the checksums of downloads that have no published one."""
    return home() / "downloads.json"


def _ledger() -> dict[str, PlainDict]:
    try:
        return json.loads(ledger_path().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        message = f"{ledger_path()}, the record of download checksums, is damaged"
        hint = "repair it, or delete it to record them anew"
        raise FsgenError(message, code=Code.DAMAGED, where=ledger_path(), hint=hint) from error


def recorded_hash(address: str) -> str | None:
    """SHA-256 of the first download from ``address``; None if there was none."""
    return _ledger().get(address, {}).get("sha256")


def verify(address: str, path: Path, sha256: str | None) -> None:
    """Compare ``path`` with ``sha256``, else with the first download from ``address``; record a first one.

    A ``sha256`` of leading digits only is compared, and the first download as well.

    Raises:
        FsgenError: a different file.
    """
    found = hash_file(path)
    if sha256 is not None and not found.startswith(sha256.lower()):
        more = "..." if len(sha256) < _DIGITS else ""
        raise FsgenError(
            f"{address} did not send the published file: its SHA-256 is {found}, not {sha256.lower()}{more}",
            code=Code.CHANGED,
            where=address,
            hint="try again; if this persists, the file was changed or tampered with: don't use it",
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
            code=Code.CHANGED,
            where=address,
            hint=f"if the change is intended, delete its entry from {ledger_path()} and try again",
        )


def is_downloaded(address: str, dest: Path, sha256: str | None) -> bool:
    """True if ``dest`` has the known checksum of ``address``."""
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
    """Verify the complete ``part`` and move it to ``dest``; discard a wrong file."""
    try:
        verify(address, part, sha256)
    except FsgenError:
        discard(part)
        raise
    with explain_errors(part):
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(dest)
    discard(part)
    return dest
