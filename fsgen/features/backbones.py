"""The networks that look at images, by name: features (``build``) and LPIPS distances (``Lpips``)."""

from __future__ import annotations

from pathlib import Path

import torch

from fsgen.errors import FsgenError, suggest
from fsgen.features.extractor import Extractor
from fsgen.features.inception import Inception, resize_clean
from fsgen.features.lpips_network import Lpips
from fsgen.features.vit import Clip, Dinov2

__all__ = ["EXTRACTORS", "Clip", "Dinov2", "Extractor", "Inception", "Lpips", "build", "resize_clean"]

EXTRACTORS: dict[str, type[Extractor]] = {cls.name: cls for cls in (Inception, Clip, Dinov2)}


def build(name: str, path: Path, device: torch.device | str = "cpu", mode: str | None = None) -> Extractor:
    """The feature network called ``name``.

    Args:
        name: "inception", "clip" or "dinov2".
        path: its weights: ``weights.locate(weights.file_for(name, mode))``.
        device: where it runs.
        mode: how images are brought to it, of its ``modes``; default: the first.

    Raises:
        FsgenError: no such network or mode; the file is absent, damaged or another one; timm is absent.
    """
    if name not in EXTRACTORS:
        raise FsgenError(f"there is no feature network '{name}'", hint=suggest(name, list(EXTRACTORS)))
    return EXTRACTORS[name](path, device, mode)
