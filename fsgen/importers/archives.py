"""Checkpoints that are several files: a folder as the program that trained it leaves it, or an archive of it.

BigGAN's and IC-GAN's have ``G_best0.pth``, ``G_ema_best0.pth``, ``D_best0.pth`` and ``state_dict_best0.pth``,
and the same with ``best1``: of both, the one of the lower Frechet distance counts. FUNIT's have
``gen_00100000.pt``, with both generators, and ``dis_00100000.pt``: of several, the last step counts, which is
where FUNIT's own program goes on. StyleGAN2's are one file each, ``network-snapshot-000100.pkl``, and with
IC-GAN ``best-network-snapshot.pkl``, which then counts.

Archives (.tar, .tar.gz) are unpacked for as long as reading takes, only these files and under names of ours.
One with links, devices, names that lead out of it, or more in it than its size allows, is refused whole.
"""

from __future__ import annotations

import gzip
import math
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from fsgen.errors import FsgenError
from fsgen.importers.pickles import read_foreign, read_nvidia, read_torch
from fsgen.importers.restricted_unpickler import printable
from fsgen.interfaces import Foreign
from fsgen.io.checksums import hash_file

_GZIP, _TAR = b"\x1f\x8b", b"ustar"  # a tar says so at byte 257
NETWORKS = ("G", "G_ema", "D")
GROWTH = 16  # an archive's content is at most so many times its size: weights hardly shrink

Runs = dict[str, dict[str, Path]]
"""``_best0``, a step or nothing -> part -> its file."""


def is_archive(path: str | Path) -> bool:
    """Whether ``path`` is a folder, or a file that begins as a .tar or .gz does."""
    path = Path(path)
    if not path.is_file():
        return path.is_dir()
    with path.open("rb") as file:
        head = file.read(262)
    return head.startswith(_GZIP) or head[257:262] == _TAR


def read_archive(path: str | Path) -> Foreign:
    """The networks, those that are there, of the run that counts in a folder or an archive of it.

    Its layout is "folder", and ``extras`` has the SHA-256 of each file that was read; of a BigGAN also the
    run and its ``best_FID``, and ``settings["G"]`` the program's own settings.

    Raises:
        FsgenError: no such folder or archive, none or several checkpoints in it, damaged, or unsafe.
    """
    path = Path(path)
    if path.is_dir():
        return _read(_found(path), path.name)
    with tempfile.TemporaryDirectory(prefix="fsgen-") as folder:
        _unpack(path, Path(folder))
        return _read(_found(Path(folder)), path.name)


def read_beside(path: str | Path) -> Foreign:
    """A file of somebody else's; of FUNIT's ``gen_N.pt`` also ``dis_N.pt``, if it lies beside it.

    Where there are two, layout and ``extras`` are as of a folder.

    Raises:
        FsgenError: as ``read_foreign``, of either.
    """
    path = Path(path)
    match = _FUNIT.fullmatch(path.name)
    discriminator = path.with_name(path.name.replace("gen", "dis"))
    if match and match["part"] == "gen" and discriminator.is_file():
        return _both({"gen": path, "dis": discriminator})
    return read_foreign(path)


# ---- what is in it ----------------------------------------------------------------------------------------


def _found(folder: Path) -> list[tuple[Reader, Runs]]:
    """The checkpoints in ``folder`` itself and right below it, each with what reads it."""
    found: dict[tuple[Path, re.Pattern], Runs] = {}
    for file in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        for known in _LAYOUTS:
            if (match := known.fullmatch(file.name)) and file.is_file():
                runs = found.setdefault((file.parent, known), {})
                runs.setdefault(match["run"] or "", {})[match["part"]] = file
    return [
        (reader, kept) for (_, known), runs in found.items() for generators, reader in [_LAYOUTS[known]]
        if (kept := {run: files for run, files in runs.items() if files.keys() & generators})
    ]  # fmt: skip


def _read(checkpoints: list[tuple[Reader, Runs]], name: str) -> Foreign:
    if not checkpoints:
        raise FsgenError(
            f"{name} holds no generator by a name that fsgen knows",
            hint="G_ema_best0.pth, G_best0.pth, G_ema.pth or G.pth (BigGAN), gen_00100000.pt (FUNIT), "
            "network-snapshot.pkl (StyleGAN2); or name the file itself",
        )
    if len(checkpoints) > 1:
        raise FsgenError(
            f"{name} holds {len(checkpoints)} checkpoints", hint="name the folder or the file of one of them"
        )
    reader, runs = checkpoints[0]
    return reader(runs, name)


def _biggan(runs: Runs, name: str) -> Foreign:
    said = {run: _said(files) for run, files in runs.items()}
    best = min(runs, key=lambda run: (_distance(said[run]), run == "", run))
    files, settings = runs[best], said[best].get("config", {})
    parts = [part for part in NETWORKS if part in files]
    if "G" in files and not (settings.get("ema", True) and settings.get("use_ema", True)):
        parts.remove("G_ema") if "G_ema" in parts else None
    tensors = {}
    for part in parts:
        tensors[part] = read_torch(files[part]).tensors.get("", {})
        if not tensors[part]:
            raise FsgenError(f"{files[part].name} in {name} is no plain dict of a network's tensors")
    extras = {key: value for key, value in said[best].items() if key != "config"}
    extras |= {"run": best.strip("_"), "sha256": _hashes(files[part] for part in parts)}
    return Foreign("folder", tensors, {"G": settings}, extras)


def _said(files: dict[str, Path]) -> dict[str, Any]:
    """What ``state_dict_*.pth`` says of a run: itr, best_FID, config."""
    return read_torch(files["state_dict"], networks=False).extras if "state_dict" in files else {}


def _distance(said: dict[str, Any]) -> float:
    """A run's Frechet distance; infinite where none is known."""
    found = said.get("best_FID")
    known = isinstance(found, int | float) and not math.isnan(found)
    return float(found) if known else math.inf


def _funit(runs: Runs, name: str) -> Foreign:
    return _both(runs[max(runs, key=int)])


def _both(files: dict[str, Path]) -> Foreign:
    """The networks of ``gen`` and, where it is there, of ``dis``."""
    tensors = dict(read_foreign(files["gen"]).tensors)
    if "dis" in files:
        tensors |= {name or "dis": state for name, state in read_foreign(files["dis"]).tensors.items()}
    return Foreign("folder", tensors, extras={"sha256": _hashes(files.values())})


def _stylegan2(runs: Runs, name: str) -> Foreign:
    best = [run for run in runs if run.startswith("best-")] or list(runs)
    if len(best) > 1:
        raise FsgenError(
            f"{name} holds {len(best)} snapshots, and none of them is called best-network-snapshot.pkl",
            hint=f"name the file of one: {best[0]}.pkl to {best[-1]}.pkl; unpack an archive first",
        )
    (file,) = runs[best[0]].values()
    foreign = read_nvidia(file)
    return replace(foreign, layout="folder", extras={**foreign.extras, "sha256": _hashes([file])})


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: hash_file(file) for file in files}


Reader = Callable[[Runs, str], Foreign]
"""(the runs of one checkpoint, the name of what holds it) -> the networks of the one that counts."""

_FUNIT = re.compile(r"(?P<part>gen|dis)_(?P<run>\d+)\.pt")
_LAYOUTS: dict[re.Pattern, tuple[set[str], Reader]] = {  # files' names -> which hold a generator, what reads
    re.compile(r"(?P<part>G_ema|state_dict|G|D)(?P<run>_best\d+)?\.pth"): ({"G", "G_ema"}, _biggan),
    _FUNIT: ({"gen"}, _funit),
    re.compile(r"(?P<run>(best-)?network-snapshot(-\d+)?)(?P<part>\.pkl)"): ({".pkl"}, _stylegan2),
}


# ---- unpacking --------------------------------------------------------------------------------------------


class _Bounded:
    """Reads ``file`` and stops where more comes out of it than ``limit`` bytes."""

    def __init__(self, file: IO[bytes], limit: int, name: str) -> None:
        self.file, self.left, self.name = file, limit, name

    def read(self, size: int) -> bytes:
        chunk = self.file.read(size)
        self.left -= len(chunk)
        if self.left < 0:
            raise FsgenError(f"{self.name} would unpack to far more than its size, which no checkpoint does")
        return chunk


def _unpack(path: Path, folder: Path) -> None:
    """The files of a checkpoint in the archive ``path``, in a folder of ``folder`` for each of its own."""
    parents: dict[PurePosixPath, Path] = {}
    with _reading(path), path.open("rb") as raw:
        packed = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        limit = GROWTH * path.stat().st_size + 2**20
        stream = _Bounded(gzip.GzipFile(fileobj=raw) if packed else raw, limit, path.name)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = _checked(member, path.name)
                if member.isdir() or not any(known.fullmatch(name.name) for known in _LAYOUTS):
                    continue
                into = parents.setdefault(name.parent, folder / str(len(parents)))
                into.mkdir(exist_ok=True)
                if (into / name.name).exists():
                    raise FsgenError(f"{path.name} holds {printable(name)} twice")
                with (into / name.name).open("wb") as copy:
                    shutil.copyfileobj(archive.extractfile(member), copy)


def _checked(member: tarfile.TarInfo, archive: str) -> PurePosixPath:
    """The name of ``member``, once it is seen to be harmless."""
    name, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    unsafe = f"{archive} holds {printable(member.name)}, "
    hint = "it is no archive of a checkpoint: nothing of it was kept"
    if name.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise FsgenError(f"{unsafe}a name that leads out of it", hint=hint)
    if member.issym() or member.islnk():
        raise FsgenError(f"{unsafe}a link", hint=hint)
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise FsgenError(f"{unsafe}which is neither a file nor a folder", hint=hint)
    return name


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what a missing, truncated or malformed archive provokes into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise FsgenError(f"there is no file {path}") from error
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise FsgenError(
            f"{path.name} is truncated or damaged ({printable(error)})",
            hint="download it again, or check that it is the file you mean",
        ) from error
    except OSError as error:
        raise FsgenError(f"cannot unpack {path}: {error.strerror or printable(error)}") from error
