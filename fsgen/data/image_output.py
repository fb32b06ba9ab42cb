"""Images out: quantisation, grids, PNG files that say where they come from, animations."""

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
from fsgen.errors import FsgenError

_IMAGE_DESCRIPTION = 0x010E  # EXIF tag
_WHITE = 255

Writer = Callable[[Sequence[Image.Image], Path, float, Mapping[str, str]], None]


def to_uint8(images: Tensor) -> Tensor:
    """Quantise images [n, C, H, W] in [-1, 1] to uint8: round((x + 1) * 127.5), halves up, clamped to 0..255.

    The inverse of ``ImageSet.floats``, used wherever images leave the program or are measured. NaN is black.
    """
    levels = (images.detach().float() + 1) * 127.5
    return torch.nan_to_num(levels + 0.5, nan=0.0).floor().clamp(0, 255).to(torch.uint8)


def picture(image: Tensor) -> Image.Image:
    """One image [C, H, W], uint8 or float in [-1, 1], C = 1 or 3, as a Pillow image."""
    return _pillow(_levels(image[None])[0])


def grid(images: Tensor, columns: int, gap: int = 2) -> Image.Image:
    """Images [n, C, H, W], uint8 or float in [-1, 1], row by row on white.

    Args:
        columns: images a row.
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
    """Rows of ``top`` with ``bottom`` right below: the source above the adapted, from the same z.

    Args:
        top, bottom: [n, C, H, W] of one shape, uint8 or float in [-1, 1].
        columns: pairs a row.
        gap: white pixels between neighbours; three times as many between rows of pairs.
    """
    if top.shape != bottom.shape:
        raise FsgenError(
            f"images of shapes {list(top.shape)} and {list(bottom.shape)} cannot be shown as pairs",
            hint="compare models of the same resolution",
        )
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
    """Write a PNG whose text chunks hold ``text`` (seed, model hash, licence, ...).

    Raises:
        FsgenError: a suffix other than .png; a full disk (code 1); a folder that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise FsgenError(
            f"pictures are written as PNG, not as {path.name}", hint=f"try {path.with_suffix('.png').name}"
        )
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, str(value))  # iTXt by itself where Latin-1 does not do
    with atomic(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def animation_writer(path: Path | str) -> Writer:
    """What writes an animation of the suffix of ``path``; call it early, before the frames are made.

    Raises:
        FsgenError: a suffix other than .gif, .webp and .mp4; .mp4 without the av package.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise FsgenError(
            f"{path.name} is not an animation that fsgen writes",
            hint=f"use one of {', '.join(_WRITERS)}, as in {path.stem or 'walk'}.gif",
        )
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise FsgenError(
                f"writing {path.name} needs the av package",
                hint="pip install 'fsgen[video]', or write a .gif or .webp instead",
            ) from error
    return _WRITERS[suffix]


def save_animation(
    frames: Sequence[Image.Image], path: Path | str, fps: float = 24, text: Mapping[str, str] | None = None
) -> None:
    """Write ``frames``, of one size, as an endless .gif or .webp, or as .mp4 (extra ``video``).

    Args:
        fps: frames a second; GIF rounds a frame's time to 1/100 s, players show at most 50 of them.
        text: stored as JSON in the file's comment or description.

    Raises:
        FsgenError: as ``animation_writer``; no frames; a full disk (code 1) or unwritable folder.
    """
    path = Path(path)
    write = animation_writer(path)
    if not frames:
        raise FsgenError(f"there are no frames to write into {path.name}", hint="ask for at least one")
    if not 0.1 <= fps <= 1000:
        raise FsgenError(f"{fps:g} frames a second is not a speed", hint="try 24")
    with atomic(path) as temporary:
        write(frames, temporary, fps, text or {})


def _save_gif(frames: Sequence[Image.Image], path: Path, fps: float, text: Mapping[str, str]) -> None:
    # One palette for all frames, or still parts would flicker; taken from a few frames spread over the whole.
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
        # Colour has half the resolution in what every player shows: sides must be even.
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
    """uint8 [C, H, W] to a grey or RGB picture."""
    array = levels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if len(levels) == 1 else array)


def _tensor(frame: Image.Image) -> Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(np.array(frame.convert("RGB"))).permute(2, 0, 1)
