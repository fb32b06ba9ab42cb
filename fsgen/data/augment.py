"""DiffAugment's operators (Zhao et al., NeurIPS 2020): differentiable, their draws explicit arguments.

Every operator takes images [n, C, H, W] of any size and range and one draw per image, shared by its channels
and pixels, and clamps nothing. All are (piecewise) linear in the image, so gradients of gradients (R1) pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fsgen.errors import FsgenError, suggest

POLICIES = {
    "color": ("brightness", "saturation", "contrast"),
    "translation": ("translation",),
    "cutout": ("cutout",),
}
SHIFT = 1 / 8  # largest translation, of the image's side
HOLE = 1 / 2  # side of the rectangle cut out, of the image's side


def brightness(x: Tensor, add: Tensor) -> Tensor:
    """x + add; ``add`` [n]."""
    return x + _spread(add, x)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale each pixel's distance from its own grey by ``factor`` [n]."""
    grey = x.mean(dim=1, keepdim=True)
    return (x - grey) * _spread(factor, x) + grey


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale each image's distance from its mean by ``factor`` [n]."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * _spread(factor, x) + mean


def translation(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """out[i, j] = x[i + rows, j + cols], zero outside; ``rows`` and ``cols`` [n] whole numbers."""
    n, channels, height, width = x.shape
    source_i, inside_i = _shifted(rows, height, x.device)  # [n, H]
    source_j, inside_j = _shifted(cols, width, x.device)  # [n, W]
    out = x.gather(2, source_i[:, None, :, None].expand(n, channels, height, width))
    out = out.gather(3, source_j[:, None, None, :].expand(n, channels, height, width))
    return out * (inside_i[:, None, :, None] & inside_j[:, None, None, :])


def cutout(x: Tensor, rows: Tensor, cols: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Zero a rectangle of ``size`` (rows, columns; half the image if None) around each (rows, cols).

    It covers rows ``rows - size // 2`` to ``rows - size // 2 + size - 1`` as far as the image goes, and
    columns likewise; ``rows`` and ``cols`` [n] whole numbers.
    """
    height, width = x.shape[2:]
    tall, wide = size or (_part(height, HOLE), _part(width, HOLE))
    hole_i = _covered(rows, tall, height, x.device)  # [n, H]
    hole_j = _covered(cols, wide, width, x.device)  # [n, W]
    return x * ~(hole_i[:, None, :, None] & hole_j[:, None, None, :])


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "brightness": brightness,
    "saturation": saturation,
    "contrast": contrast,
    "translation": translation,
    "cutout": cutout,
}


def draw_arguments(
    operator: str, shape: Sequence[int], rng: torch.Generator, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Random arguments of ``operator`` for images of ``shape`` (n, C, H, W), each [n] on ``device``.

    brightness ``add`` in [-0.5, 0.5), saturation ``factor`` in [0, 2), contrast ``factor`` in [0.5, 1.5);
    translation ``rows``, ``cols`` whole, up to an eighth of the side either way, both ends included; cutout
    ``rows``, ``cols`` whole, anywhere from the first edge of the image to the last.
    """
    n, _, height, width = shape

    def uniform(low: float, high: float) -> Tensor:
        unit = torch.rand(n, generator=rng, device=rng.device)
        return (unit * (high - low) + low).to(device)

    def whole(low: int, high: int) -> Tensor:  # both ends included
        return torch.randint(low, high + 1, (n,), generator=rng, device=rng.device).to(device)

    if operator == "brightness":
        return {"add": uniform(-0.5, 0.5)}
    if operator == "saturation":
        return {"factor": uniform(0.0, 2.0)}
    if operator == "contrast":
        return {"factor": uniform(0.5, 1.5)}
    if operator == "translation":
        tall, wide = _part(height, SHIFT), _part(width, SHIFT)
        return {"rows": whole(-tall, tall), "cols": whole(-wide, wide)}
    if operator == "cutout":
        # The centre of an even rectangle lies between pixels: one more place for it than there are pixels.
        tall, wide = _part(height, HOLE), _part(width, HOLE)
        return {"rows": whole(0, height - tall % 2), "cols": whole(0, width - wide % 2)}
    raise FsgenError(
        f"there is no augmentation operator '{operator}'", hint=suggest(operator, list(OPERATORS))
    )


def operators(policy: Sequence[str]) -> list[str]:
    """The operators that the policies stand for, in order.

    Raises:
        FsgenError: an unknown policy, with the nearest known one.
    """
    for name in policy:
        if name not in POLICIES:
            raise FsgenError(f"there is no augmentation policy '{name}'", hint=suggest(name, list(POLICIES)))
    return [operator for name in policy for operator in POLICIES[name]]


def diff_augment(x: Tensor, policy: Sequence[str], rng: torch.Generator) -> Tensor:
    """``x`` [n, C, H, W] under fresh draws of each of the ``policy``'s operators, one after another."""
    for operator in operators(policy):
        x = OPERATORS[operator](x, **draw_arguments(operator, x.shape, rng, x.device))
    return x


def _part(side: int, ratio: float) -> int:
    return int(side * ratio + 0.5)


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """[n] to [n, 1, 1, 1], in the type of ``x``."""
    return values.to(x)[:, None, None, None]


def _shifted(by: Tensor, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each row comes from, kept inside the image, and whether it came from inside; both [n, side]."""
    source = torch.arange(side, device=device) + by.to(device, torch.long)[:, None]
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def _covered(centre: Tensor, size: int, side: int, device: torch.device) -> Tensor:
    """Which rows lie under a window of ``size`` around each ``centre``; [n, side] of bool."""
    offset = torch.arange(side, device=device) - (centre.to(device, torch.long)[:, None] - size // 2)
    return (offset >= 0) & (offset < size)
