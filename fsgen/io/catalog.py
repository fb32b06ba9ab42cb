"""The catalogue of published source generators, read from ``catalog.toml``. Imports no torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from fsgen.errors import FsgenError, suggest


@dataclass(frozen=True)
class CatalogEntry:
    """One published generator. What is true of the file itself is found out when it is imported."""

    name: str
    url: str  # https, hf://, a Google Drive link, or bundled:FILE
    family: str
    resolution: int  # pixels
    subject: str
    licence: str
    commercial: bool  # whether its terms allow commercial use
    terms: str  # in one line, shown before the download
    tags: tuple[str, ...]  # what is in the pictures
    sha256: str | None = None  # hex; None where none is published


def catalog() -> dict[str, CatalogEntry]:
    """All entries by name, in the file's order."""
    return dict(_entries())


def find(name: str) -> CatalogEntry:
    """The entry called ``name``.

    Raises:
        FsgenError: there is none; the nearest name is suggested.
    """
    entries = _entries()
    if name not in entries:
        raise FsgenError(f"there is no '{name}' in the catalogue", hint=suggest(name, list(entries)))
    return entries[name]


@cache
def _entries() -> MappingProxyType[str, CatalogEntry]:
    text = files("fsgen.io").joinpath("catalog.toml").read_text("utf-8")
    return MappingProxyType({name: _entry(name, table) for name, table in tomllib.loads(text).items()})


def _entry(name: str, table: dict[str, Any]) -> CatalogEntry:
    stray = set(table) - {field.name for field in fields(CatalogEntry)}
    if stray:  # the file ships with the package: this is a mistake of ours, not of the user's
        raise ValueError(f"catalog.toml: {name} has unknown keys {sorted(stray)}")
    return CatalogEntry(name, **{**table, "tags": tuple(table["tags"])})
