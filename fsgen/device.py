"""Which device to work on."""

from __future__ import annotations

import torch

from fsgen.errors import FsgenError


def pick(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto``: cuda where there is one, then mps, then the CPU.

    Raises:
        FsgenError: not a device of this machine.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there.get(name.split(":")[0], False):
        usable = ", ".join(kind for kind, usable in there.items() if usable)
        raise FsgenError(f"there is no device '{name}' here", hint=f"usable: auto, {usable}")
    return torch.device(name)
