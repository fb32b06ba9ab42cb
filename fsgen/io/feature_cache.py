"""Features of images that were computed before, below ``home()``: one safetensors file an entry.

An entry is named by its key, carries a seal over all that is in it, and is believed only where both hold.
The cache is a convenience: whatever is wrong with it, one line says so and the features are computed.
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

from fsgen.errors import FsgenError
from fsgen.io import checkpoint
from fsgen.io.cache_folders import home, make_folder

FORMAT = "fsgen-features/1"
LIMIT = 4 << 30  # bytes of all entries together
_ABANDONED = 24 * 3600  # seconds after which a temporary file has nobody left who writes it

Say = Callable[[str], None]


@dataclass(frozen=True)
class CachedFeatures:
    """What was kept."""

    features: Tensor  # float32 [n, d]
    about: dict[str, Any]  # the plain values that were kept beside them


def features_dir() -> Path:
    """Where the entries are."""
    return home() / "features"


def entry_path(key: Mapping[str, Any]) -> Path:
    """The file of an entry."""
    return features_dir() / f"{_sha256({'format': FORMAT, 'key': dict(key)})}.safetensors"


def lookup(key: Mapping[str, Any], say: Say | None = None) -> CachedFeatures | None:
    """What ``store`` kept under ``key``, or None.

    Args:
        key: plain values that name everything the features depend on: which images, at which resolution,
            through which network.
        say: told in one line where there is an entry that is damaged.
    """
    path = entry_path(key)
    version = _version(path)
    if version is None:
        return None
    try:
        entry = _opened(path, dict(key))
    except Exception:  # readers raise nearly anything on a damaged file, and none of it matters here
        if _version(path) != version:  # another process replaced it between two looks of the reader's
            return lookup(key, say)
        if say:
            say(f"the cached features in {path} are damaged: computing them again")
        return None
    with suppress(OSError):  # a folder that may only be read
        os.utime(path)  # the entry that was not used for longest goes first
    return entry


def store(key: Mapping[str, Any], features: Tensor, about: Mapping[str, Any], say: Say | None = None) -> bool:
    """Keep ``features`` under ``key``, in place of entries not used for long; whether that worked.

    Args:
        key: as for ``lookup``.
        features: float32 [n, d].
        about: plain values to keep beside them, such as ``Pile.scan_state()``.
        say: told in one line why they could not be kept.
    """
    if features.dtype != torch.float32 or features.ndim != 2:
        raise ValueError(f"expected float32 [n, d], got {features.dtype} {list(features.shape)}")
    path, tensors = entry_path(key), {"features": features}
    content = json.loads(json.dumps({"kind": FORMAT, "key": dict(key), "about": dict(about)}))
    try:
        make_folder(path.parent)
        _make_room(path, features.nbytes)
        checkpoint.write_file(path, tensors, {**content, "seal": _seal(content, tensors)})
    except (FsgenError, OSError, SafetensorError) as error:
        if say:
            reason = error.message if isinstance(error, FsgenError) else str(error)
            say(f"the features are not kept for next time: {reason}")
        return False
    return True


def _opened(path: Path, key: dict[str, Any]) -> CachedFeatures:
    """The entry in ``path``, checked.

    Raises:
        Exception: it is damaged, of another kind, or another entry's.
    """
    mapped, header = checkpoint.read_file(path)
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}  # what is checked is what is used
    content = {name: header[name] for name in ("kind", "key", "about")}
    if content["kind"] != FORMAT or content["key"] != json.loads(json.dumps(key)):
        raise ValueError("another entry")
    if header["seal"] != _seal(content, tensors):
        raise ValueError("changed since it was written")
    return CachedFeatures(tensors["features"], content["about"])


def _version(path: Path) -> tuple[int, int] | None:
    """Changes when the file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _seal(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over everything in an entry."""
    return _sha256({**content, "tensors": checkpoint.hash_tensors(tensors)})


def _sha256(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _make_room(path: Path, size: int) -> None:
    """Remove what was not used for longest until ``size`` bytes more are within ``LIMIT``.

    What stands at ``path`` is about to be replaced and does not count.

    Raises:
        FsgenError: they never will be.
    """
    if size > LIMIT:
        raise FsgenError(f"they are larger than {LIMIT / 2**30:g} GiB, all that the cache may hold")
    entries = []
    for other in path.parent.glob("*.safetensors"):
        with suppress(OSError):  # another process has removed it
            status = other.stat()
            if not other.name.startswith("."):
                entries.append((status.st_mtime, status.st_size, other))
            elif time.time() - status.st_mtime > _ABANDONED:  # a killed process left it behind
                other.unlink()
    others = sorted(entry for entry in entries if entry[2] != path)
    total = size + sum(held for _, held, _ in others)
    for _, held, other in others:
        if total <= LIMIT:
            break
        with suppress(OSError):
            other.unlink(missing_ok=True)
            total -= held
