"""Cache of computed image features in ``features_dir()``: one safetensors file per entry.

An entry is named by its key and contains a hash of its content; it is used only if both match. An unusable
cache costs one line of output, and the features are computed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.io import checkpoint
from fsgen.io.cache_folders import home, make_folder

FORMAT = "fsgen-features/1"
LIMIT = 4 << 30  # bytes of all entries together
_ABANDONED = 24 * 3600  # seconds after which no process can still be writing a temporary file

Say = Callable[[str], None]


@dataclass(frozen=True)
class CachedFeatures:
    """One entry."""

    features: Tensor  # float32 [n, d]
    about: PlainDict  # the plain values stored with them


def features_dir() -> Path:
    """Folder of the entries."""
    return home() / "features"


def entry_path(key: Mapping[str, Any]) -> Path:
    """File of the entry with ``key``."""
    return features_dir() / f"{_sha256({'format': FORMAT, 'key': dict(key)})}.safetensors"


def lookup(key: Mapping[str, Any], say: Say | None = None) -> CachedFeatures | None:
    """Read the entry stored under ``key``; None if absent or damaged.

    Args:
        key: plain values that identify everything the features depend on: images, resolution, network.
        say: called with one line about a damaged entry.
    """
    path = entry_path(key)
    version = _version(path)
    if version is None:
        return None
    try:
        entry = _read_entry(path, dict(key))
    except Exception:  # readers raise nearly anything on a damaged file
        if _version(path) != version:  # another process replaced it while it was read
            return lookup(key, say)
        if say:
            say(f"the cached features in {path} are damaged: computing them again")
        return None
    with suppress(OSError):  # read-only folder
        os.utime(path)  # the least recently used entry is removed first
    return entry


def store(key: Mapping[str, Any], features: Tensor, about: Mapping[str, Any], say: Say | None = None) -> bool:
    """Store ``features`` under ``key``, replacing the least recently used entries; return True if stored.

    Args:
        key: as for ``lookup``.
        features: float32 [n, d].
        about: plain values to store with them, such as ``ImageStream.scan_state()``.
        say: called with one line if they could not be stored.
    """
    if features.dtype != torch.float32 or features.ndim != 2:
        raise ValueError(f"expected float32 [n, d], got {features.dtype} {list(features.shape)}")
    path, tensors = entry_path(key), {"features": features}
    content = json.loads(json.dumps({"kind": FORMAT, "key": dict(key), "about": dict(about)}))
    try:
        make_folder(path.parent)
        _make_room(path, features.nbytes)
        checkpoint.write_file(path, tensors, {**content, "seal": _hash_entry(content, tensors)})
    except (FsgenError, OSError, SafetensorError) as error:
        if say:
            reason = error.message if isinstance(error, FsgenError) else str(error)
            say(f"the features are not cached: {reason}")
        return False
    return True


def _read_entry(path: Path, key: PlainDict) -> CachedFeatures:
    """Read and check the entry in ``path``.

    Raises:
        Exception: damaged, of another kind, or of another key.
    """
    mapped, header = checkpoint.read_file(path)
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}  # the file may change after the check
    content = {name: header[name] for name in ("kind", "key", "about")}
    if content["kind"] != FORMAT or content["key"] != json.loads(json.dumps(key)):
        raise ValueError("another entry")
    if header["seal"] != _hash_entry(content, tensors):
        raise ValueError("changed since it was written")
    return CachedFeatures(tensors["features"], content["about"])


def _version(path: Path) -> tuple[int, int] | None:
    """Inode and modification time of the file; None if absent."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _hash_entry(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the whole content of an entry."""
    return _sha256({**content, "tensors": checkpoint.hash_tensors(tensors)})


def _sha256(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _make_room(path: Path, size: int) -> None:
    """Remove the least recently used entries until ``size`` more bytes fit within ``LIMIT``.

    The file at ``path`` will be replaced and does not count.

    Raises:
        FsgenError: ``size`` exceeds ``LIMIT``.
    """
    if size > LIMIT:
        message = f"they exceed the cache's size of {LIMIT / 2**30:g} GiB"
        raise FsgenError(message, code=Code.SYSTEM, where=path.parent)
    entries = []
    for other in path.parent.glob("*.safetensors"):
        with suppress(OSError):  # another process has removed it
            status = other.stat()
            if not other.name.startswith("."):
                entries.append((status.st_mtime, status.st_size, other))
            elif time.time() - status.st_mtime > _ABANDONED:  # its process was killed
                other.unlink()
    others = sorted(entry for entry in entries if entry[2] != path)
    total = size + sum(used for _, used, _ in others)
    for _, used, other in others:
        if total <= LIMIT:
            break
        with suppress(OSError):
            other.unlink(missing_ok=True)
            total -= used
