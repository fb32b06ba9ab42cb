"""What ``fsgen eval`` may be pointed at: a model, or images made by anything."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fsgen.data.images import SUFFIXES, ImageSet, Item, find_images, load_images
from fsgen.data.pictures import to_uint8
from fsgen.engine import sample as pictures
from fsgen.engine.run import CONFIG
from fsgen.errors import FsgenError
from fsgen.models import model as models
from fsgen.models.model import RUN_MODEL, Model

SAMPLES = 1000  # of a model, where nothing else is asked for
LARGEST = 1024  # px: images of a folder are measured at their own size up to this


@dataclass(frozen=True)
class Subject:
    """A set of images to look at."""

    name: str  # of its row
    n: int
    resolution: int
    channels: int
    batches: Callable[[int], Iterator[Tensor]]  # batch size -> uint8 [n, C, H, W] a batch
    about: dict[str, Any]
    model: Model | None = None


def open_subject(
    path: str | Path,
    samples: int | None,
    *,
    seed: int,
    truncation: float,
    fit: str,
    device: torch.device,
    say: Callable[[str], None],
) -> Subject:
    """The images that ``path`` stands for.

    Raises:
        FsgenError: neither a model nor images; fewer than 2 pictures.
    """
    if _is_images(Path(path)):
        return _of_files(Path(path), samples, fit, say)
    return of_model(models.load(path), str(path), samples or SAMPLES, seed, truncation, device)


def of_model(model: Model, name: str, n: int, seed: int, truncation: float, device: torch.device) -> Subject:
    """n pictures of a model, of the seeds from ``seed`` on; made when asked for, never kept."""

    def batches(batch: int) -> Iterator[Tensor]:
        made = pictures.ready(model, str(device)).images(range(seed, seed + n), truncation, batch=batch)
        return (to_uint8(images) for images in made)

    about = {"kind": "model", "title": model.about.get("title"), "hash": model.hash,
             "licence": model.about.get("licence")}  # fmt: skip
    return Subject(name, n, model.spec["resolution"], model.spec["channels"], batches, about, model)


def of_images(images: ImageSet, name: str, most: int | None = None) -> Subject:
    """Images that were read, the first ``most`` of them."""
    pixels = images.pixels[:most]

    def batches(batch: int) -> Iterator[Tensor]:
        return iter(pixels.split(batch))

    about = {"kind": "images", **described(images)}
    return Subject(name, len(pixels), pixels.shape[2], pixels.shape[1], batches, about)


def described(images: ImageSet) -> dict[str, Any]:
    """Which images these are, for a report."""
    return {"count": len(images), "digest": images.digest, "skipped": len(images.skipped)}


def _is_images(path: Path) -> bool:
    if path.is_dir():
        if (path / RUN_MODEL).is_file() or (path / CONFIG).is_file():
            return False
        return path.name not in models.bundled() or path.parent != Path()
    # PyTorch's files are zip archives too: the suffix decides
    return path.is_file() and path.suffix.lower() in (".zip", *SUFFIXES)


def _of_files(path: Path, samples: int | None, fit: str, say: Callable[[str], None]) -> Subject:
    resolution = min(_side(find_images(path)), LARGEST)
    images = load_images(path, resolution, fit=fit, say=say, limit=samples)
    if len(images) < 2:
        raise FsgenError(f"there is one image in {path}", hint="2 are the least that can be compared")
    return of_images(images, path.name)


def _side(items: list[Item]) -> int:
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
