"""Load images from a folder, a zip archive or one file as square uint8 tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fsgen.data.decode import Fit
from fsgen.data.files import SUFFIXES, ImageFile, find_images
from fsgen.data.streaming import hash_images, open_images
from fsgen.errors import Code, FsgenError

__all__ = ["SUFFIXES", "ImageFile", "ImageSet", "find_images", "load_images"]

_BATCH = 32


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one resolution, in the order of their names."""

    pixels: Tensor  # uint8 [n, C, R, R]
    names: list[str]
    hashes: list[str]  # SHA-256 of each file's bytes
    skipped: list[tuple[str, str]]  # name and reason of each file that could not be read

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted hashes, which identifies the images regardless of their names."""
        return hash_images(self.hashes)

    def floats(self, rows: slice | Tensor | list[int] = slice(None)) -> Tensor:
        """The images at ``rows`` (a slice or indices) as float32 [n, C, R, R] in [-1, 1]."""
        return self.pixels[rows].float() / 127.5 - 1


def load_images(
    path: Path | str,
    resolution: int,
    *,
    fit: Fit = "crop",
    channels: int = 3,
    say: Callable[[str], None] | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Load the images at ``path``: upright, transparency over white, square, resampled (Lanczos).

    Args:
        path: as for ``find_images``.
        resolution: side of the result, pixels.
        fit: ``crop`` the centre square, or ``pad`` to a square with white.
        channels: 3 (RGB) or 1 (grey).
        say: called with one line about each skipped file.
        limit: load the first ``limit`` images.

    Raises:
        FsgenError: as ``find_images``; no file can be read; too little memory.
    """
    stream = open_images(path, say=say, limit=limit)
    pixels = _allocate(len(stream), channels, resolution)
    done = 0
    for images in stream.batches(resolution, _BATCH, fit=fit, channels=channels):
        pixels[done : done + len(images)] = images
        done += len(images)
    return ImageSet(pixels[:done], stream.names, stream.hashes, stream.skipped)


def _allocate(n: int, channels: int, resolution: int) -> Tensor:
    shape = (n, channels, resolution, resolution)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except RuntimeError as error:
        need = f"{n * channels * resolution**2 / 2**30:.1f} GiB"
        message = f"{n} images of {resolution} px need {need} of memory, more than available"
        hint = "use fewer images or a smaller resolution"
        raise FsgenError(message, code=Code.SYSTEM, where=need, hint=hint) from error


def folders_of(images: ImageSet) -> list[str | None]:
    """The sub-folder of each image; None for those in none."""
    return [name.split("/")[0] if "/" in name else None for name in images.names]
