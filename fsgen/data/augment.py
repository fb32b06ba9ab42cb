"""DiffAugment's differentiable operators (Zhao et al., NeurIPS 2020), with their random draws as arguments.

Every operator takes images [n, C, H, W] of any size and range and one draw per image, shared by channels and
pixels, and does not clamp. All are (piecewise) linear in the image, hence twice differentiable (R1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fsgen.errors import unknown_name

POLICIES = {
    "color": ("brightness", "saturation", "contrast"),
    "translation": ("translation",),
    "cutout": ("cutout",),
}
SHIFT = 1 / 8  # maximum translation relative to the image's side
HOLE = 1 / 2  # side of the cutout rectangle relative to the image's


def brightness(x: Tensor, add: Tensor) -> Tensor:
    """x + add; ``add`` [n]."""
    return x + _spread(add, x)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale each pixel's difference from its grey value by ``factor`` [n]."""
    grey = x.mean(dim=1, keepdim=True)
    return (x - grey) * _spread(factor, x) + grey


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale each image's difference from its mean by ``factor`` [n]."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * _spread(factor, x) + mean


def translation(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """out[i, j] = x[i + rows, j + cols], zero outside; ``rows`` and ``cols`` [n] integers."""
    n, channels, height, width = x.shape
    source_i, inside_i = _shifted(rows, height, x.device)  # [n, H]
    source_j, inside_j = _shifted(cols, width, x.device)  # [n, W]
    out = x.gather(2, source_i[:, None, :, None].expand(n, channels, height, width))
    out = out.gather(3, source_j[:, None, None, :].expand(n, channels, height, width))
    return out * (inside_i[:, None, :, None] & inside_j[:, None, None, :])


def cutout(x: Tensor, rows: Tensor, cols: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Zero a rectangle of ``size`` (rows, columns; half the image if None) around each (rows, cols).

    It covers rows ``rows - size // 2`` to ``rows - size // 2 + size - 1`` within the image, and columns
    likewise; ``rows`` and ``cols`` [n] integers.
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
    """Draw arguments of ``operator`` for images of ``shape`` (n, C, H, W), each [n] on ``device``.

    brightness ``add`` in [-0.5, 0.5), saturation ``factor`` in [0, 2), contrast ``factor`` in [0.5, 1.5);
    translation ``rows``, ``cols``: integers up to an eighth of the side in both directions, inclusive;
    cutout ``rows``, ``cols``: integers from the first edge of the image to the last.

    Raises:
        FsgenError: an unknown operator.
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
        # The centre of an even rectangle lies between pixels, of which there is one position more.
        tall, wide = _part(height, HOLE), _part(width, HOLE)
        return {"rows": whole(0, height - tall % 2), "cols": whole(0, width - wide % 2)}
    raise unknown_name(f"there is no augmentation operator '{operator}'", operator, OPERATORS)


def operators(policy: Sequence[str]) -> list[str]:
    """List the operators of the policies, in order.

    Raises:
        FsgenError: an unknown policy; the nearest name is suggested.
    """
    for name in policy:
        if name not in POLICIES:
            raise unknown_name(f"there is no augmentation policy '{name}'", name, POLICIES)
    return [operator for name in policy for operator in POLICIES[name]]


def diff_augment(x: Tensor, policy: Sequence[str], rng: torch.Generator) -> Tensor:
    """Apply each operator of ``policy`` in turn, with newly drawn arguments, to ``x`` [n, C, H, W]."""
    for operator in operators(policy):
        x = OPERATORS[operator](x, **draw_arguments(operator, x.shape, rng, x.device))
    return x


def _part(side: int, ratio: float) -> int:
    return int(side * ratio + 0.5)


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """[n] -> [n, 1, 1, 1], in the dtype and on the device of ``x``."""
    return values.to(x)[:, None, None, None]


def _shifted(by: Tensor, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Source index of each row, clamped to the image, and a mask of those inside it; both [n, side]."""
    source = torch.arange(side, device=device) + by.to(device, torch.long)[:, None]
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def _covered(centre: Tensor, size: int, side: int, device: torch.device) -> Tensor:
    """Mask [n, side] of rows within a window of ``size`` around each ``centre``."""
    offset = torch.arange(side, device=device) - (centre.to(device, torch.long)[:, None] - size // 2)
    return (offset >= 0) & (offset < size)
