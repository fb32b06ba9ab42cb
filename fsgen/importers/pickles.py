"""Read single-file checkpoints: PyTorch, NVIDIA pickles, safetensors. Nothing in a file is executed.

Every pickle goes through ``restricted_unpickler``; the tables here list the globals each format may name.
"""

from __future__ import annotations

import gzip
import io
import itertools
import mmap
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fsgen.atomic import FULL
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.importers.layouts import collect_networks
from fsgen.importers.restricted_unpickler import (
    COMMON,
    DAMAGE,
    Array,
    Global,
    Globals,
    Machine,
    Record,
    Storage,
    Strided,
    new_dict,
    printable,
)
from fsgen.interfaces import Foreign

AGAIN = "download it again, or check that it is the file you mean"
Buffer = bytes | mmap.mmap


def _latin1(text: object, *_: object) -> bytes:
    """Stand-in for codecs.encode, with which protocol 2 writes the bytes of a numpy scalar."""
    if not isinstance(text, str) or len(text) > 16:
        raise ValueError("bytes that are not a number")
    return text.encode("latin1")


TORCH: Globals = {
    **COMMON,
    ("_codecs", "encode"): _latin1,
    ("argparse", "Namespace"): lambda: Record("Namespace"),
    ("torch.nn.modules.activation", "ReLU"): lambda: Record("ReLU"),
    ("torch", "Size"): lambda sizes: sizes,
    ("torch._utils", "_rebuild_tensor"): Strided,  # before torch 0.4
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
}
"""Globals of state dicts and of settings saved with them (a Namespace in rosinality's files, a ReLU in
BigGAN's)."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a torch file before 1.6
_PREFIXES = ("g", "g_ema", "d", "G", "G_ema", "D")  # network prefixes of keys in a flat file


def read_nvidia(path: str | Path) -> Foreign:
    """Read a pickle of StyleGAN2-ADA or StyleGAN3, or a TensorFlow-era (G, D, Gs) as G, D, G_ema.

    ``settings`` maps dotted names to ``class_name`` and every plain attribute of every module. TensorFlow-era
    networks have ``era = "tensorflow"`` there and unchanged variables (HWIO, names with ``/``).

    Raises:
        FsgenError: as ``read_foreign``.
    """
    path = Path(path)
    with explain_damage(path), _mapped(path) as raw:
        steps = itertools.count()

        def storage_of(payload: object) -> Any:
            if not isinstance(payload, bytes):
                raise ValueError("a storage without bytes")
            return _unpickle_legacy(payload, path.name, steps)

        allowed = {
            **COMMON,
            ("dnnlib.util", "EasyDict"): new_dict,
            ("torch.storage", "_load_from_bytes"): storage_of,
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
            # TensorFlow era
            ("dnnlib.tflib.network", "Network"): lambda: Record("Network"),
            ("numpy.core.multiarray", "_reconstruct"): Array,
            ("numpy._core.multiarray", "_reconstruct"): Array,
            ("numpy", "ndarray"): None,
        }
        data = Machine(path.name, allowed, steps=steps).run(raw)
        return collect_networks(data, "nvidia-pkl", path.name, len(raw))


def read_torch(path: str | Path, *, networks: bool = True) -> Foreign:
    """Read a .pt or .pth file: a zip, or the format before torch 1.6.

    Dicts of tensors become networks (a flat state dict: network ``""``), other tensors and scalars extras;
    optimiser states are not read.

    Args:
        networks: refuse a file without networks.

    Raises:
        FsgenError: as ``read_foreign``.
    """
    path = Path(path)
    with explain_damage(path), path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                size, data = _unpacked_size(archive, path), _unpickle_zip(archive, path.name)
                return collect_networks(data, "torch", path.name, size, networks=networks)
        with _mapped(path) as raw:
            data = _unpickle_legacy(raw, path.name)
            return collect_networks(data, "torch", path.name, len(raw), networks=networks)


def read_safetensors(path: str | Path) -> Foreign:
    """Read a safetensors file; keys are split at the first dot if all begin with a known network prefix.

    Raises:
        FsgenError: as ``read_foreign``.
    """
    path = Path(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    extras: PlainDict = {}
    with explain_damage(path), safe_open(path, framework="pt") as file:
        keys = list(file.keys())
        weights = [key for key in keys if key != "latent_avg"]
        split = all("." in key and key.partition(".")[0] in _PREFIXES for key in weights)
        for key in weights:
            network, _, rest = key.partition(".") if split else ("", "", key)
            tensors.setdefault(network, {})[rest] = file.get_tensor(key)
        if "latent_avg" in keys:
            extras["latent_avg"] = file.get_tensor("latent_avg")
        if file.metadata():
            extras["metadata"] = dict(file.metadata())
    return Foreign("safetensors", tensors, extras=extras)


# ---- files ----------------------------------------------------------------------------------------------


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Raise the errors that a missing, truncated or malformed file causes as ``FsgenError``."""
    broken = zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, SafetensorError
    try:
        yield
    except FileNotFoundError as error:
        raise FsgenError(f"there is no file {path}", code=Code.NOT_FOUND, where=path) from error
    except (*DAMAGE, *broken) as error:
        message = f"{path.name} is truncated or damaged ({printable(error) or type(error).__name__})"
        raise FsgenError(message, code=Code.DAMAGED, where=path, hint=AGAIN) from error
    except OSError as error:
        message = f"cannot read {path}: {error.strerror or printable(error)}"
        code = Code.SYSTEM if error.errno in FULL else Code.UNSUPPORTED  # unpacking may fill the disk
        raise FsgenError(message, code=code, where=path) from error


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map the file into memory, so that unused storages are never read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        yield raw


def _slice(raw: Buffer, start: int, end: int) -> bytes:
    return raw[start:end]


def _unpickle_legacy(raw: Buffer, name: str, steps: Iterator[int] | None = None) -> Any:
    """torch.save before 1.6: five pickles (magic, protocol, machine, object, keys), then the storages."""
    steps = steps if steps is not None else itertools.count()
    storages: dict[str, Storage] = {}
    stream = io.BytesIO(raw) if isinstance(raw, bytes) else raw

    def persistent(reference: Any) -> Storage:
        _, kind, key, _, count, view = reference
        if view is not None:
            raise ValueError("a tensor layout older than torch 0.4")
        return _storage(storages, kind, key, count)

    magic, _, machine = (Machine(name, {}, steps=steps).run(stream) for _ in range(3))
    if magic != _LEGACY_MAGIC or machine["little_endian"] is not True:
        raise ValueError("not a torch file, or written on a big-endian machine")
    data = Machine(name, TORCH, persistent, steps).run(stream)
    keys = Machine(name, {}, steps=steps).run(stream)
    start = stream.tell()
    for key in keys:
        storage = storages.pop(key)
        start, end = start + 8, start + 8 + storage.nbytes
        if int.from_bytes(raw[start - 8 : start], "little") != storage.count or end > len(raw):
            raise ValueError("its tensors are cut off")
        storage.read = partial(_slice, raw, start, end)
        start = end
    if storages:
        raise ValueError("tensors without data")
    return data


def _unpickle_zip(archive: zipfile.ZipFile, name: str) -> Any:
    """torch.save since 1.6: ROOT/data.pkl, and ROOT/data/KEY for each storage, uncompressed."""
    names = set(archive.namelist())
    roots = [entry.removesuffix("data.pkl") for entry in names if re.fullmatch(r"[^/]+/data\.pkl", entry)]
    if len(roots) != 1:
        message = f"{name} is a zip archive, but not a PyTorch checkpoint"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=name)
    root = roots[0]
    if f"{root}constants.pkl" in names:
        message = f"{name} is a TorchScript program; fsgen runs no code from a file"
        hint = "weights saved as plain tensors (a state dict, or .safetensors) can be read"
        raise FsgenError(message, code=Code.UNSAFE, where=name, hint=hint)
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        message = f"{name} was written on a big-endian machine, which fsgen does not support"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=name)
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        _, kind, key, _, count = reference
        storage = _storage(storages, kind, key, count)
        if archive.getinfo(f"{root}data/{key}").file_size != storage.nbytes:
            raise ValueError("a storage whose size differs from the stated one")
        storage.read = partial(archive.read, f"{root}data/{key}")
        return storage

    return Machine(name, TORCH, persistent).run(io.BytesIO(archive.read(f"{root}data.pkl")))


def _storage(known: dict[str, Storage], kind: Any, key: Any, count: Any) -> Storage:
    """Return the storage ``key``: one object for all references to it."""
    if not isinstance(key, str) or not isinstance(kind, Global):
        raise ValueError("a storage without a name or a type")
    storage = known.setdefault(key, Storage(kind.stand_in, count))
    if (storage.dtype, storage.count) != (kind.stand_in, count):
        raise ValueError("one storage described in two ways")
    return storage


def _unpacked_size(archive: zipfile.ZipFile, path: Path) -> int:
    """Bytes that the archive unpacks to; refused if far more than the file, as torch does not compress."""
    size = sum(entry.file_size for entry in archive.infolist())
    if size > 16 * path.stat().st_size + 2**20:
        message = f"{path.name} would unpack to {size:,} bytes, too many for a checkpoint of its size"
        raise FsgenError(message, code=Code.UNSAFE, where=path)
    return size


def _persistent(meta: Any) -> Record:
    """NVIDIA's persistent object, without ``module_src``, the source code that NVIDIA's loader would run."""
    values = meta if type(meta) is dict else {}
    name, state = values.get("class_name"), values.get("state")
    if not isinstance(name, str) or type(state) is not dict:
        raise ValueError("a persistent object without a class name or a state")
    return Record(name, state)
