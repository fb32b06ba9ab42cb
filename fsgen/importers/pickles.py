"""Other people's checkpoints, read without executing anything in them.

What a file is, is told by its content, never by its name. Pickles of every kind go through the machine of
``unpickle``; the tables here say what a file of each format may name, and nothing outside them is read.
"""

from __future__ import annotations

import io
import itertools
import mmap
import re
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

from fsgen.errors import FsgenError
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

Buffer = bytes | mmap.mmap


def _latin1(text: object, *_: object) -> bytes:
    """Stand-in for codecs.encode, by which protocol 2 writes the few bytes of a numpy number."""
    if not isinstance(text, str) or len(text) > 16:
        raise ValueError("bytes that are no number")
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
"""What torch.save writes for state dicts, and what is among settings saved beside them: the Namespace of
rosinality's, the ReLU of BigGAN's."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a torch file before 1.6
_LEGACY = re.compile(rb"\x80.\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\.", re.DOTALL)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PREFIXES = ("g", "g_ema", "d", "G", "G_ema", "D")  # networks by which a flat file's keys may begin


def read_foreign(path: str | Path) -> Foreign:
    """Somebody else's checkpoint of any format below, recognised by its first bytes.

    Raises:
        FsgenError: no such file, no checkpoint, damaged, or it asks to run something.
    """
    path = Path(path)
    with _reading(path):
        with path.open("rb") as file:
            head = file.read(32)
        if head.startswith(b"PK\x03\x04") or _LEGACY.match(head):
            return read_torch(path)
        if _PICKLE.match(head):
            return read_nvidia(path)
        if _is_safetensors(head, path.stat().st_size):
            return read_safetensors(path)
    kind = (
        "is a web page"
        if re.match(rb"\s*<[!?a-zA-Z]", head)
        else "is empty"
        if not head
        else "is no checkpoint"
    )
    raise FsgenError(
        f"{path.name} {kind}: fsgen reads PyTorch .pt and .pth files, NVIDIA .pkl files and .safetensors",
        hint="download it again, or check that it is the file you mean",
    )


def read_nvidia(path: str | Path) -> Foreign:
    """A pickle of StyleGAN2-ADA or StyleGAN3, or a TensorFlow-era (G, D, Gs), which becomes G, D, G_ema.

    ``settings`` tells ``class_name`` and every plain attribute of every module, by dotted name. Networks of
    the TensorFlow era have ``era = "tensorflow"`` there, and their variables as they are (HWIO, ``/`` names).

    Raises:
        FsgenError: as ``read_foreign``.
    """
    path = Path(path)
    with _reading(path), _mapped(path) as raw:
        steps = itertools.count()

        def storage_of(payload: object) -> Any:
            if not isinstance(payload, bytes):
                raise ValueError("a storage without bytes")
            return _legacy(payload, path.name, steps)

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
    """A .pt or .pth file, zip or in the format before torch 1.6.

    Dicts of tensors become networks (a flat state dict: network ``""``), loose tensors and scalars extras;
    optimiser states are left where they are. ``networks``: whether a file without any is refused.

    Raises:
        FsgenError: as ``read_foreign``.
    """
    path = Path(path)
    with _reading(path), path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                size = _checked_size(archive, path)
                return collect_networks(
                    _zipped(archive, path.name), "torch", path.name, size, networks=networks
                )
        with _mapped(path) as raw:
            return collect_networks(_legacy(raw, path.name), "torch", path.name, len(raw), networks=networks)


def read_safetensors(path: str | Path) -> Foreign:
    """A safetensors file; its keys are split at the first dot where all of them begin with a known network.

    Raises:
        FsgenError: as ``read_foreign``.
    """
    path = Path(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    extras: dict[str, Any] = {}
    with _reading(path), safe_open(path, framework="pt") as file:
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
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a missing, truncated or malformed file provokes into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise FsgenError(f"there is no file {path}") from error
    except OSError as error:
        raise FsgenError(f"cannot read {path}: {error.strerror or printable(error)}") from error
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, SafetensorError) as error:
        raise FsgenError(
            f"{path.name} is truncated or damaged ({printable(error) or type(error).__name__})",
            hint="download it again, or check that it is the file you mean",
        ) from error


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """The file's bytes, mapped, so that what nobody asks for is never read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        yield raw


def _is_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _slice(raw: Buffer, start: int, end: int) -> bytes:
    return raw[start:end]


def _legacy(raw: Buffer, name: str, steps: Iterator[int] | None = None) -> Any:
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
        raise ValueError("no torch file, or one of a big-endian machine")
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
        raise ValueError("tensors without numbers")
    return data


def _zipped(archive: zipfile.ZipFile, name: str) -> Any:
    """torch.save since 1.6: ROOT/data.pkl, and ROOT/data/KEY for each storage, uncompressed."""
    names = set(archive.namelist())
    roots = [entry.removesuffix("data.pkl") for entry in names if re.fullmatch(r"[^/]+/data\.pkl", entry)]
    if len(roots) != 1:
        raise FsgenError(f"{name} is a zip archive, but no PyTorch checkpoint")
    root = roots[0]
    if f"{root}constants.pkl" in names:
        raise FsgenError(
            f"{name} is a TorchScript program; fsgen runs nothing from a file",
            hint="weights saved as plain tensors (a state dict, or .safetensors) can be read",
        )
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise FsgenError(f"{name} was written on a big-endian machine, which fsgen does not read")
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        _, kind, key, _, count = reference
        storage = _storage(storages, kind, key, count)
        if archive.getinfo(f"{root}data/{key}").file_size != storage.nbytes:
            raise ValueError("a storage of another size than it claims")
        storage.read = partial(archive.read, f"{root}data/{key}")
        return storage

    return Machine(name, TORCH, persistent).run(io.BytesIO(archive.read(f"{root}data.pkl")))


def _storage(known: dict[str, Storage], kind: Any, key: Any, count: Any) -> Storage:
    """The storage called ``key``, the same object each time a file points at it."""
    if not isinstance(key, str) or not isinstance(kind, Global):
        raise ValueError("a storage without a name or a type")
    storage = known.setdefault(key, Storage(kind.stand_in, count))
    if (storage.dtype, storage.count) != (kind.stand_in, count):
        raise ValueError("one storage described in two ways")
    return storage


def _checked_size(archive: zipfile.ZipFile, path: Path) -> int:
    """Bytes the archive unpacks to; torch compresses nothing, so much more than the file is a trap."""
    size = sum(entry.file_size for entry in archive.infolist())
    limit = 16 * path.stat().st_size + 2**20
    if size > limit:
        raise FsgenError(f"{path.name} would unpack to {size:,} bytes, which no checkpoint of its size does")
    return size


def _persistent(meta: Any) -> Record:
    """NVIDIA's persistent object. Its ``module_src``, source code for a loader to run, is dropped here."""
    if (
        type(meta) is not dict
        or type(meta.get("state")) is not dict
        or not isinstance(meta.get("class_name"), str)
    ):
        raise ValueError("a persistent object without a class name or a state")
    return Record(meta["class_name"], meta["state"])
