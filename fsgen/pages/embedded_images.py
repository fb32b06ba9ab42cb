"""The pictures of one page, as data URIs that together keep the page below its size."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from fsgen.data.image_output import picture
from fsgen.errors import FsgenError

BUDGET = 2_500_000  # characters of all pictures of a page, which itself stays below 3 MB


@dataclass(frozen=True)
class _Rung:
    """One way to encode all pictures of a page."""

    scale: float  # of the longest side, which stays at least _LEAST pixels
    quality: int | None  # of WebP; None: lossless


_LEAST = 64
# Pictures of 64 px are shown as they are, some hundred of 1024 px as thumbnails.
_RUNGS = (
    _Rung(1, None), _Rung(1, 92), _Rung(1, 80), _Rung(0.75, 80), _Rung(0.5, 80), _Rung(0.25, 70),
)  # fmt: skip


class Thumb:
    """A picture of a page. ``uri`` is there once its album is settled."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.uri = ""

    @property
    def width(self) -> int:
        """Pixels it is made of, before the album may shrink it."""
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height


class Album:
    """Collects the pictures of a page, then encodes all of them alike: the best that fits into the budget."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._thumbs: list[Thumb] = []

    def add(self, image: Tensor, side: int) -> Thumb:
        """An image, uint8 [C, H, W] with C = 1 or 3, no larger than ``side`` pixels; small ones stay."""
        shown = picture(image).convert("RGB")
        shown.thumbnail((side, side), Image.Resampling.LANCZOS)
        self._thumbs.append(Thumb(shown))
        return self._thumbs[-1]

    def all(self, images: Tensor | None, side: int, most: int) -> list[Thumb]:
        """The first ``most`` of images uint8 [n, C, H, W], as ``add`` takes them."""
        return [] if images is None else [self.add(image, side) for image in images[:most]]

    def settle(self) -> None:
        """Encode the pictures.

        Raises:
            FsgenError: there are so many that they do not fit however small.
        """
        for rung in _RUNGS:
            if self._encode(rung):
                return
        raise FsgenError(
            f"{len(self._thumbs)} pictures do not fit on one page",
            hint="show fewer runs or fewer rounds on it",
        )

    def _encode(self, rung: _Rung) -> bool:
        """Whether all pictures fit."""
        spent = 0
        for thumb in self._thumbs:
            thumb.uri = _uri(thumb.image, rung)
            spent += len(thumb.uri)
            if spent > self.budget:
                return False
        return True


def _uri(image: Image.Image, rung: _Rung) -> str:
    side = max(_LEAST, round(max(image.size) * rung.scale))
    if side < max(image.size):
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    if rung.quality is None:
        image.save(data, format="WEBP", lossless=True, method=2)
    else:
        image.save(data, format="WEBP", quality=rung.quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
