"""``fsgen sample``: sheets, single files and animations of a model, alone or beside another."""

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
from fsgen.errors import Code, FsgenError
from fsgen.io.cache_folders import make_folder
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler
from fsgen.sampling.latents import walk
from fsgen.sampling.sampler import Loaded

FPS = 24


@dataclass(frozen=True)
class SampleRequest:
    """The options of ``fsgen sample``."""

    model: str
    out: Path
    seeds: list[int]
    truncation: float = 1.0
    noise: str = "const"
    label: str | None = None  # a class, by number or name
    instance: Path | None = None  # images to take as instances
    features: str = ""  # network of their features; empty: the model's own
    weights_dir: Path | None = None  # a folder to search first for its weights
    content: Path | None = None  # images to translate
    candidates: int = 1  # latents tried for each image of an instance
    columns: int | None = None  # of a sheet; None: nearly square
    compare: str | None = None
    strength: float | None = None
    swap_above: int | None = None
    other: str | None = None
    device: str = "auto"


def write(request: SampleRequest, callbacks: Callbacks) -> list[Path]:
    """One sheet (a ``.png``) or one file a seed (a folder); returns what was written.

    Raises:
        FsgenError: refused options, or a place that cannot be written to.
    """
    one = request.out.suffix.lower() == ".png"
    if request.out.suffix.lower() in (".gif", ".webp", ".mp4"):
        raise FsgenError(
            f"{request.out.name} is an animation",
            code=Code.USAGE,
            where="--out",
            hint="add --interpolate, or choose a .png or a folder",
        )
    if not one and request.out.suffix.lower() in SUFFIXES:
        raise FsgenError(
            f"pictures are written as PNG, not as {request.out.name}",
            code=Code.UNSUPPORTED,
            where="--out",
            hint="a .png or a folder",
        )
    if not one and (request.compare or request.columns):
        raise FsgenError(
            "--grid and --compare make one sheet",
            code=Code.USAGE,
            where="--grid",
            hint="give --out a name ending in .png",
        )
    loaded = _ready(request)
    beside = sampler.ready(models.load_model(request.compare), request.device) if request.compare else None
    make_folder(
        request.out.parent if one else request.out
    )  # better refused now than after the pictures are made
    return [_sheet(request, loaded, beside, callbacks)] if one else _files(request, loaded, callbacks)


def write_animation(request: SampleRequest, frames: int, callbacks: Callbacks) -> list[Path]:
    """Interpolate through the seeds and back to the first, ``frames`` from one to the next."""
    image_output.animation_writer(request.out)  # refuse a wrong suffix before any work
    if frames < 1:
        raise FsgenError("--frames is at least 1", code=Code.OUT_OF_RANGE, where="--frames")
    if request.compare or request.columns:
        raise FsgenError(
            "--grid and --compare make one sheet, not an animation",
            code=Code.USAGE,
            where="--grid",
            hint="leave them out",
        )
    loaded = _ready(request)
    make_folder(request.out.parent)
    shots = []
    for inputs in walk(loaded, request.seeds, frames, loaded.conditioning.check_label(request.label)):
        shots.append(image_output.picture(loaded.render(inputs, request.truncation, request.noise)[0]))
        callbacks.progress("frames", len(shots), frames * len(request.seeds))
    image_output.save_animation(shots, request.out, FPS, _text(request, loaded.model))
    return [request.out]


def _ready(request: SampleRequest) -> Loaded:
    """The requested model with its condition."""
    if request.candidates < 1:
        raise FsgenError("--candidates is at least 1", code=Code.OUT_OF_RANGE, where="--candidates")
    loaded = sampler.ready(_model(request), request.device)
    if request.instance is not None:
        return loaded.after(request.instance, request.features, weights_dir=request.weights_dir)
    if request.candidates > 1:
        return loaded.with_extractor(request.features, request.weights_dir)
    return loaded if request.content is None else loaded.translating(request.content)


def _batches(request: SampleRequest, loaded: Loaded) -> Iterator[torch.Tensor]:
    label = loaded.conditioning.check_label(request.label)
    if request.candidates > 1:
        return loaded.chosen(
            request.seeds, request.candidates, request.truncation, request.noise, label=label
        )
    return loaded.images(request.seeds, request.truncation, request.noise, label=label)


def _model(request: SampleRequest) -> Model:
    """The requested model, mixed with another if requested."""
    found = models.load_model(request.model)
    if request.strength is None and request.swap_above is None:
        if request.other:
            raise FsgenError(
                "--other is of use with --strength or --swap-above only", code=Code.USAGE, where="--other"
            )
        return found
    other = models.load_model(request.other) if request.other else sampler.source_of(found)
    if request.strength is not None:
        found = sampler.blend(other, found, request.strength)
    if request.swap_above is not None:
        found = sampler.swap_above(found, other, request.swap_above)
    return found


def _sheet(request: SampleRequest, loaded: Loaded, beside: Loaded | None, callbacks: Callbacks) -> Path:
    columns = request.columns or math.ceil(math.sqrt(len(request.seeds)))
    ours = _all(request, loaded, callbacks)
    if beside is None:
        sheet = image_output.grid(ours, columns)
    else:
        theirs = _all(request, beside, callbacks)
        if theirs.shape != ours.shape:
            raise FsgenError(
                f"{request.compare} draws images of another size than {request.model}",
                code=Code.INCOMPATIBLE, where="--compare", hint="compare with a model of the same resolution",
            )  # fmt: skip
        sheet = image_output.pairs(theirs, ours, columns)
    image_output.save_png(sheet, request.out, _text(request, loaded.model))
    return request.out


def _all(request: SampleRequest, loaded: Loaded, callbacks: Callbacks) -> torch.Tensor:
    done = []
    for batch in _batches(request, loaded):
        done.append(image_output.to_uint8(batch))
        callbacks.progress("pictures", sum(map(len, done)), len(request.seeds))
    return torch.cat(done)


def _files(request: SampleRequest, loaded: Loaded, callbacks: Callbacks) -> list[Path]:
    text = _text(request, loaded.model)
    paths: list[Path] = []
    for batch in _batches(request, loaded):
        for image in image_output.to_uint8(batch):
            seed = request.seeds[len(paths)]
            paths.append(request.out / f"seed{seed:05d}.png")
            image_output.save_png(image_output.picture(image), paths[-1], {**text, "seed": str(seed)})
        callbacks.progress("pictures", len(paths), len(request.seeds))
    return paths


def _text(request: SampleRequest, model: Model) -> dict[str, str]:
    """The text chunks of a PNG."""
    return {
        "Software": f"fsgen {fsgen.__version__}",
        "model": model.hash,
        "licence": str(model.about.get("licence") or "unknown"),
        "seed": ",".join(map(str, request.seeds)),
        "truncation": str(request.truncation),
        **({"class": request.label} if request.label is not None else {}),
    }
