"""The feature networks that condition a generator on an image (IC-GAN, Casanova et al. 2021), by name.

All give features of length one, so that the order by distance is that by angle.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fsgen.errors import FsgenError, suggest
from fsgen.features import bundled, timm_backbone, weight_files
from fsgen.features.bundled import Bundled
from fsgen.features.extractor import Extractor
from fsgen.features.resnet import ResNetClassifier, Swav
from fsgen.features.timm_backbone import PREFIX, Timm

NAMES = ("bundled", Swav.name, ResNetClassifier.name, f"{PREFIX}NAME")
"""What ``build`` knows; NAME is any of timm's."""


def build(
    name: str,
    path: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    weights_dir: Path | None = None,
    download: weight_files.Download | None = None,
) -> Extractor:
    """The feature network called ``name``: uint8 [n, 3, H, W] of any size -> float32 [n, dim] of length one.

    Args:
        name: "bundled" (drawings of faces; ships with fsgen), "swav", "resnet50", or "timm:" and any of
            timm's names.
        path: its weights; default: what ships, else where weights are looked for.
        device: where it runs.
        weights_dir: a folder of the user's to look into first.
        download: fetches what is absent (``weights.online()``); None keeps off the network.

    Raises:
        FsgenError: no such network; weights absent, damaged or of another one; timm is absent.
    """
    if name.startswith(PREFIX):
        model = name.removeprefix(PREFIX)
        return Timm(model, path or timm_backbone.locate(model, weights_dir, download), device)
    if name == Bundled.name:
        return Bundled(path or bundled.FILE, device)
    for network in (Swav, ResNetClassifier):
        if name == network.name:
            return network(path or weight_files.locate(name, weights_dir, download), device)
    raise FsgenError(f"there are no features '{name}'", hint=suggest(name, list(NAMES)))
