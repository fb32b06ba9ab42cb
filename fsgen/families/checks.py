"""Checks that the families share: options of fresh networks, parts of the inputs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Inputs

PARTS = {
    "z": "latents",
    "y": "labels",
    "h": "the features of an image",
    "content": "images to translate",
    "content_y": "the labels of the images to translate",
    "style": "images of the class to translate to",
}


def require(inputs: Inputs | None, part: str) -> Tensor:
    """The part of ``inputs`` called ``part``.

    Raises:
        FsgenError: it is absent.
    """
    value = getattr(inputs, part, None)
    if value is None:
        raise FsgenError(f"this model needs {PARTS[part]} as input ('{part}')", code=Code.INCOMPATIBLE,
                         where=part)  # fmt: skip
    return value


def check_size(family: str, size: int, sizes: Iterable[int]) -> None:
    """Raises FsgenError unless ``size`` is one of the ``sizes`` in pixels of a family's architectures."""
    if size not in sizes:
        raise FsgenError(f"{family} has no architecture for --size {size}", code=Code.OUT_OF_RANGE,
                         where="--size", hint=f"one of {', '.join(map(str, sizes))}")  # fmt: skip


def check_channels(family: str, channels: int) -> None:
    """Raises FsgenError unless images have 1 or 3 channels."""
    if channels not in (1, 3):
        raise FsgenError(f"{family} has no architecture for {channels} channels", code=Code.OUT_OF_RANGE,
                         where="channels", hint="1 (grey) or 3 (colour)")  # fmt: skip


def checked_width(width: int | None, published: int, least: int = 1) -> int:
    """``width``, or the published one; raises FsgenError below ``least``."""
    if width is not None and width < least:
        raise FsgenError(f"--width {width} is too narrow", code=Code.OUT_OF_RANGE, where="--width",
                         hint=f"at least {least}; {published} as published")  # fmt: skip
    return published if width is None else width
