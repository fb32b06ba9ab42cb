"""How much of what is measured how: the published protocols as data, and fsgen's own. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

from fsgen.config import read_toml
from fsgen.errors import FsgenError, suggest

DEFAULT = "default"
Kind = TypeVar("Kind", bound="Choices")
FIDS = ("clean", "legacy_pytorch", "legacy_tensorflow", "torchvision")


@dataclass(frozen=True)
class Choices:
    """The choices that make figures comparable. ``protocols.toml`` says where each comes from."""

    of: ClassVar[str]  # what it is about, as in ``Measure.of``
    name: str
    title: str
    samples: int  # of a model
    fid: str  # of FIDS: which Inception, and how images are resized for it
    sources: dict[str, str]  # choice -> where it comes from

    def with_fid(self: Kind, mode: str) -> Kind:
        """The same with another Inception or resizing.

        Raises:
            FsgenError: there is no such mode.
        """
        if mode not in FIDS:
            raise FsgenError(f"--fid: there is no mode '{mode}'", hint=suggest(mode, list(FIDS)))
        return replace(self, fid=mode, sources=self.sources | {"fid": "asked for with --fid"})

    def choices(self) -> list[dict[str, Any]]:
        """What, value and source of each choice, for a report."""
        return [
            {"what": name, "value": getattr(self, name), "source": source}
            for name, source in self.sources.items()
        ]


@dataclass(frozen=True)
class Protocol(Choices):
    """How pictures of one kind are held against real ones."""

    of = "pictures"
    real_images: Literal["all"]
    flip_reals: bool  # at random, each real with probability 1/2
    intra_samples: int  # for intra-LPIPS, the first of them
    intra_per_cluster: int  # at most so many samples a training image
    intra_empty: Literal["drop", "zero"]  # what a cluster of fewer than two samples counts


@dataclass(frozen=True)
class Translations(Choices):
    """How contents redrawn as classes that were never seen are judged; ``samples`` is of each class and K."""

    of = "translations"
    shots: list[int]  # K, the pictures that a class is known by
    kept: int  # pictures of each class that are no shots, at least
    contents: Literal["shared"]
    classifiers: Literal["small"]
    intervals: Literal["contents"]


def protocol(name: str | None) -> Protocol | Translations:
    """The protocol called ``name``; None is fsgen's own.

    Raises:
        FsgenError: unknown name, with the nearest known one.
    """
    known = _protocols()
    if name not in known and name is not None:
        raise FsgenError(f"there is no protocol '{name}'", hint=suggest(name, list(known)))
    return known[name or DEFAULT]


def names() -> list[str]:
    """All protocols, fsgen's own first."""
    return list(_protocols())


@cache
def _protocols() -> MappingProxyType[str, Protocol | Translations]:
    tables = read_toml(Path(str(files("fsgen.evaluation").joinpath("protocols.toml"))))
    return MappingProxyType({name: _protocol(name, table) for name, table in tables.items()})


def _protocol(name: str, table: dict[str, Any]) -> Protocol | Translations:
    kind = Translations if "shots" in table else Protocol
    wanted = {field.name for field in fields(kind)} - {"name", "title", "sources"}
    if set(table) - {"title"} != wanted:  # the file ships with the package: a mistake of ours
        raise ValueError(f"protocols.toml: {name} must have {sorted(wanted)}")
    values = {key: table[key][0] for key in table if key in wanted}
    sources = {key: table[key][1] for key in table if key in wanted}
    return kind(name=name, title=table["title"], **values, sources=sources)
