"""Images in: a folder, a zip archive or one file, whatever its format and mode, to square uint8 tensors."""

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
        """SHA-256 over the sorted hashes: which images these are, whatever they are called."""
        return hash_images(self.hashes)

    def floats(self, rows: slice | Tensor | list[int] = slice(None)) -> Tensor:
        """Float32 [n, C, R, R] in [-1, 1] of the images at ``rows`` (a slice or indices)."""
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
    """Read the images at ``path``, upright, over white where transparent, squared and resampled (Lanczos).

    Args:
        path: as for ``find_images``.
        resolution: side of the result, pixels.
        fit: ``crop`` the centre square, or ``pad`` to a square with white.
        channels: 3 (RGB) or 1 (grey).
        say: told in one line about each file that had to be skipped.
        limit: stop after that many images.

    Raises:
        FsgenError: as ``find_images``, or not one file can be read.
    """
    pile = open_images(path, say=say, limit=limit)
    pixels = _room_for(len(pile), channels, resolution)
    done = 0
    for images in pile.batches(resolution, _BATCH, fit=fit, channels=channels):
        pixels[done : done + len(images)] = images
        done += len(images)
    return ImageSet(pixels[:done], pile.names, pile.hashes, pile.skipped)


def _room_for(n: int, channels: int, resolution: int) -> Tensor:
    shape = (n, channels, resolution, resolution)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except RuntimeError as error:
        need = f"{n * channels * resolution**2 / 2**30:.1f} GiB"
        raise FsgenError(
            f"{n} images of {resolution} px need {need} of memory, more than there is",
            hint="use fewer images or a smaller resolution",
            code=Code.SYSTEM,
        ) from error


def folders_of(images: ImageSet) -> list[str | None]:
    """The sub-folder each image lies in; None for those in none."""
    return [name.split("/")[0] if "/" in name else None for name in images.names]
