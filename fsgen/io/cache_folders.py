"""Where fsgen keeps what it downloads and computes. Naming a folder does not create it: ``made`` does."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from fsgen.errors import Code, FsgenError


def home() -> Path:
    """FSGEN_HOME, else XDG_CACHE_HOME/fsgen, else the platform's cache folder; absolute."""
    if chosen := os.environ.get("FSGEN_HOME"):
        return Path(chosen).expanduser().absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser().absolute() / "fsgen"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fsgen"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fsgen"
    return Path.home() / ".cache" / "fsgen"


def sources_dir() -> Path:
    """Imported source checkpoints, one safetensors file each."""
    return home() / "sources"


def fisher_dir() -> Path:
    """Fisher diagonals, named by their cache key."""
    return home() / "fisher"


def weights_dir() -> Path:
    """Backbones of the metrics (Inception, AlexNet, VGG)."""
    return home() / "weights"


def make_folder(folder: Path) -> Path:
    """``folder``, created with its parents where absent.

    Raises:
        FsgenError: it cannot be created, or a file stands in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FsgenError(
            f"the folder {folder} cannot be created: {error.strerror}",
            hint="choose another one; FSGEN_HOME says where fsgen keeps its own files",
            code=Code.SYSTEM if error.errno in (errno.ENOSPC, errno.EDQUOT) else Code.UNWRITABLE,
        ) from error
    return folder
