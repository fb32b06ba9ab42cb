"""The feature networks by name: those the metrics use, and those that condition a generator on an image.

The latter (IC-GAN, Casanova et al. 2021) give features of length one: distances and angles rank alike.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fsgen.errors import unknown_name
from fsgen.features import bundled, timm_network, weight_files
from fsgen.features.base_extractor import Extractor
from fsgen.features.bundled import Bundled
from fsgen.features.inception import Inception
from fsgen.features.resnet import ResNetClassifier, Swav
from fsgen.features.timm_network import PREFIX, TimmNetwork
from fsgen.features.vit import Clip, Dinov2

METRIC_EXTRACTORS: dict[str, type[Extractor]] = {cls.name: cls for cls in (Inception, Clip, Dinov2)}
INSTANCE_EXTRACTORS: dict[str, type[Extractor]] = {cls.name: cls for cls in (Bundled, Swav, ResNetClassifier)}
INSTANCE_NAMES = (*INSTANCE_EXTRACTORS, f"{PREFIX}NAME")
"""Names ``build_instance_extractor`` takes; NAME is any of timm's."""


def build_metric_extractor(
    name: str, path: Path, device: torch.device | str = "cpu", mode: str | None = None
) -> Extractor:
    """Build a feature network of ``METRIC_EXTRACTORS``.

    Args:
        name: "inception", "clip" or "dinov2".
        path: its weights: ``weight_files.locate_file(weight_files.file_for(name, mode))``.
        device: where it runs.
        mode: preprocessing, one of the network's ``modes``; default: the first.

    Raises:
        FsgenError: unknown network or mode; weights absent, damaged or of another network.
    """
    if name not in METRIC_EXTRACTORS:
        raise unknown_name(f"there is no feature network '{name}'", name, METRIC_EXTRACTORS)
    return METRIC_EXTRACTORS[name](path, device, mode)


def build_instance_extractor(
    name: str,
    path: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    weights_dir: Path | None = None,
    download: weight_files.Download | None = None,
) -> Extractor:
    """Build a network that maps uint8 [n, 3, H, W] of any size to float32 [n, dim] of length one.

    Args:
        name: "bundled" (face drawings; ships with fsgen), "swav", "resnet50", or "timm:" and a timm name.
        path: its weights; default: the bundled file, else the file that ``weight_files`` locates.
        device: where it runs.
        weights_dir: a folder of the user's that is searched first.
        download: fetches absent weights (``weight_files.downloader()``); None: no network access.

    Raises:
        FsgenError: unknown network; weights absent, damaged or of another network.
    """
    if name.startswith(PREFIX):
        model = name.removeprefix(PREFIX)
        return TimmNetwork(model, path or timm_network.locate_timm_file(model, weights_dir, download), device)
    if name not in INSTANCE_EXTRACTORS:
        raise unknown_name(f"there are no features '{name}'", name, INSTANCE_NAMES, where="--features")
    if path is None:
        path = bundled.FILE if name == Bundled.name else weight_files.locate_file(name, weights_dir, download)
    return INSTANCE_EXTRACTORS[name](path, device)
