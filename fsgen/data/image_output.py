"""Write images: quantisation, grids, PNG files with provenance, animations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from fsgen.atomic import atomic
from fsgen.errors import Code, FsgenError

_IMAGE_DESCRIPTION = 0x010E  # EXIF tag
_WHITE = 255

Writer = Callable[[Sequence[Image.Image], Path, float, Mapping[str, str]], None]


def to_uint8(images: Tensor) -> Tensor:
    """Quantise images [n, C, H, W] in [-1, 1] to uint8: round((x + 1) * 127.5), halves up, clamped to 0..255.

    The inverse of ``ImageSet.floats``, applied to all images that are saved or measured. NaN is black.
    """
    levels = (images.detach().float() + 1) * 127.5
    return torch.nan_to_num(levels + 0.5, nan=0.0).floor().clamp(0, 255).to(torch.uint8)


def picture(image: Tensor) -> Image.Image:
    """Convert one image [C, H, W], uint8 or float in [-1, 1], C = 1 or 3, to a Pillow image."""
    return _pillow(_levels(image[None])[0])


def grid(images: Tensor, columns: int, gap: int = 2) -> Image.Image:
    """Arrange images [n, C, H, W], uint8 or float in [-1, 1], in rows on white.

    Args:
        columns: images per row.
        gap: white pixels between neighbours.
    """
    levels = _levels(images)
    n, channels, height, width = levels.shape
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    sheet = levels.new_full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), _WHITE)
    for index, level in enumerate(levels):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = level
    return _pillow(sheet)


def pairs(top: Tensor, bottom: Tensor, columns: int, gap: int = 2) -> Image.Image:
    """Arrange rows of ``top`` each with its row of ``bottom`` below, such as source and adapted images.

    Args:
        top, bottom: [n, C, H, W] of one shape, uint8 or float in [-1, 1].
        columns: pairs per row.
        gap: white pixels between neighbours; three times as many between rows of pairs.

    Raises:
        FsgenError: different shapes.
    """
    if top.shape != bottom.shape:
        message = f"images of shapes {list(top.shape)} and {list(bottom.shape)} cannot be shown as pairs"
        raise FsgenError(message, code=Code.INCOMPATIBLE, hint="compare models of the same resolution")
    top, bottom = _levels(top), _levels(bottom)
    columns = max(1, min(columns, len(top)))
    strips = [
        grid(torch.cat([above, below]), columns=len(above), gap=gap)
        for above, below in zip(top.split(columns), bottom.split(columns), strict=True)
    ]
    width, height = strips[0].size
    step = height + 3 * gap
    sheet = Image.new(strips[0].mode, (width, len(strips) * step - 3 * gap), "white")
    for index, strip in enumerate(strips):
        sheet.paste(strip, (0, index * step))
    return sheet


def save_png(image: Image.Image, path: Path | str, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG with ``text`` (seed, model hash, licence, ...) in its text chunks.

    Raises:
        FsgenError: a suffix other than .png; a full disk (exit code 1); an unwritable folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        message, hint = f"images are written as PNG, not as {path.name}", path.with_suffix(".png").name
        raise FsgenError(message, code=Code.UNSUPPORTED, where=path, hint=f"try {hint}")
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, str(value))  # Pillow writes iTXt for text beyond Latin-1
    with atomic(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def animation_writer(path: Path | str) -> Writer:
    """Return the function that writes animations with the suffix of ``path``; call it before any work.

    Raises:
        FsgenError: a suffix other than .gif, .webp and .mp4; .mp4 without the av package.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        message = f"{path.name} is not an animation format of fsgen"
        hint = f"use one of {', '.join(_WRITERS)}, as in {path.stem or 'walk'}.gif"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=path, hint=hint)
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            message = f"writing {path.name} needs the av package"
            hint = "pip install 'fsgen[video]', or write a .gif or .webp instead"
            raise FsgenError(message, code=Code.MISSING_PACKAGE, where="av", hint=hint) from error
    return _WRITERS[suffix]


def save_animation(
    frames: Sequence[Image.Image], path: Path | str, fps: float = 24, text: Mapping[str, str] | None = None
) -> None:
    """Write ``frames`` of equal size as an endless .gif or .webp, or as .mp4 (extra ``video``).

    Args:
        fps: frames per second; GIF rounds frame times to 1/100 s, and players show at most 50 per second.
        text: stored as JSON in the file's comment or description.

    Raises:
        FsgenError: as ``animation_writer``; no frames; a full disk (exit code 1); an unwritable folder.
    """
    path = Path(path)
    write = animation_writer(path)
    if not frames:
        message, hint = f"there are no frames to write into {path.name}", "at least one is needed"
        raise FsgenError(message, code=Code.TOO_FEW, where=path, hint=hint)
    if not 0.1 <= fps <= 1000:
        message = f"{fps:g} frames per second are not within 0.1 to 1000"
        raise FsgenError(message, code=Code.OUT_OF_RANGE, where=fps, hint="try 24")
    with atomic(path) as temporary:
        write(frames, temporary, fps, text or {})


def _save_gif(frames: Sequence[Image.Image], path: Path, fps: float, text: Mapping[str, str]) -> None:
    # One palette for all frames, or constant areas would flicker; from 16 frames or fewer, evenly spaced.
    sheet = grid(
        torch.stack([_tensor(frame) for frame in frames[:: -(-len(frames) // 16)]]), columns=4, gap=0
    )
    palette = sheet.quantize(256)
    shown = [frame.convert("RGB").quantize(palette=palette) for frame in frames]
    milliseconds = max(20, round(100 / fps) * 10)
    comment = json.dumps(dict(text)).encode()
    options = {"save_all": True, "append_images": shown[1:], "loop": 0}
    shown[0].save(path, format="GIF", duration=milliseconds, comment=comment, **options)


def _save_webp(frames: Sequence[Image.Image], path: Path, fps: float, text: Mapping[str, str]) -> None:
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = json.dumps(dict(text))
    options = {
        "save_all": True,
        "append_images": frames[1:],
        "loop": 0,
        "quality": 90,
        "exif": exif.tobytes(),
    }
    frames[0].save(path, format="WEBP", duration=max(1, round(1000 / fps)), **options)


def _save_mp4(frames: Sequence[Image.Image], path: Path, fps: float, text: Mapping[str, str]) -> None:
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = json.dumps(dict(text))
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        # yuv420p, which all players support, has half the resolution in colour: sides must be even.
        stream.width, stream.height = (side + side % 2 for side in frames[0].size)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            even = Image.new("RGB", (stream.width, stream.height), "white")
            even.paste(frame)
            container.mux(stream.encode(av.VideoFrame.from_image(even)))
        container.mux(stream.encode())


_WRITERS: dict[str, Writer] = {".gif": _save_gif, ".webp": _save_webp, ".mp4": _save_mp4}


def _levels(images: Tensor) -> Tensor:
    levels = images if images.dtype == torch.uint8 else to_uint8(images)
    return levels.cpu()


def _pillow(levels: Tensor) -> Image.Image:
    """Convert uint8 [C, H, W] to a grey or RGB Pillow image."""
    array = levels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if len(levels) == 1 else array)


def _tensor(frame: Image.Image) -> Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(np.array(frame.convert("RGB"))).permute(2, 0, 1)
