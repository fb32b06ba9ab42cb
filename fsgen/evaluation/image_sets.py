"""What ``fsgen eval`` looks at: pictures of a model, or images made by anything."""

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

from fsgen.data.files import SUFFIXES, ImageFile, find_images
from fsgen.data.image_output import to_uint8
from fsgen.data.streaming import ImageStream, open_images
from fsgen.errors import FsgenError
from fsgen.io.run_folder import CONFIG, RUN_MODEL
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler as pictures

LARGEST = 1024  # px: images of a folder are measured at their own size up to this

Kind = Literal["subject", "source", "real"]


@dataclass(frozen=True)
class Subject:
    """A set of images to look at, made or read when asked for, never kept."""

    name: str  # of its row
    kind: Kind
    n: int
    resolution: int
    channels: int
    batches: Callable[[int, int], Iterator[Tensor]]  # (batch, how many at most) -> uint8 [n, C, H, W]
    key: str  # names exactly these images, for a cache of their features
    about: dict[str, Any]
    model: Model | None = None
    pile: ImageStream | None = None


def of_model(
    model: Model, name: str, kind: Kind, seeds: range, truncation: float, device: torch.device
) -> Subject:
    """The pictures of ``seeds``."""

    def batches(batch: int, most: int) -> Iterator[Tensor]:
        made = pictures.ready(model, str(device)).images(seeds[:most], truncation, batch=batch)
        return (to_uint8(images) for images in made)

    key = (
        f"model {model.hash} seeds {seeds.start}-{seeds.stop - 1} truncation {truncation:g} on {device.type}"
    )
    spec = model.spec
    about = model_described(model)
    return Subject(name, kind, len(seeds), spec["resolution"], spec["channels"], batches, key, about, model)


def of_files(
    pile: ImageStream,
    name: str,
    kind: Kind,
    resolution: int,
    channels: int,
    fit: str,
    flip: int | None = None,
) -> Subject:
    """Images of files, as squares of ``resolution`` px; ``flip``: a seed to mirror half of them by."""

    def batches(batch: int, most: int) -> Iterator[Tensor]:
        coin = np.random.default_rng(flip)  # one number an image, however they are batched
        for images in pile.batches(resolution, batch, fit=fit, channels=channels, rows=range(most)):
            if flip is not None:
                heads = torch.from_numpy(coin.random(len(images)) < 0.5)
                images = torch.where(heads[:, None, None, None], images.flip(3), images)
            yield images

    key = f"files {pile.pixel_hash} at {resolution} px, {channels} channels, {fit}"
    key += "" if flip is None else f", flipped by seed {flip}"
    about = {"kind": "images", **described(pile)}
    return Subject(name, kind, len(pile), resolution, channels, batches, key, about, pile=pile)


def open_files(path: str | Path, samples: int | None, fit: str, say: Callable[[str], None]) -> Subject:
    """Images made by anything, at the size of the first of them.

    Raises:
        FsgenError: no images; fewer than 2.
    """
    resolution = min(_side(find_images(path)), LARGEST)
    pile = open_images(path, say=say, limit=samples)
    if not _two(pile, resolution):
        raise FsgenError(f"there is one image in {path}", hint="2 are the least that can be compared")
    return of_files(pile, Path(path).name, "subject", resolution, 3, fit)


def open_reals(
    path: str | Path, subject: Subject, fit: str, flip: int | None, say: Callable[[str], None]
) -> Subject:
    """Real images to hold ``subject`` against, brought to its resolution.

    Raises:
        FsgenError: no images; fewer than 2.
    """
    pile = open_images(path, say=say)
    if not _two(pile, subject.resolution):
        raise FsgenError(
            f"there is one image in {path}; reals are a set", hint="give --real a folder of many"
        )
    return of_files(pile, "real", "real", subject.resolution, subject.channels, fit, flip)


def is_images(path: str | Path) -> bool:
    """Whether ``path`` stands for images rather than for a model."""
    path = Path(path)
    if path.is_dir():
        if (path / RUN_MODEL).is_file() or (path / CONFIG).is_file():
            return False
        return path.name not in models.bundled() or path.parent != Path()
    # PyTorch's files are zip archives too: the suffix decides
    return path.is_file() and path.suffix.lower() in (".zip", *SUFFIXES)


def model_described(model: Model) -> dict[str, Any]:
    """Which model it is, for a report."""
    return {"kind": "model", "title": model.about.get("title"), "hash": model.hash,
            "licence": model.about.get("licence")}  # fmt: skip


def described(images: Any) -> dict[str, Any]:
    """Which images these are, for a report."""
    return {"count": len(images), "digest": images.digest, "skipped": len(images.skipped)}


def _two(pile: ImageStream, resolution: int) -> bool:
    """Whether two images can be decoded; how many files there are does not tell."""
    return sum(map(len, pile.batches(resolution, 2, rows=range(2)))) == 2


def _side(items: list[ImageFile]) -> int:
    """The shorter side of the first image that opens; all of a generator's images have one size."""
    for item in items:
        try:
            if item.member is None:
                with Image.open(item.path) as image:
                    return min(image.size)
            with zipfile.ZipFile(item.path) as archive, archive.open(item.member) as file:
                return min(Image.open(file).size)
        except Exception:  # damaged: reading them all will name it
            continue
    return LARGEST
