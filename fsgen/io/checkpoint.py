"""The native checkpoint: one ``.safetensors`` file with networks by prefix and a JSON header.

Tensors: ``g.*`` (training weights), ``g_ema.*`` (their moving average), ``d.*``. Header under ``fsgen``:
format, family, spec, provenance; title and licence also under the ``modelspec.*`` keys that other tools show.
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
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError

FORMAT = "fsgen/1"


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values, which identifies a checkpoint.

    The file's bytes do not: safetensors does not fix the order of its header.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def write_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a native file atomically.

    Args:
        header: plain values, stored as JSON.
    """
    metadata = {"format": "pt", "fsgen": json.dumps({"format": FORMAT, **header}, sort_keys=True)}
    for key in ("title", "licence"):
        if header.get(key):
            metadata[f"modelspec.{key.replace('licence', 'license')}"] = str(header[key])
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        mode = temporary.stat().st_mode
        save_file(ready, temporary, metadata)
        temporary.chmod(mode)  # safetensors creates files that only their owner may read


def header(path: Path) -> PlainDict | None:
    """Read the fsgen header of a file; None for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fsgen")
    except (SafetensorError, OSError):
        return None
    return None if text is None else _parse_header(text, path)


def read_file(path: Path) -> tuple[dict[str, Tensor], PlainDict]:
    """Read the tensors, on the CPU, and the header of a native file.

    Raises:
        FsgenError: not a safetensors file, truncated, or not written by fsgen.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fsgen")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FsgenError(f"no such file: {path}", code=Code.NOT_FOUND, where=path) from None
    except (SafetensorError, OSError) as error:
        truncated = path.suffix == ".safetensors"
        hint = "it may have been cut short: fetch or copy it again" if truncated else _pull_hint(path)
        message = f"{path} cannot be read as a checkpoint of fsgen ({error})"
        raise FsgenError(message, code=Code.DAMAGED, where=path, hint=hint) from None
    if text is None:
        message = f"{path} was not written by fsgen"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=path, hint=_pull_hint(path))
    values = _parse_header(text, path)
    if values.get("format") != FORMAT:
        message = f"{path} has format {values.get('format')}; this fsgen reads {FORMAT}"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=path, hint="update fsgen")
    return tensors, values


def _pull_hint(path: Path) -> str:
    return f"if another program wrote it, import it first: fsgen pull {shlex.quote(str(path))}"


def _parse_header(text: str, path: Path) -> PlainDict:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        message, hint = f"the header of {path} is damaged", "restore the file, or create it again"
        raise FsgenError(message, code=Code.DAMAGED, where=path, hint=hint)
    return values


def split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group tensors by network: ``g.x`` -> ``["g"]["x"]``."""
    out: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, key = name.split(".", 1)
        out.setdefault(network, {})[key] = tensor
    return out


def join(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The inverse of ``split``."""
    return {f"{network}.{key}": t for network, state in networks.items() for key, t in state.items()}
