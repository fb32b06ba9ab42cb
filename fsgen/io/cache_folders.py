"""Folders of downloads and computed files. Only ``make_folder`` creates them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fsgen.atomic import FULL
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
    """Imported sources, one safetensors file each."""
    return home() / "sources"


def fisher_dir() -> Path:
    """Fisher diagonals, named by cache key."""
    return home() / "fisher"


def weights_dir() -> Path:
    """Weight files of feature networks."""
    return home() / "weights"


def make_folder(folder: Path) -> Path:
    """Create ``folder`` and its parents if absent, and return it.

    Raises:
        FsgenError: it cannot be created, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FsgenError(
            f"the folder {folder} cannot be created: {error.strerror}",
            code=Code.SYSTEM if error.errno in FULL else Code.UNWRITABLE,
            where=folder,
            hint="choose another one; FSGEN_HOME sets the folder of fsgen's own files",
        ) from error
    return folder
