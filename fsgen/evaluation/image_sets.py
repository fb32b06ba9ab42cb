"""Sets of images to measure: samples of a model, or image files from any source."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fsgen.data.decode import Fit
from fsgen.data.files import SUFFIXES, ImageFile, find_images
from fsgen.data.image_output import to_uint8
from fsgen.data.images import ImageSet
from fsgen.data.streaming import ImageStream, open_images
from fsgen.errors import Code, FsgenError
from fsgen.io.run_folder import CONFIG, RUN_MODEL
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler

LARGEST = 1024  # px: images of a folder are measured at their own size up to this

Kind = Literal["subject", "source", "real"]


@dataclass(frozen=True)
class EvaluationSet:
    """A set of images, sampled or decoded on demand and never stored."""

    name: str  # of its row
    kind: Kind
    n: int
    resolution: int
    channels: int
    batches: Callable[[int, int], Iterator[Tensor]]  # (batch, most) -> uint8 [n, C, H, W]
    key: str  # identifies exactly these images, for the cache of their features
    about: dict[str, Any]
    model: Model | None = None
    stream: ImageStream | None = None


def sample_set(
    model: Model, name: str, kind: Kind, seeds: range, truncation: float, device: torch.device
) -> EvaluationSet:
    """Samples of ``model`` for ``seeds``."""

    def batches(batch: int, most: int) -> Iterator[Tensor]:
        images = sampler.ready(model, str(device)).images(seeds[:most], truncation, batch=batch)
        return (to_uint8(part) for part in images)

    drawn = f"seeds {seeds.start}-{seeds.stop - 1} truncation {truncation:g}"
    key = f"model {model.hash} {drawn} on {device.type}"
    side, channels, about = model.spec["resolution"], model.spec["channels"], describe_model(model)
    return EvaluationSet(name, kind, len(seeds), side, channels, batches, key, about, model)


def file_set(
    stream: ImageStream, name: str, kind: Kind, resolution: int, channels: int, fit: Fit,
    flip: int | None = None,
) -> EvaluationSet:  # fmt: skip
    """Image files as squares of ``resolution`` px; ``flip``: the seed that chooses which half to mirror."""

    def batches(batch: int, most: int) -> Iterator[Tensor]:
        coin = np.random.default_rng(flip)  # one number an image, so that the batch size has no effect
        for images in stream.batches(resolution, batch, fit=fit, channels=channels, rows=range(most)):
            if flip is not None:
                heads = torch.from_numpy(coin.random(len(images)) < 0.5)
                images = torch.where(heads[:, None, None, None], images.flip(3), images)
            yield images

    key = f"files {stream.pixel_hash} at {resolution} px, {channels} channels, {fit}"
    key += "" if flip is None else f", flipped by seed {flip}"
    about = {"kind": "images", **describe_images(stream)}
    return EvaluationSet(name, kind, len(stream), resolution, channels, batches, key, about, stream=stream)


def open_evaluated(
    path: str | Path, samples: int | None, fit: Fit, say: Callable[[str], None]
) -> EvaluationSet:
    """Open the images to evaluate, at the size of the first of them.

    Raises:
        FsgenError: fewer than 2 images.
    """
    resolution = min(_side(find_images(path)), LARGEST)
    stream = _open(path, resolution, say, samples)
    return file_set(stream, Path(path).name, "subject", resolution, 3, fit)


def open_real(
    path: str | Path, resolution: int, channels: int, fit: Fit, flip: int | None, say: Callable[[str], None]
) -> EvaluationSet:
    """Open the real images of the target, brought to ``resolution`` and ``channels``.

    Raises:
        FsgenError: fewer than 2 images.
    """
    return file_set(_open(path, resolution, say), "real", "real", resolution, channels, fit, flip)


def is_images(path: str | Path) -> bool:
    """True if ``path`` is a folder, zip or file of images, not a model."""
    path = Path(path)
    if path.is_dir():
        if (path / RUN_MODEL).is_file() or (path / CONFIG).is_file():
            return False
        return path.name not in models.bundled() or path.parent != Path()
    # PyTorch's files are zip archives too: the suffix decides
    return path.is_file() and path.suffix.lower() in (".zip", *SUFFIXES)


def describe_model(model: Model) -> dict[str, Any]:
    """Identify a model, for a report."""
    return {"kind": "model", "title": model.about.get("title"), "hash": model.hash,
            "licence": model.about.get("licence")}  # fmt: skip


def describe_images(images: ImageSet | ImageStream) -> dict[str, Any]:
    """Identify a set of image files, for a report."""
    return {"count": len(images), "digest": images.digest, "skipped": len(images.skipped)}


def _open(
    path: str | Path, resolution: int, say: Callable[[str], None], limit: int | None = None
) -> ImageStream:
    """Open images and check that at least two can be decoded."""
    stream = open_images(path, say=say, limit=limit)
    if sum(map(len, stream.batches(resolution, 2, rows=range(2)))) != 2:
        raise FsgenError(f"{path} holds one image that can be read", code=Code.TOO_FEW, where=path,
                         hint="metrics compare sets: give at least 2 images")  # fmt: skip
    return stream


def _side(items: list[ImageFile]) -> int:
    """The shorter side of the first image that opens; all images of a generator have one size."""
    for item in items:
        try:
            if item.member is None:
                with Image.open(item.path) as image:
                    return min(image.size)
            with zipfile.ZipFile(item.path) as archive, archive.open(item.member) as file:
                return min(Image.open(file).size)
        except Exception:  # damaged: decoding all of them will report it
            continue
    return LARGEST
