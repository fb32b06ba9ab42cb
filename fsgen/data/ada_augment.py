"""Differentiable augmentations of adaptive discriminator augmentation (Karras et al. 2020b, appendix B).

An operator is off for an image with probability 1 - p: its parameter is then the neutral one. The geometric
operators form one matrix per image, and so do the colour operators. Nothing is clamped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fsgen.data import ada_warp

BLIT = ("xflip", "rotate90", "xint")
GEOM = ("scale", "rotate_pre", "aniso", "rotate_post", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
BGC = (*BLIT, *GEOM, *COLOR)
POLICIES = {
    "blit": BLIT,
    "geom": GEOM,
    "color": COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": (*BLIT, *GEOM),
    "bgc": BGC,
    "bgcf": (*BGC, "imgfilter"),
    "bgcfn": (*BGC, "imgfilter", "noise"),
    "bgcfnc": (*BGC, "imgfilter", "noise", "cutout"),
}
SHIFT = 1 / 8  # relative to the side: maximum of xint, standard deviation of xfrac
HOLE = 1 / 2  # side of the cutout rectangle relative to the image's

Parameters = dict[str, Tensor]
"""Operator -> parameters [n, numbers]; for ``noise`` the added noise [n, C, H, W]."""


@dataclass(frozen=True)
class Operator:
    """The mapping from random numbers to an operator's parameter."""

    value: Callable[[Tensor, Tensor], Tensor]  # raw [n, numbers], sides (W, H) -> parameter
    neutral: float  # parameter without effect
    normal: bool = False  # raw numbers are standard normal, not uniform in [0, 1)
    numbers: int = 1  # per image
    gates: int = 1  # independent switches per image


OPERATORS = {
    "xflip": Operator(lambda u, sides: (2 * u).floor(), 0),
    "rotate90": Operator(lambda u, sides: (4 * u).floor(), 0),  # quarter turns to the left
    "xint": Operator(lambda u, sides: ((2 * u - 1) * SHIFT * sides).round(), 0, numbers=2),  # pixels, x and y
    "scale": Operator(lambda n, sides: (0.2 * n).exp2(), 1, normal=True),
    "rotate_pre": Operator(lambda u, sides: (2 * u - 1) * math.pi, 0),  # before ``aniso``
    "aniso": Operator(lambda n, sides: (0.2 * n).exp2(), 1, normal=True),
    "rotate_post": Operator(lambda u, sides: (2 * u - 1) * math.pi, 0),
    "xfrac": Operator(lambda n, sides: n * SHIFT * sides, 0, normal=True, numbers=2),  # pixels, x and y
    "brightness": Operator(lambda n, sides: 0.2 * n, 0, normal=True),
    "contrast": Operator(lambda n, sides: (0.5 * n).exp2(), 1, normal=True),
    "lumaflip": Operator(lambda u, sides: (2 * u).floor(), 0),
    "hue": Operator(lambda u, sides: (2 * u - 1) * math.pi, 0),
    "saturation": Operator(lambda n, sides: n.exp2(), 1, normal=True),
    "imgfilter": Operator(lambda n, sides: n.exp2(), 1, normal=True, numbers=4, gates=4),  # gains of bands
    "noise": Operator(lambda n, sides: 0.1 * n.abs(), 0, normal=True),  # standard deviation
    "cutout": Operator(lambda u, sides: u, 2, numbers=2),  # centre, x and y of the sides; 2 is far outside
}


# ---- drawing ---------------------------------------------------------------------------------------------


def draw_parameters(
    names: Sequence[str], shape: Sequence[int], p: float, rng: torch.Generator,
    device: torch.device | str = "cpu",
) -> Parameters:  # fmt: skip
    """Draw parameters of the operators ``names`` for images of ``shape`` (n, C, H, W), on ``device``.

    Each operator is on with the probability ``chance``.
    """
    n, drawn = shape[0], {}
    for name in names:
        operator = OPERATORS[name]
        sample = torch.randn if operator.normal else torch.rand
        raw = sample(n, operator.numbers, generator=rng, device=rng.device)
        on = torch.rand(n, operator.gates, generator=rng, device=rng.device) < chance(name, p)
        drawn[name] = parameter(name, raw, on, shape).to(device)
    if "noise" in drawn:
        grain = torch.randn(tuple(shape), generator=rng, device=rng.device).to(device)
        drawn["noise"] = grain * drawn["noise"][:, :, None, None]
    return drawn


def chance(name: str, p: float) -> float:
    """Probability that an operator is on: ``p``, which may exceed 1; for the two rotations such that at least
    one is on with probability ``p``."""
    return 1 - max(0.0, 1 - p) ** 0.5 if name.startswith("rotate_") else p


def parameter(name: str, raw: Tensor, on: Tensor, shape: Sequence[int]) -> Tensor:
    """Convert random numbers ``raw`` [n, numbers] to an operator's parameter, neutral where not ``on``."""
    operator = OPERATORS[name]
    value = operator.value(raw, raw.new_tensor([shape[3], shape[2]]))
    return torch.where(on, value, torch.full_like(value, operator.neutral))


def adaptive_augment(images: Tensor, names: Sequence[str], p: float, rng: torch.Generator) -> Tensor:
    """Augment ``images`` [n, C, H, W] with newly drawn parameters: see ``draw_parameters``."""
    return transform(images, draw_parameters(names, images.shape, p, rng, images.device))


# ---- applying --------------------------------------------------------------------------------------------


def transform(images: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Apply the operators in ``drawn`` to ``images`` [n, C, H, W]; C is 3 or 1."""
    if drawn.keys() & GEOMETRY.keys():
        images = ada_warp.warp(images, geometry(drawn))
    if "brightness" in drawn:
        images = images + drawn["brightness"][:, :, None, None]
    if drawn.keys() & COLOURS.keys():
        images = recolour(images, drawn)
    if "imgfilter" in drawn:
        images = ada_warp.amplify(images, drawn["imgfilter"])
    if "noise" in drawn:
        images = images + drawn["noise"]
    return cut(images, drawn["cutout"]) if "cutout" in drawn else images


GEOMETRY: dict[str, Callable[..., Tensor]] = {  # in this order; maps output to input coordinates
    "xflip": lambda i: ada_warp.scaling(1 - 2 * i, 1, i),
    "rotate90": lambda i: ada_warp.rotation(i * (math.pi / 2)),
    "xint": lambda x, y: ada_warp.shifting(-x, -y, x),
    "scale": lambda s: ada_warp.scaling(1 / s, 1 / s, s),
    "rotate_pre": ada_warp.rotation,
    "aniso": lambda s: ada_warp.scaling(1 / s, s, s),
    "rotate_post": ada_warp.rotation,
    "xfrac": lambda x, y: ada_warp.shifting(-x, -y, x),
}


def geometry(drawn: Mapping[str, Tensor]) -> Tensor:
    """Product [n, 3, 3] of the geometric operators' matrices, the first on the left."""
    found = [make(*drawn[name].unbind(dim=1)) for name, make in GEOMETRY.items() if name in drawn]
    return reduce(torch.matmul, found)


COLOURS: dict[str, Callable[..., Tensor]] = {  # in this order; see ``_colour``
    "contrast": lambda c: _colour(c, c),
    "lumaflip": lambda i: _colour(1 - 2 * i, torch.ones_like(i)),
    "hue": lambda angle: _colour(torch.ones_like(angle), angle.cos(), angle.sin()),
    "saturation": lambda s: _colour(torch.ones_like(s), s),
}


def recolour(images: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Multiply the drawn colour matrices, the last on the left, and apply the product to each pixel.

    Grey images are treated as RGB with equal channels."""
    found = [make(drawn[name]) for name, make in COLOURS.items() if name in drawn]
    product = reduce(torch.matmul, found[::-1])
    if images.shape[1] == 1:
        return images * (product.sum(dim=(1, 2)) / 3)[:, None, None, None]
    return (product @ images.flatten(2)).unflatten(2, images.shape[2:])


def _colour(grey: Tensor, rest: Tensor, turn: Tensor | float = 0.0) -> Tensor:
    """Colour matrix [n, 3, 3]: scale the grey component by ``grey`` [n, 1] and the rest by ``rest``, and add
    ``turn`` times the rest turned right-handed by 90 degrees around the grey axis (1, 1, 1) / sqrt 3."""
    along = grey.new_full((3, 3), 1 / 3)
    across = torch.eye(3).to(grey) - along
    quarter = grey.new_tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    weights = torch.stack([grey, rest, torch.zeros_like(grey) + turn], dim=1)  # [n, 3, 1]
    return (weights[..., None] * torch.stack([along, across, quarter])).sum(dim=1)


def cut(images: Tensor, centre: Tensor) -> Tensor:
    """Zero a rectangle of half the sides around ``centre``, [n, 2] in x and y relative to the sides."""
    inside = []
    for axis, side in ((0, images.shape[3]), (1, images.shape[2])):
        place = (torch.arange(side, device=images.device) + 0.5) / side
        inside.append((place - centre[:, axis, None]).abs() < HOLE / 2)  # [n, side]
    return images * ~(inside[1][:, None, :, None] & inside[0][:, None, None, :])
