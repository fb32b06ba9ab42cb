"""The networks that the metrics asked for look through, as far as they are to be had."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsgen.callbacks import Callbacks
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import FsgenError
from fsgen.evaluation.availability import Notes
from fsgen.evaluation.discriminator_judge import DiscriminatorJudge
from fsgen.evaluation.image_sets import Subject
from fsgen.evaluation.protocols import Choices
from fsgen.features import feature_networks, weight_files
from fsgen.features.lpips_network import Lpips
from fsgen.measures import MEASURES, WITHOUT_FILE
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler as pictures

BUNDLED = "peeps64"  # whose discriminator looks at images of unknown origin
EXTRAS = ("clip", "dinov2")  # left out without a word where they are not there
FEATURES = ("inception", "clip", "dinov2")  # spaces whose features are kept and cached


@dataclass
class Networks:
    """What looks; absent ones are not asked for or not to be had."""

    features: dict[str, Any] = field(default_factory=dict)  # space -> a backbone
    lpips: Any = None  # AlexNet's
    groups: Any = None  # VGG's LPIPS, for intra-LPIPS and DIPD
    anchors: Tensor | None = None  # the training images in it, [k, D]
    discriminator: DiscriminatorJudge | None = None
    files: dict[str, Path] = field(default_factory=dict)  # weights that are used, by name


def files_of(protocol: Choices, names: list[str]) -> dict[str, str]:
    """Which weights each space of ``names`` reads: space -> name in weights.CATALOGUE."""
    spaces = dict.fromkeys(MEASURES[name].space for name in names)
    return {
        space: weight_files.file_for(space, protocol.fid if space == "inception" else None)
        for space in spaces
        if space not in WITHOUT_FILE
    }


def locate(
    protocol: Choices, folder: Path | None, download: bool, notes: Notes, callbacks: Callbacks
) -> dict[str, Path]:
    """Weight files by space. A download that was asked for must succeed; else what is absent is left out."""
    wanted = files_of(protocol, notes.metrics)
    if download:
        fetch = weight_files.downloader(
            say=callbacks.say, progress=lambda done, total: callbacks.progress("weights", done, total or 0)
        )
        found = weight_files.locate_files(wanted.values(), folder, fetch)
        return {space: found[name] for space, name in wanted.items()}
    strict = [space for space in wanted if notes.strict.intersection(notes.needs(space))]
    weight_files.locate_files([wanted[space] for space in strict], folder)  # names all absent ones at once
    found = {}
    for space, name in wanted.items():
        try:
            found[space] = weight_files.locate_file(name, folder)
        except FsgenError:
            base = name in weight_files.BASE
            error = FsgenError(
                "their networks are not on this machine",
                hint=f"fsgen pull metrics{'' if base else ' --everything'}, or --download, or --weights-dir",
            )
            if space in EXTRAS:
                notes.forget(notes.needs(space))
            else:
                notes.leave_out(notes.needs(space), error)
    return found


def build(
    files: dict[str, Path], protocol: Choices, resolution: int, device: torch.device, notes: Notes
) -> Networks:
    """The networks of ``files`` (space -> file); those of no use for such pictures are noted."""
    networks = Networks()
    for space, path in files.items():
        try:
            if space in FEATURES:
                mode = protocol.fid if space == "inception" else None
                networks.features[space] = feature_networks.build_metric_extractor(space, path, device, mode)
            else:
                lpips = Lpips("alex" if space == "alexnet" else "vgg", path, device)
                lpips.embed(torch.zeros(1, 3, resolution, resolution))  # too small a picture?
                setattr(networks, "lpips" if space == "alexnet" else "groups", lpips)
            networks.files[space] = path
        except FsgenError as error:
            notes.leave_out(notes.needs(space), error)
    return networks


def origin_of(subject: Subject, source: str | Path | None, notes: Notes) -> Model | None:
    """The source of what is evaluated, if it is at hand."""
    if source is not None:
        return models.load(source)
    if subject.model is None or not subject.model.about.get("source"):
        return None
    try:
        return pictures.source_of(subject.model)
    except FsgenError as error:
        notes.warn(f"{error.message}: there is no row of the source")
        return None


def eyes_of(subject: Subject, origin: Model | None, notes: Notes) -> Model:
    """Whose discriminator looks: the source's; a source's own; else the bundled one."""
    adapted = subject.model is not None and subject.model.about.get("source")
    model = origin if origin is not None or adapted else subject.model
    if model is not None and "d" in model.networks:
        return model
    notes.warn(
        "no discriminator of its source is at hand: near copies and diversity are as that of "
        f"{BUNDLED} sees them"
    )
    return models.load(BUNDLED)


def shots_of(
    subject: Subject, shots: str | Path | None, resolution: int, fit: str, notes: Notes
) -> ImageSet | None:
    """The training images, or None where they are not known; metrics that need them are left out then."""
    if shots is not None:
        return load_images(shots, resolution, fit=fit)
    about = {} if subject.model is None else subject.model.about
    run = about.get("provenance", {}).get("run", {})
    remedy = "name them: --shots DIR"
    if not run.get("images"):
        error = FsgenError("the training images are not recorded", hint=remedy)
    elif not Path(run["images"]).exists():
        error = FsgenError(f"the training images are no longer at {run['images']}", hint=remedy)
    else:
        found = load_images(run["images"], resolution, fit=run.get("fit", fit))
        if found.digest == run.get("images_digest"):
            return found
        error = FsgenError(f"the images in {run['images']} are not those of the training", hint=remedy)
    notes.leave_out(("near_copies", "intra_lpips"), error)
    return None


def anchors(lpips: Any, shots: Tensor, batch: int) -> Tensor:
    """The training images, uint8 [k, C, H, W], as LPIPS points [k, D]."""
    from fsgen.evaluation.accumulators import embedded

    with torch.no_grad():
        return torch.cat([embedded(lpips, part) for part in shots.split(batch)])
