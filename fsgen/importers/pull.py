"""``fsgen pull``: fetch a foreign checkpoint and convert it to a source, without executing anything in it.

``fsgen pull metrics`` fetches the weights of the feature networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError, unknown_name
from fsgen.features import timm_network, weight_files
from fsgen.features.resnet import ResNetClassifier, Swav
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Converted, Family, Foreign, Spec
from fsgen.io import checkpoint
from fsgen.io.cache_folders import home, make_folder, sources_dir
from fsgen.io.catalog import CatalogEntry, catalog
from fsgen.io.checksums import hash_file, recorded_hash
from fsgen.io.download import drive_id, fetch, fetch_any
from fsgen.models import model as models
from fsgen.models.model import Model

Consent = Callable[[CatalogEntry], bool]
"""(entry with non-commercial terms) -> True if the user accepts them."""


@dataclass(frozen=True)
class Pulled:
    """An imported source."""

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
    """Fetch ``source``, convert it and store it under ``FSGEN_HOME/sources``.

    Args:
        source: catalogue name, local file, folder or archive of checkpoint files, https URL,
            ``hf://owner/repo/file[@revision]``, or Google Drive id or link.
        name: name of the new source; default: the catalogue's name or the file's.
        consent: asked once if the terms forbid commercial use.
        force: replace a source of that name.

    Raises:
        FsgenError: unknown name, declined terms, failed download, a file that is damaged, asks to run
            something, or belongs to no known family.
    """
    callbacks = callbacks or Callbacks()
    entry = catalog().get(source)
    if entry is not None and entry.url.startswith("bundled:"):
        found = models.load_model(source)
        return Pulled(source, models.find(source), found, ("ships with fsgen: nothing to fetch",))
    name = _name(name or (source if entry else _stem(source)))
    target = sources_dir() / f"{name}.safetensors"
    if name in models.bundled():
        message = f"'{name}' is a source that ships with fsgen"
        raise FsgenError(message, code=Code.EXISTS, where=name, hint="choose another --name")
    if target.exists() and not force:
        hint = "choose another --name, or replace it: --force"
        raise FsgenError(f"there is a source '{name}' already", code=Code.EXISTS, where=name, hint=hint)
    if entry and not entry.commercial and not consent(entry):
        message = f"{entry.name} is not for commercial use ({entry.licence}: {entry.terms})"
        hint = f"to accept these terms: fsgen pull {source} --yes"
        raise FsgenError(message, code=Code.DECLINED, where=source, hint=hint)
    file = _fetch_source(source, entry, callbacks)
    callbacks.say(f"reading {file}")
    model, notes = import_file(file, title=name, entry=entry, beside=file == Path(source))
    make_folder(target.parent)
    model.save(target)
    return Pulled(name, target, model, notes)


@dataclass(frozen=True)
class PulledWeights:
    """A feature network's weight file on this machine."""

    name: str  # in weight_files.CATALOGUE, or timm:NAME
    path: Path
    fetched: bool  # by this call; False if it was present
    bytes: int
    sha256: str
    used_by: str


def pull_metrics(
    names: Sequence[str] = (), *, everything: bool = False, callbacks: Callbacks | None = None
) -> list[PulledWeights]:  # fmt: skip
    """Download missing weight files of feature networks to ``FSGEN_HOME/weights``.

    Args:
        names: keys of ``weight_files.CATALOGUE``, or ``timm:NAME``, which goes to the Hub's own cache.
            Default: what the default metrics need.
        everything: the whole catalogue, including files that only some protocols and extras need.

    Raises:
        FsgenError: an unknown name; a failed download (the others are completed); a local file that differs
            from the published or first downloaded one.
    """
    callbacks = callbacks or Callbacks()

    def fetch_one(url: str, destination: Path, sha256: str | None) -> Path:
        return fetch(
            url, destination, sha256=sha256, say=callbacks.say,
            progress=lambda done, total: callbacks.progress(destination.name, done, total or 0),
        )  # fmt: skip

    wanted = list(names or (weight_files.CATALOGUE if everything else weight_files.BASE))
    timms = [name for name in wanted if name.startswith(timm_network.PREFIX)]
    present = {row["name"] for row in weight_files.list_files() if row["path"]}
    found = weight_files.locate_files([name for name in wanted if name not in timms], download=fetch_one)
    return [_check_weights(name, path, name not in present) for name, path in found.items()] + [
        _pull_timm(name, fetch_one, callbacks) for name in timms
    ]


def _check_weights(name: str, path: Path, fetched: bool) -> PulledWeights:
    """Compare the file of ``name`` with the published checksum and the one of its first download."""
    entry, found = weight_files.CATALOGUE[name], hash_file(path)
    for expected in (entry.sha256, recorded_hash(entry.url) or ""):
        if not found.startswith(expected):
            message = f"{path} is not the published file: its SHA-256 is {found}, not {expected}"
            hint = f"delete {path} and try again"
            raise FsgenError(message, code=Code.CHANGED, where=path, hint=hint)
    return PulledWeights(name, path, fetched, path.stat().st_size, found, entry.used_by)


def _pull_timm(name: str, download: weight_files.Download, callbacks: Callbacks) -> PulledWeights:
    model, fetched = name.removeprefix(timm_network.PREFIX), False
    try:
        path = timm_network.locate_timm_file(model)
    except FsgenError:
        callbacks.say(f"downloading {model} from the Hugging Face Hub")
        path, fetched = timm_network.locate_timm_file(model, download=download), True
    used_by = f"instance features ({name})"
    return PulledWeights(name, path, fetched, path.stat().st_size, hash_file(path), used_by)


def import_file(
    path: Path, *, title: str, entry: CatalogEntry | None = None, beside: bool = True
) -> tuple[Model, tuple[str, ...]]:
    """Read a native or foreign checkpoint: the model, and notes on what was absent, inferred or computed.

    Args:
        title: of the model.
        entry: catalogue entry of the file; None: unlisted.
        beside: read a discriminator file beside the generator's too; False among downloads.

    Raises:
        FsgenError: as ``read_foreign``; no known family, or not the entry's; inconsistent tensors.
    """
    if path.is_file() and checkpoint.header(path) is not None:
        return models.load_model(path), ("native file: copied unchanged",)
    foreign = read_foreign(path, beside=beside)
    family = _recognise(foreign, path)
    if entry and entry.family != family.name:
        message = f"{path} contains a {family.name}; the catalogue says {entry.family}"
        raise FsgenError(message, code=Code.INCOMPATIBLE, where=path)
    try:
        converted = family.convert(foreign)
    except FsgenError as error:
        raise FsgenError(f"{path}: {error.message}", code=error.code, where=path, hint=error.hint) from None
    files = foreign.extras["sha256"] if foreign.layout == "folder" else {}
    about: PlainDict = {
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
        notes += (f"conditioned on {converted.spec['h_dim']} features, presumably of {features}",)
    model = Model(family, converted.spec, _networks(converted), about)
    model.generator(), model.discriminator()  # loading is strict: no key may be missing or left over
    return model, notes


def _features(spec: Spec, settings: PlainDict) -> str | None:
    """Name of the network whose features condition an IC-GAN: from its file, else as published; or None."""
    if spec.get("h_dim") != Swav.dim:
        return None
    known = {"selfsupervised": Swav.name, "classification": ResNetClassifier.name}
    usual = ResNetClassifier.name if spec["c_dim"] else Swav.name
    return known.get(str(settings.get("feature_extractor")), usual)


def _recognise(foreign: Foreign, path: Path) -> Family:
    for kind in registry.loadable_families().values():
        family = kind()
        if family.recognise(foreign):
            return family
    if any(settings.get("era") == "tensorflow" for settings in foreign.settings.values()):
        message = f"{path} is a TensorFlow-era StyleGAN2, which fsgen reads but does not convert"
        hint = "the catalogue has PyTorch files of the same generators: fsgen info"
    else:
        message = f"{path} is a checkpoint of no family that fsgen knows"
        hint = f"known families: {', '.join(registry.families())}"
    raise FsgenError(message, code=Code.UNSUPPORTED, where=path, hint=hint)


def _networks(converted: Converted) -> PlainDict:
    """Networks with separate tensors: a file's G and its average may share theirs."""
    parts = {"g": converted.g, "g_ema": converted.g_ema, "d": converted.d}
    return {
        name: {key: value.clone() for key, value in state.items()}
        for name, state in parts.items() if state is not None
    }  # fmt: skip


def _fetch_source(source: str, entry: CatalogEntry | None, callbacks: Callbacks) -> Path:
    """Return the local file or folder of ``source``, downloaded if necessary."""
    address = entry.url if entry else source
    if not entry and (Path(source).is_file() or Path(source).is_dir()):
        return Path(source)
    if "://" not in address and not drive_id(address):
        if Path(source).suffix or "/" in source:
            raise FsgenError(f"no such file: {source}", code=Code.NOT_FOUND, where=source)
        raise unknown_name(f"there is no source '{source}'", source, catalog(), otherwise=models.LISTED)
    suffix = Path(address.split("?")[0].split("@")[0]).suffix or ".download"
    dest = make_folder(home() / "downloads") / f"{_name(entry.name if entry else Path(address).stem)}{suffix}"
    return fetch_any(
        address, dest, sha256=entry.sha256 if entry else None, say=callbacks.say,
        progress=lambda done, total: callbacks.progress("download", done, total or 0),
    )  # fmt: skip


def _stem(source: str) -> str:
    """File or folder name of a path or address, without suffix."""
    if source.startswith("hf://"):
        source = source.split("@")[0]  # the revision
    path = Path(source.rstrip("/") if Path(source).exists() else source.split("?")[0].rstrip("/"))
    return path.stem.removesuffix(".tar") if not path.is_dir() else path.name


def _name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")
    if not name:
        message = f"'{text}' cannot be the name of a source"
        hint = "use letters, digits, '.', '_' and '-'"
        raise FsgenError(message, code=Code.OUT_OF_RANGE, where=text, hint=hint)
    return name
