"""``fsgen pull``: somebody else's checkpoint becomes a source of ours. Nothing in it is executed.

``fsgen pull metrics`` fetches the weights of the networks that measure, and of those that look at instances.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.errors import FsgenError, suggest
from fsgen.features import timm_network, weight_files
from fsgen.features.resnet import ResNetClassifier, Swav
from fsgen.importers import archives, pickles
from fsgen.interfaces import Converted, Family, Foreign, Spec
from fsgen.io import checkpoint
from fsgen.io.cache_folders import home, make_folder, sources_dir
from fsgen.io.catalog import CatalogEntry, catalog
from fsgen.io.checksums import hash_file, recorded_hash
from fsgen.io.download import drive_id, fetch, fetch_any
from fsgen.models import model as models
from fsgen.models.model import Model

Consent = Callable[[CatalogEntry], bool]
"""Whether the person accepts an entry's non-commercial terms."""


@dataclass(frozen=True)
class Pulled:
    """A source that is now at hand."""

    name: str
    path: Path
    model: Model
    notes: tuple[str, ...]  # what was absent, inferred or computed


def pull(
    source: str,
    *,
    name: str | None = None,
    consent: Consent = lambda entry: False,
    force: bool = False,
    callbacks: Callbacks | None = None,
) -> Pulled:
    """Fetch ``source``, convert it, store it under ``FSGEN_HOME/sources``.

    Args:
        source: a catalogue name, a local file, a folder of a checkpoint's files or an archive of it, an https
            URL, ``hf://owner/repo/file[@revision]``, or a Google Drive id or link.
        name: what to call it; default: the catalogue's name or the file's.
        consent: asked once when the terms forbid commercial use.
        force: replace a source of that name.

    Raises:
        FsgenError: nothing of that name, terms refused, a download that failed, a file that is damaged, asks
            to run something, or belongs to no known family.
    """
    callbacks = callbacks or Callbacks()
    entry = catalog().get(source)
    if entry is not None and entry.url.startswith("bundled:"):
        found = models.load(source)
        return Pulled(source, models.find(source), found, ("it ships with fsgen: nothing to fetch",))
    name = _name(name or (source if entry else _stem(source)))
    target = sources_dir() / f"{name}.safetensors"
    if name in models.bundled():
        raise FsgenError(f"'{name}' is a source that ships with fsgen", hint="choose another --name")
    if target.exists() and not force:
        raise FsgenError(
            f"there is a source '{name}' already", hint="choose another --name, or replace it: --force"
        )
    if entry and not entry.commercial and not consent(entry):
        raise FsgenError(
            f"{entry.name} is not for commercial use ({entry.licence}: {entry.terms})",
            hint=f"if that suits you: fsgen pull {source} --yes",
        )
    file = _file(source, entry, callbacks)
    callbacks.say(f"reading {file}")
    model, notes = import_file(file, title=name, entry=entry, beside=file == Path(source))
    make_folder(target.parent)
    model.save(target)
    return Pulled(name, target, model, notes)


@dataclass(frozen=True)
class PulledWeights:
    """A weight file of a network that looks at images, now at hand."""

    name: str  # in weight_files.CATALOGUE, or timm:NAME
    path: Path
    fetched: bool  # now; else it was here already
    bytes: int
    sha256: str
    used_by: str


def pull_metrics(
    names: Sequence[str] = (), *, everything: bool = False, callbacks: Callbacks | None = None
) -> list[PulledWeights]:  # fmt: skip
    """Have the networks' weight files on this machine; what is absent goes to ``FSGEN_HOME/weights``.

    Args:
        names: only these: of ``weight_files.CATALOGUE``, or ``timm:`` and a name of timm's, whose weights
            go to the Hub's own cache. Default: those of what is measured by default.
        everything: all of the catalogue, also what only some protocols and extras need.

    Raises:
        FsgenError: an unknown name; a download failed (the others are done nevertheless), or a file that is
            here is not the published one, or no longer the one that was fetched.
    """
    callbacks = callbacks or Callbacks()

    def fetch_one(url: str, destination: Path, sha256: str | None) -> Path:
        return fetch(
            url, destination, sha256=sha256, say=callbacks.say,
            progress=lambda done, total: callbacks.progress(destination.name, done, total or 0),
        )  # fmt: skip

    wanted = list(names or (weight_files.CATALOGUE if everything else weight_files.BASE))
    timms = [name for name in wanted if name.startswith(timm_network.PREFIX)]
    here = {row["name"] for row in weight_files.list_files() if row["path"]}
    found = weight_files.locate_files([name for name in wanted if name not in timms], download=fetch_one)
    return [_checked(name, path, name not in here) for name, path in found.items()] + [
        _timm(name, fetch_one, callbacks) for name in timms
    ]


def _checked(name: str, path: Path, fetched: bool) -> PulledWeights:
    """The file of ``name`` in the catalogue, once it is seen to be the published one."""
    entry, found = weight_files.CATALOGUE[name], hash_file(path)
    for expected in (entry.sha256, recorded_hash(entry.url) or ""):
        if not found.startswith(expected):
            raise FsgenError(
                f"{path} is not the published file: its SHA-256 is {found}, not {expected}",
                hint=f"delete {path} and try again",
            )
    return PulledWeights(name, path, fetched, path.stat().st_size, found, entry.used_by)


def _timm(name: str, download: weight_files.Download, callbacks: Callbacks) -> PulledWeights:
    model, fetched = name.removeprefix(timm_network.PREFIX), False
    try:
        path = timm_network.locate_timm_file(model)
    except FsgenError:
        callbacks.say(f"{model} from the Hugging Face Hub")
        path, fetched = timm_network.locate_timm_file(model, download=download), True
    used_by = f"instance features ({name})"
    return PulledWeights(name, path, fetched, path.stat().st_size, hash_file(path), used_by)


def import_file(
    path: Path, *, title: str, entry: CatalogEntry | None = None, beside: bool = True
) -> tuple[Model, tuple[str, ...]]:
    """The model in a foreign or native file, and notes on what was absent, inferred or computed.

    ``beside``: whether what lies beside the file may belong to it (not so among downloads).
    """
    if path.is_file() and checkpoint.header(path) is not None:
        return models.load(path), ("a native file: copied as it is",)
    if archives.is_archive(path):
        foreign = archives.read_archive(path)
    else:
        foreign = archives.read_beside(path) if beside else pickles.read_foreign(path)
    family = _recognise(foreign, path)
    if entry and entry.family != family.name:
        raise FsgenError(f"{path} holds a {family.name}; the catalogue says {entry.family}")
    try:
        converted = family.convert(foreign)
    except FsgenError as error:
        raise FsgenError(f"{path}: {error.message}", hint=error.hint) from None
    files = foreign.extras["sha256"] if foreign.layout == "folder" else {}
    about: dict[str, Any] = {
        "title": title,
        "subject": entry.subject if entry else "unknown",
        "licence": entry.licence if entry else "unknown: ask whoever trained it",
        "commercial": entry.commercial if entry else None,
        "provenance": {"file": path.name, "sha256": files or hash_file(path),
                       "url": entry.url if entry else None, "layout": foreign.layout,
                       "notes": list(converted.notes)},
        "fsgen": fsgen.__version__,
    }  # fmt: skip
    notes = (*([f"read: {', '.join(files)}"] if files else []), *converted.notes)
    if features := _features(converted.spec, foreign.settings.get("G", {})):
        about["features"] = features
        notes += (
            f"draws after {converted.spec['h_dim']} features of an image: taken for those of {features}",
        )
    model = Model(family, converted.spec, _networks(converted), about)
    model.generator(), model.discriminator()  # strict: every tensor has its place, none is missing
    return model, notes


def _features(spec: Spec, told: dict[str, Any]) -> str | None:
    """What an IC-GAN draws after: as its file says or, as published, SwAV's or the classifier's features."""
    if spec.get("h_dim") != Swav.dim:
        return None
    known = {"selfsupervised": Swav.name, "classification": ResNetClassifier.name}
    usual = ResNetClassifier.name if spec["c_dim"] else Swav.name
    return known.get(str(told.get("feature_extractor")), usual)


def _recognise(foreign: Foreign, path: Path) -> Family:
    for known in registry.FAMILIES:
        family = registry.family(known)()
        if family.recognise(foreign):
            return family
    if any(settings.get("era") == "tensorflow" for settings in foreign.settings.values()):
        raise FsgenError(
            f"{path} is from StyleGAN2's TensorFlow days, whose layout fsgen reads but does not convert",
            hint="the catalogue has PyTorch files of the same generators: fsgen info",
        )
    raise FsgenError(
        f"{path} can be read, but is a checkpoint of no family fsgen knows",
        hint=f"known families: {', '.join(registry.FAMILIES)}",
    )


def _networks(converted: Converted) -> dict[str, Any]:
    """Each with tensors of its own: in a file, G and its average may still share them."""
    parts = {"g": converted.g, "g_ema": converted.g_ema, "d": converted.d}
    return {
        name: {key: value.clone() for key, value in state.items()}
        for name, state in parts.items() if state is not None
    }  # fmt: skip


def _file(source: str, entry: CatalogEntry | None, callbacks: Callbacks) -> Path:
    """The file itself, fetched where it is not on this machine."""
    address = entry.url if entry else source
    if not entry and (Path(source).is_file() or archives.is_archive(source)):
        return Path(source)
    if "://" not in address and not drive_id(address):
        if Path(source).suffix or "/" in source:
            raise FsgenError(f"no such file: {source}")
        raise FsgenError(
            f"there is no source '{source}'", hint=suggest(source, list(catalog()), models.LISTED)
        )
    suffix = Path(address.split("?")[0].split("@")[0]).suffix or ".download"
    dest = make_folder(home() / "downloads") / f"{_name(entry.name if entry else Path(address).stem)}{suffix}"
    return fetch_any(
        address, dest, sha256=entry.sha256 if entry else None, say=callbacks.say,
        progress=lambda done, total: callbacks.progress("download", done, total or 0),
    )  # fmt: skip


def _stem(source: str) -> str:
    """A file's name without its suffix, wherever it is."""
    if source.startswith("hf://"):
        source = source.split("@")[0]  # the revision
    path = Path(source.rstrip("/") if Path(source).exists() else source.split("?")[0].rstrip("/"))
    return path.stem.removesuffix(".tar") if not path.is_dir() else path.name


def _name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")
    if not name:
        raise FsgenError(f"'{text}' cannot be the name of a source", hint="letters, digits, '.', '_' and '-'")
    return name
