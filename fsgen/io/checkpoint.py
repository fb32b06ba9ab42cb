"""The native checkpoint: one ``.safetensors`` file, networks by prefix, what it is in the header.

Tensors: ``g.*`` (training weights), ``g_ema.*`` (their moving average), ``d.*``. Header: format, family, spec
and everything about where the file came from, as JSON under ``fsgen``; title and licence also under the
``modelspec.*`` keys that other tools show.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fsgen.atomic import atomic
from fsgen.errors import FsgenError

FORMAT = "fsgen/1"


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values: the identity of a checkpoint.

    The file's own bytes are not: safetensors does not fix the order of its header.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def write_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write atomically: the file at ``path`` is the old one or the new one, never a part.

    ``header`` holds plain values; it is stored as JSON.
    """
    metadata = {"format": "pt", "fsgen": json.dumps({"format": FORMAT, **header}, sort_keys=True)}
    for key in ("title", "licence"):
        if header.get(key):
            metadata[f"modelspec.{key.replace('licence', 'license')}"] = str(header[key])
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        mode = temporary.stat().st_mode
        save_file(ready, temporary, metadata)
        temporary.chmod(mode)  # safetensors makes files that nobody else may read


def header(path: Path) -> dict[str, Any] | None:
    """The fsgen header of a file, or None for a file that is not ours."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fsgen")
    except (SafetensorError, OSError):
        return None
    return None if text is None else _parsed(text, path)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, header) of a native file, on the CPU.

    Raises:
        FsgenError: not a safetensors file, a truncated one, or one that fsgen did not write.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fsgen")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FsgenError(f"no such file: {path}") from None
    except (SafetensorError, OSError) as error:
        foreign = path.suffix != ".safetensors"
        hint = _import(path) if foreign else "it may have been cut short: fetch or copy it again"
        raise FsgenError(f"{path} cannot be read as a checkpoint of fsgen's ({error})", hint=hint) from None
    if text is None:
        raise FsgenError(f"{path} was not written by fsgen", hint=_import(path))
    values = _parsed(text, path)
    if values.get("format") != FORMAT:
        raise FsgenError(
            f"{path} has format {values.get('format')}; this fsgen reads {FORMAT}", hint="update fsgen"
        )
    return tensors, values


def _import(path: Path) -> str:
    return f"if another program wrote it, import it first: fsgen pull {shlex.quote(str(path))}"


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise FsgenError(f"the header of {path} is damaged", hint="restore the file, or make it again")
    return values


def split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """``g.x`` -> ``["g"]["x"]``."""
    out: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, key = name.split(".", 1)
        out.setdefault(network, {})[key] = tensor
    return out


def join(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The inverse of ``split``."""
    return {f"{network}.{key}": t for network, state in networks.items() for key, t in state.items()}
