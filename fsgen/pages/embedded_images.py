"""Encode the images of one page as data URIs that together stay within a size limit."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from fsgen.data.image_output import picture
from fsgen.errors import Code, FsgenError

BUDGET = 2_500_000  # characters of all images of a page; the page itself stays below 3 MB


@dataclass(frozen=True)
class _Encoding:
    """One way to encode all images of a page."""

    scale: float  # of the longest side, which keeps at least _LEAST pixels
    quality: int | None  # of WebP; None: lossless


_LEAST = 64
# Images of 64 px are embedded unchanged, a hundred images of 1024 px as thumbnails.
_ENCODINGS = (
    _Encoding(1, None), _Encoding(1, 92), _Encoding(1, 80), _Encoding(0.75, 80), _Encoding(0.5, 80),
    _Encoding(0.25, 70),
)  # fmt: skip


class EmbeddedImage:
    """An image of a page; ``uri`` is set by ``EmbeddedImages.encode``."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.uri = ""

    @property
    def width(self) -> int:
        """Pixels, before encoding may shrink it."""
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height


class EmbeddedImages:
    """Collects the images of a page, then encodes all of them in the best way that fits the budget."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._images: list[EmbeddedImage] = []

    def add(self, image: Tensor, side: int) -> EmbeddedImage:
        """Add an image, uint8 [C, H, W] with C = 1 or 3, shrunk to at most ``side`` pixels."""
        shown = picture(image).convert("RGB")
        shown.thumbnail((side, side), Image.Resampling.LANCZOS)
        self._images.append(EmbeddedImage(shown))
        return self._images[-1]

    def add_all(self, images: Tensor | None, side: int, most: int) -> list[EmbeddedImage]:
        """Add the first ``most`` of images uint8 [n, C, H, W]."""
        return [] if images is None else [self.add(image, side) for image in images[:most]]

    def encode(self) -> None:
        """Encode all images.

        Raises:
            FsgenError: they do not fit the budget at any size.
        """
        if not any(self._fits(encoding) for encoding in _ENCODINGS):
            raise FsgenError(f"{len(self._images)} images do not fit on one page", code=Code.OUT_OF_RANGE,
                             where=len(self._images),
                             hint="show fewer runs or fewer rounds on it")  # fmt: skip

    def _fits(self, encoding: _Encoding) -> bool:
        """Encode all images; False as soon as they exceed the budget."""
        spent = 0
        for image in self._images:
            image.uri = _data_uri(image.image, encoding)
            spent += len(image.uri)
            if spent > self.budget:
                return False
        return True


def _data_uri(image: Image.Image, encoding: _Encoding) -> str:
    side = max(_LEAST, round(max(image.size) * encoding.scale))
    if side < max(image.size):
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    if encoding.quality is None:
        image.save(data, format="WEBP", lossless=True, method=2)
    else:
        image.save(data, format="WEBP", quality=encoding.quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
