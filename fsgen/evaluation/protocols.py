"""Measuring protocols as data: fsgen's own and published ones; and the checked options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch

from fsgen import device as devices
from fsgen.config import read_toml
from fsgen.data.decode import Fit
from fsgen.errors import Code, FsgenError, unknown_name

DEFAULT = "default"
FIDS = ("clean", "legacy_pytorch", "legacy_tensorflow", "torchvision")


@dataclass(frozen=True)
class Choices:
    """The choices that make scores comparable; ``protocols.toml`` gives the source of each."""

    of: ClassVar[str]  # "pictures" or "translations", as in ``Measure.of``
    name: str
    title: str
    samples: int  # of a model
    fid: str  # of FIDS: which Inception, and how images are resized for it
    sources: dict[str, str]  # choice -> where it is stated

    def with_fid(self, mode: str) -> Self:
        """Replace the Inception network and resizing.

        Raises:
            FsgenError: unknown mode.
        """
        if mode not in FIDS:
            raise unknown_name(f"unknown mode '{mode}' for --fid", mode, FIDS)
        return replace(self, fid=mode, sources=self.sources | {"fid": "asked for with --fid"})

    def about(self) -> dict[str, Any]:
        """Name, title, and the value and source of each choice, for a report."""
        choices = [
            {"what": name, "value": getattr(self, name), "source": source}
            for name, source in self.sources.items()
        ]
        return {"name": self.name, "title": self.title, "choices": choices}


@dataclass(frozen=True)
class Protocol(Choices):
    """The settings of a comparison with real images."""

    of = "pictures"
    real_images: Literal["all"]
    flip_reals: bool  # flip each real image with probability 1/2
    intra_samples: int  # the first so many samples, for intra-LPIPS
    intra_per_cluster: int  # at most so many samples of a training image
    intra_empty: Literal["drop", "zero"]  # score of a cluster with fewer than two samples


@dataclass(frozen=True)
class Translations(Choices):
    """The settings of scores of translations to unseen classes; ``samples`` are per class and K."""

    of = "translations"
    shots: list[int]  # K, the number of images that define a class
    kept: int  # least number of images of each class beside its shots
    contents: Literal["shared"]
    classifiers: Literal["small"]
    intervals: Literal["contents"]


def protocol(name: str | None) -> Protocol | Translations:
    """Find a protocol; None is fsgen's own.

    Raises:
        FsgenError: unknown name, with the nearest known one.
    """
    known = _protocols()
    if name not in known and name is not None:
        raise unknown_name(f"unknown protocol '{name}'", name, known)
    return known[name or DEFAULT]


@cache
def _protocols() -> MappingProxyType[str, Protocol | Translations]:
    tables = read_toml(Path(str(files("fsgen.evaluation").joinpath("protocols.toml"))))
    return MappingProxyType({name: _protocol(name, table) for name, table in tables.items()})


def _protocol(name: str, table: dict[str, Any]) -> Protocol | Translations:
    kind = Translations if "shots" in table else Protocol
    wanted = {field.name for field in fields(kind)} - {"name", "title", "sources"}
    if set(table) - {"title"} != wanted:  # the file ships with the package: an internal error
        raise ValueError(f"protocols.toml: {name} must have {sorted(wanted)}")
    values = {key: table[key][0] for key in table if key in wanted}
    sources = {key: table[key][1] for key in table if key in wanted}
    return kind(name=name, title=table["title"], **values, sources=sources)


# ---- the options of one evaluation ---------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """The checked options of ``evaluate``."""

    protocol: Protocol | Translations
    samples: int | None  # None: all images of a folder, the protocol's number of a model
    seeds: int
    seed: int
    truncation: float
    fit: Fit
    batch: int
    device: torch.device

    def sample_seeds(self, turn: int = 0) -> range:
        """Seeds of the samples of set number ``turn``; sets share none."""
        n = max(self.samples or self.protocol.samples, 2)
        return range(self.seed + turn * n, self.seed + (turn + 1) * n)


def checked_request(
    protocol_name: str | None, fid: str | None, samples: int | None, seeds: int, seed: int,
    truncation: float, fit: str, batch: int, device: str,
) -> Request:  # fmt: skip
    """Check these arguments of ``evaluate``.

    Raises:
        FsgenError: a value out of range or unknown, or one that the protocol fixes.
    """
    chosen = protocol(protocol_name)
    if fit not in get_args(Fit):
        raise FsgenError(f"unknown fit '{fit}'", code=Code.UNKNOWN_NAME, where=fit, hint="crop or pad")
    for flag, value, least in (("--samples", samples, 2), ("--batch", batch, 1), ("--seeds", seeds, 1)):
        if value is not None and value < least:
            raise FsgenError(f"{flag} must be at least {least}, got {value}", code=Code.OUT_OF_RANGE,
                             where=flag, hint=f"give {flag} {least} or more")  # fmt: skip
    if isinstance(chosen, Translations):
        if seeds != 1 or truncation != 1:
            raise FsgenError(f"--seeds and --truncation have no effect with the protocol {chosen.name}",
                             where="--seeds" if seeds != 1 else "--truncation",
                             hint="leave them out; --seed changes which shots are drawn")  # fmt: skip
    elif chosen.name != DEFAULT and (samples is not None or fid is not None or truncation != 1):
        raise FsgenError(
            f"the protocol {chosen.name} fixes --samples ({chosen.samples}), --fid ({chosen.fid}) and "
            "--truncation (1)",
            where=chosen.name, hint="leave them out, or leave --protocol out",
        )  # fmt: skip
    if fid is not None:
        chosen = chosen.with_fid(fid)
    return Request(chosen, samples, seeds, seed, truncation, cast(Fit, fit), batch, devices.pick(device))
