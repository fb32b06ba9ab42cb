"""Choice of the torch device."""

from __future__ import annotations

import torch

from fsgen.errors import Code, FsgenError


def pick(name: str = "auto") -> torch.device:
    """Return the device ``name``; ``auto`` picks the first available of cuda, mps and cpu.

    Raises:
        FsgenError: unavailable.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available.get(name.split(":")[0], False):
        hint = "usable: " + ", ".join(["auto", *(kind for kind, found in available.items() if found)])
        raise FsgenError(f"there is no device '{name}'", code=Code.UNKNOWN_NAME, where=name, hint=hint)
    return torch.device(name)
