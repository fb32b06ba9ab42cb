"""Load the networks that the requested metrics need, as far as their weight files are available."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fsgen.callbacks import Callbacks
from fsgen.errors import Code, FsgenError
from fsgen.evaluation.availability import Availability
from fsgen.evaluation.discriminator_judge import DiscriminatorJudge
from fsgen.evaluation.protocols import Choices
from fsgen.features import feature_networks, weight_files
from fsgen.features.base_extractor import Extractor
from fsgen.features.lpips_network import Lpips
from fsgen.io.checksums import hash_file
from fsgen.measures import MEASURES, WITHOUT_FILE

EXTRAS = ("clip", "dinov2")  # left out without a message if absent
FEATURES = ("inception", "clip", "dinov2")  # spaces whose features are stored and cached


@dataclass
class MetricNetworks:
    """The networks in use; None if not needed or not available."""

    features: dict[str, Extractor] = field(default_factory=dict)  # by space
    alexnet: Lpips | None = None
    vgg: Lpips | None = None  # for intra-LPIPS and DIPD
    shot_points: Tensor | None = None  # the training images as points of ``vgg``, [k, D]
    discriminator: DiscriminatorJudge | None = None
    files: dict[str, Path] = field(default_factory=dict)  # weight files in use, by space

    def weights(self) -> dict[str, dict[str, str]]:
        """File name -> hash and space of the weight files in use, for a report."""
        return {path.name: {"sha256": hash_file(path), "space": space} for space, path in self.files.items()}


def wanted_files(protocol: Choices, names: list[str]) -> dict[str, str]:
    """Space -> name in ``weight_files.CATALOGUE``, for the metrics ``names``."""
    spaces = dict.fromkeys(MEASURES[name].space for name in names)
    return {
        space: weight_files.file_for(space, protocol.fid if space == "inception" else None)
        for space in spaces if space not in WITHOUT_FILE
    }  # fmt: skip


def locate_weights(
    protocol: Choices, folder: Path | None, download: bool, metrics: Availability, callbacks: Callbacks
) -> dict[str, Path]:
    """Find the weight files by space; metrics whose files are absent are left out.

    Raises:
        FsgenError: a download failed, or a metric requested by name has no weights.
    """
    wanted = wanted_files(protocol, metrics.metrics)
    if download:
        fetch = weight_files.downloader(
            say=callbacks.say, progress=lambda done, total: callbacks.progress("weights", done, total or 0)
        )
        found = weight_files.locate_files(wanted.values(), folder, fetch)
        return {space: found[name] for space, name in wanted.items()}
    strict = [space for space in wanted if metrics.strict.intersection(metrics.in_spaces(space))]
    weight_files.locate_files([wanted[space] for space in strict], folder)  # one error names all absent files
    found = {}
    for space, name in wanted.items():
        try:
            found[space] = weight_files.locate_file(name, folder)
        except FsgenError:
            base = name in weight_files.BASE
            error = FsgenError(
                "their networks are not on this machine", code=Code.MISSING_WEIGHTS, where=name,
                hint=f"fsgen pull metrics{'' if base else ' --everything'}, or --download, or --weights-dir",
            )  # fmt: skip
            if space in EXTRAS:
                metrics.drop(metrics.in_spaces(space))
            else:
                metrics.exclude(metrics.in_spaces(space), error)
    return found


def load_networks(
    files: dict[str, Path], protocol: Choices, resolution: int, device: torch.device, metrics: Availability
) -> MetricNetworks:
    """Load the networks of ``files``; leave out metrics that need images larger than ``resolution``."""
    networks = MetricNetworks()
    for space, path in files.items():
        try:
            if space in FEATURES:
                mode = protocol.fid if space == "inception" else None
                networks.features[space] = feature_networks.build_metric_extractor(space, path, device, mode)
            else:
                lpips = Lpips("alex" if space == "alexnet" else "vgg", path, device)
                lpips.embed(torch.zeros(1, 3, resolution, resolution))  # raises if too small
                setattr(networks, "alexnet" if space == "alexnet" else "vgg", lpips)
            networks.files[space] = path
        except FsgenError as error:
            metrics.exclude(metrics.in_spaces(space), error)
    return networks
