"""Read checkpoints of several files: a training folder, or a .tar or .tar.gz archive of one.

BigGAN and IC-GAN write ``G_best0.pth``, ``G_ema_best0.pth``, ``D_best0.pth``, ``state_dict_best0.pth`` and
the same with ``best1``: the run of the lower Frechet distance is read. FUNIT writes ``gen_00100000.pt`` (both
generators) and ``dis_00100000.pt``: the last step is read, from which FUNIT resumes. StyleGAN2 writes a file
per snapshot, ``network-snapshot-000100.pkl``; IC-GAN's ``best-network-snapshot.pkl`` takes precedence.

Archives are unpacked into a temporary folder: only these files, in folders named by fsgen. An archive with
links, devices, names that lead out of it, or more content than its size allows is refused whole.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.importers.pickles import explain_damage, read_nvidia, read_torch
from fsgen.importers.restricted_unpickler import printable
from fsgen.interfaces import Foreign
from fsgen.io.checksums import hash_file

NETWORKS = ("G", "G_ema", "D")
GROWTH = 16  # maximum unpacked size relative to the archive: weights hardly compress

Runs = dict[str, dict[str, Path]]
"""``_best0``, a step or "" -> part -> its file."""


def is_pair(path: Path, head: bytes) -> bool:
    """True for FUNIT's ``gen_N.pt`` if ``dis_N.pt`` is beside it."""
    match = _FUNIT.fullmatch(path.name)
    return match is not None and match["part"] == "gen" and _discriminator(path).is_file()


def _discriminator(generator: Path) -> Path:
    return generator.with_name(generator.name.replace("gen", "dis"))


def read_folder(path: Path) -> Foreign:
    """Read the networks of the preferred run in a folder.

    The layout is "folder"; ``extras`` has the SHA-256 of each file read, for BigGAN also the run and its
    ``best_FID``; BigGAN's settings are ``settings["G"]``.

    Raises:
        FsgenError: no checkpoint or several, or a damaged or unsafe file.
    """
    return _read_checkpoint(_find_checkpoints(path), path.name)


def read_archive(path: Path) -> Foreign:
    """Read an archive of a folder: see ``read_folder``.

    Raises:
        FsgenError: as ``read_folder``; the archive is damaged or unsafe.
    """
    with tempfile.TemporaryDirectory(prefix="fsgen-") as folder:
        _unpack(path, Path(folder))
        return _read_checkpoint(_find_checkpoints(Path(folder)), path.name)


def read_pair(path: Path) -> Foreign:
    """Read FUNIT's ``gen_N.pt`` and the ``dis_N.pt`` beside it, with layout and ``extras`` of a folder."""
    return _read_funit({"gen": path, "dis": _discriminator(path)})


# ---- folders ----------------------------------------------------------------------------------------------


def _find_checkpoints(folder: Path) -> list[tuple[FolderReader, Runs]]:
    """Find the checkpoints in ``folder`` and its subfolders, each with its reader."""
    found: dict[tuple[Path, re.Pattern[str]], Runs] = {}
    for file in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        for known in _LAYOUTS:
            if (match := known.fullmatch(file.name)) and file.is_file():
                runs = found.setdefault((file.parent, known), {})
                runs.setdefault(match["run"] or "", {})[match["part"]] = file
    return [
        (reader, usable) for (_, known), runs in found.items() for generators, reader in [_LAYOUTS[known]]
        if (usable := {run: files for run, files in runs.items() if files.keys() & generators})
    ]  # fmt: skip


def _read_checkpoint(checkpoints: list[tuple[FolderReader, Runs]], name: str) -> Foreign:
    if not checkpoints:
        raise FsgenError(
            f"{name} contains no generator with a file name that fsgen knows",
            code=Code.UNSUPPORTED,
            where=name,
            hint="G_ema_best0.pth, G_best0.pth, G_ema.pth or G.pth (BigGAN), gen_00100000.pt (FUNIT), "
            "network-snapshot.pkl (StyleGAN2); or name the file itself",
        )
    if len(checkpoints) > 1:
        message = f"{name} contains {len(checkpoints)} checkpoints"
        raise FsgenError(message, where=name, hint="name the folder or the file of one of them")
    reader, runs = checkpoints[0]
    return reader(runs, name)


def _read_biggan(runs: Runs, name: str) -> Foreign:
    states = {run: _read_state(files) for run, files in runs.items()}
    best = min(runs, key=lambda run: (_distance(states[run]), run == "", run))
    files, settings = runs[best], states[best].get("config", {})
    parts = [part for part in NETWORKS if part in files]
    if "G" in files and not (settings.get("ema", True) and settings.get("use_ema", True)):
        parts = [part for part in parts if part != "G_ema"]
    tensors = {}
    for part in parts:
        tensors[part] = read_torch(files[part]).tensors.get("", {})
        if not tensors[part]:
            message = f"{files[part].name} in {name} is not a plain dict of a network's tensors"
            raise FsgenError(message, code=Code.UNSUPPORTED, where=files[part].name)
    extras = {key: value for key, value in states[best].items() if key != "config"}
    extras |= {"run": best.strip("_"), "sha256": _hashes(files[part] for part in parts)}
    return Foreign("folder", tensors, {"G": settings}, extras)


def _read_state(files: dict[str, Path]) -> PlainDict:
    """Read a run's itr, best_FID and config from ``state_dict_*.pth``."""
    return read_torch(files["state_dict"], networks=False).extras if "state_dict" in files else {}


def _distance(state: PlainDict) -> float:
    """Frechet distance of a run; infinite if unknown."""
    found = state.get("best_FID")
    return float(found) if isinstance(found, int | float) and not math.isnan(found) else math.inf


def _read_funit(files: dict[str, Path]) -> Foreign:
    """Read the networks of ``gen`` and, if present, of ``dis``."""
    found = {part: read_torch(path).tensors for part, path in files.items()}
    tensors = found["gen"] | {name or "dis": state for name, state in found.get("dis", {}).items()}
    return Foreign("folder", tensors, extras={"sha256": _hashes(files.values())})


def _read_stylegan2(runs: Runs, name: str) -> Foreign:
    best = [run for run in runs if run.startswith("best-")] or list(runs)
    if len(best) > 1:
        raise FsgenError(
            f"{name} contains {len(best)} snapshots, none called best-network-snapshot.pkl",
            where=name,
            hint=f"name the file of one: {best[0]}.pkl to {best[-1]}.pkl; unpack an archive first",
        )
    (file,) = runs[best[0]].values()
    foreign = read_nvidia(file)
    return replace(foreign, layout="folder", extras={**foreign.extras, "sha256": _hashes([file])})


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: hash_file(file) for file in files}


FolderReader = Callable[[Runs, str], Foreign]
"""(the runs of one checkpoint, name of its folder or archive) -> the networks of the preferred run."""

_FUNIT = re.compile(r"(?P<part>gen|dis)_(?P<run>\d+)\.pt")
_LAYOUTS: dict[re.Pattern[str], tuple[set[str], FolderReader]] = {  # file names -> generator parts, reader
    re.compile(r"(?P<part>G_ema|state_dict|G|D)(?P<run>_best\d+)?\.pth"): ({"G", "G_ema"}, _read_biggan),
    _FUNIT: ({"gen"}, lambda runs, name: _read_funit(runs[max(runs, key=int)])),
    re.compile(r"(?P<run>(best-)?network-snapshot(-\d+)?)(?P<part>\.pkl)"): ({".pkl"}, _read_stylegan2),
}


# ---- unpacking --------------------------------------------------------------------------------------------


class _Bounded(io.BufferedIOBase):
    """Reads ``stream`` and fails after more than ``limit`` bytes."""

    def __init__(self, stream: io.BufferedIOBase, limit: int, name: str) -> None:
        self.stream, self.left, self.name = stream, limit, name

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = self.stream.read(size)
        self.left -= len(chunk)
        if self.left < 0:
            message = f"{self.name} would unpack to far more than its size, which no checkpoint does"
            raise FsgenError(message, code=Code.UNSAFE, where=self.name)
        return chunk


def _unpack(path: Path, folder: Path) -> None:
    """Unpack the checkpoint files of an archive, each source folder into a numbered one of ``folder``."""
    parents: dict[PurePosixPath, Path] = {}
    with explain_damage(path), path.open("rb") as raw:
        packed = raw.peek(2).startswith(b"\x1f\x8b")  # gzip
        limit = GROWTH * path.stat().st_size + 2**20
        stream = _Bounded(gzip.GzipFile(fileobj=raw) if packed else raw, limit, path.name)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = _safe_name(member, path.name)
                if member.isdir() or not any(known.fullmatch(name.name) for known in _LAYOUTS):
                    continue
                into = parents.setdefault(name.parent, folder / str(len(parents)))
                into.mkdir(exist_ok=True)
                if (into / name.name).exists():
                    message = f"{path.name} contains {printable(name)} twice"
                    raise FsgenError(message, code=Code.DAMAGED, where=path)
                with (into / name.name).open("wb") as copy:
                    shutil.copyfileobj(cast(IO[bytes], archive.extractfile(member)), copy)


def _safe_name(member: tarfile.TarInfo, archive: str) -> PurePosixPath:
    """Return the name of ``member``; refuse links, devices and names that lead out of the archive."""
    name, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if name.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        fault = "a name that leads out of it"
    elif member.issym() or member.islnk():
        fault = "a link"
    elif not (member.isreg() or member.isdir()) or member.issparse():
        fault = "neither a file nor a folder"
    else:
        return name
    hint = "it is not an archive of a checkpoint; nothing of it was unpacked"
    message = f"{archive} contains {printable(member.name)}: {fault}"
    raise FsgenError(message, code=Code.UNSAFE, where=archive, hint=hint)
