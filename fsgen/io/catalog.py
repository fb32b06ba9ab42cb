"""The catalogue of published source generators, from ``catalog.toml``. Imports no torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from fsgen.config import PlainDict


@dataclass(frozen=True)
class CatalogEntry:
    """One published generator. Its architecture is inferred from the file during import."""

    name: str
    url: str  # https, hf://, a Google Drive link, or bundled:FILE
    family: str
    resolution: int  # pixels
    subject: str
    licence: str
    commercial: bool  # commercial use permitted
    terms: str  # one line, shown before the download
    tags: tuple[str, ...]  # depicted objects and style
    sha256: str | None = None  # hex; None if none is published


def catalog() -> dict[str, CatalogEntry]:
    """All entries by name, in the file's order."""
    return dict(_entries())


@cache
def _entries() -> MappingProxyType[str, CatalogEntry]:
    text = files("fsgen.io").joinpath("catalog.toml").read_text("utf-8")
    return MappingProxyType({name: _entry(name, table) for name, table in tomllib.loads(text).items()})


def _entry(name: str, table: PlainDict) -> CatalogEntry:
    stray = set(table) - {field.name for field in fields(CatalogEntry)}
    if stray:  # the file ships with the package: a bug, not a user's mistake
        raise ValueError(f"catalog.toml: {name} has unknown keys {sorted(stray)}")
    return CatalogEntry(name, **{**table, "tags": tuple(table["tags"])})
