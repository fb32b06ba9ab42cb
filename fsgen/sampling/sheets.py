"""Pictures on disk: sheets, single files and films of a model, alone or beside another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.data import image_output
from fsgen.data.images import SUFFIXES
from fsgen.errors import FsgenError
from fsgen.io.cache_folders import make_folder
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler
from fsgen.sampling.sampler import Loaded

FPS = 24


@dataclass(frozen=True)
class Job:
    """What was asked of ``fsgen sample``."""

    model: str
    out: Path
    seeds: list[int]
    truncation: float = 1.0
    noise: str = "const"
    label: str | None = None  # a class, by number or name
    instance: Path | None = None  # images to draw after
    features: str = ""  # of those images; empty: the model's own
    weights_dir: Path | None = None  # where the weights of their network lie, if not where they always do
    content: Path | None = None  # pictures to translate
    candidates: int = 1  # latents tried for each picture drawn after an image
    columns: int | None = None  # of a sheet; None: as square as it comes
    compare: str | None = None
    strength: float | None = None
    swap_above: int | None = None
    other: str | None = None
    device: str = "auto"


def write(job: Job, callbacks: Callbacks) -> list[Path]:
    """One sheet (a ``.png``) or one file a seed (a folder); returns what was written.

    Raises:
        FsgenError: refused options, or a place that cannot be written to.
    """
    one = job.out.suffix.lower() == ".png"
    if job.out.suffix.lower() in (".gif", ".webp", ".mp4"):
        raise FsgenError(f"{job.out.name} is a film", hint="add --interpolate, or choose a .png or a folder")
    if not one and job.out.suffix.lower() in SUFFIXES:
        raise FsgenError(f"pictures are written as PNG, not as {job.out.name}", hint="a .png or a folder")
    if not one and (job.compare or job.columns):
        raise FsgenError("--grid and --compare make one sheet", hint="give --out a name ending in .png")
    loaded = _ready(job)
    beside = sampler.ready(models.load(job.compare), job.device) if job.compare else None
    make_folder(job.out.parent if one else job.out)  # better refused now than after the pictures are made
    return [_sheet(job, loaded, beside, callbacks)] if one else _files(job, loaded, callbacks)


def film(job: Job, frames: int, callbacks: Callbacks) -> list[Path]:
    """A walk through the seeds and back to the first, ``frames`` from one to the next."""
    image_output.animation_writer(job.out)  # refuse a wrong suffix before any work
    if frames < 1:
        raise FsgenError("--frames is at least 1")
    if job.compare or job.columns:
        raise FsgenError("--grid and --compare make one sheet, not a film", hint="leave them out")
    loaded = _ready(job)
    make_folder(job.out.parent)
    shots = []
    for inputs in sampler.walk(loaded, job.seeds, frames, sampler.class_of(loaded.model, job.label)):
        shots.append(image_output.picture(loaded.render(inputs, job.truncation, job.noise)[0]))
        callbacks.progress("frames", len(shots), frames * len(job.seeds))
    image_output.save_animation(shots, job.out, FPS, _text(job, loaded.model))
    return [job.out]


def _ready(job: Job) -> Loaded:
    """The model asked for, drawing after the images asked for."""
    if job.candidates < 1:
        raise FsgenError("--candidates is at least 1")
    loaded = sampler.ready(_model(job), job.device)
    if job.instance is not None:
        return loaded.after(job.instance, job.features, weights_dir=job.weights_dir)
    if job.candidates > 1:
        return loaded.looking(job.features, job.weights_dir)
    return loaded if job.content is None else loaded.translating(job.content)


def _batches(job: Job, loaded: Loaded) -> Iterator[torch.Tensor]:
    label = sampler.class_of(loaded.model, job.label)
    if job.candidates > 1:
        return loaded.chosen(job.seeds, job.candidates, job.truncation, job.noise, label=label)
    return loaded.images(job.seeds, job.truncation, job.noise, label=label)


def _model(job: Job) -> Model:
    """The model asked for, mixed with another where that was asked for too."""
    found = models.load(job.model)
    if job.strength is None and job.swap_above is None:
        if job.other:
            raise FsgenError("--other is of use with --strength or --swap-above only")
        return found
    other = models.load(job.other) if job.other else sampler.source_of(found)
    if job.strength is not None:
        found = sampler.blend(other, found, job.strength)
    if job.swap_above is not None:
        found = sampler.swap_above(found, other, job.swap_above)
    return found


def _sheet(job: Job, loaded: Loaded, beside: Loaded | None, callbacks: Callbacks) -> Path:
    columns = job.columns or math.ceil(math.sqrt(len(job.seeds)))
    ours = _all(job, loaded, callbacks)
    if beside is None:
        sheet = image_output.grid(ours, columns)
    else:
        theirs = _all(job, beside, callbacks)
        if theirs.shape != ours.shape:
            raise FsgenError(
                f"{job.compare} makes pictures of another size than {job.model}",
                hint="compare with a model of the same resolution",
            )
        sheet = image_output.pairs(theirs, ours, columns)
    image_output.save_png(sheet, job.out, _text(job, loaded.model))
    return job.out


def _all(job: Job, loaded: Loaded, callbacks: Callbacks) -> torch.Tensor:
    done = []
    for batch in _batches(job, loaded):
        done.append(image_output.to_uint8(batch))
        callbacks.progress("pictures", sum(map(len, done)), len(job.seeds))
    return torch.cat(done)


def _files(job: Job, loaded: Loaded, callbacks: Callbacks) -> list[Path]:
    text = _text(job, loaded.model)
    paths: list[Path] = []
    for batch in _batches(job, loaded):
        for image in image_output.to_uint8(batch):
            seed = job.seeds[len(paths)]
            paths.append(job.out / f"seed{seed:05d}.png")
            image_output.save_png(image_output.picture(image), paths[-1], {**text, "seed": str(seed)})
        callbacks.progress("pictures", len(paths), len(job.seeds))
    return paths


def _text(job: Job, model: Model) -> dict[str, str]:
    """What a picture says of itself."""
    return {
        "Software": f"fsgen {fsgen.__version__}",
        "model": model.hash,
        "licence": str(model.about.get("licence") or "unknown"),
        "seed": ",".join(map(str, job.seeds)),
        "truncation": str(job.truncation),
        **({"class": job.label} if job.label is not None else {}),
    }
