"""The augmentations of adaptive discriminator augmentation (Karras et al. 2020b, appendix B), differentiable.

An operator is off for an image with probability 1 - p: then its parameter is the one that changes nothing.
All geometry of a call is one matrix an image, and so are all colours. Nothing is clamped.
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
SHIFT = 1 / 8  # of the side: most of a whole shift, standard deviation of another
HOLE = 1 / 2  # side of the rectangle cut out, of the image's side

Parameters = dict[str, Tensor]
"""Of each operator, [n, numbers]; of ``noise`` what is added, [n, C, H, W]."""


@dataclass(frozen=True)
class Operator:
    """How an operator's parameter comes from random numbers, and which one changes nothing."""

    value: Callable[[Tensor, Tensor], Tensor]  # raw [n, numbers], sides (W, H) -> parameter
    neutral: float
    normal: bool = False  # raw numbers are standard normal; else uniform in [0, 1)
    numbers: int = 1
    gates: int = 1


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
    """Random parameters of the operators ``names`` for images of ``shape`` (n, C, H, W), on ``device``.

    Each is on with the probability ``chance``.
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
    """How likely an operator is on: ``p``, which may be above 1; that the picture turns at all, by either of
    the two rotations, is ``p``."""
    return 1 - max(0.0, 1 - p) ** 0.5 if name.startswith("rotate_") else p


def parameter(name: str, raw: Tensor, on: Tensor, shape: Sequence[int]) -> Tensor:
    """The parameter of an operator from its random numbers ``raw`` [n, numbers], where it is ``on``."""
    operator = OPERATORS[name]
    value = operator.value(raw, raw.new_tensor([shape[3], shape[2]]))
    return torch.where(on, value, torch.full_like(value, operator.neutral))


def adaptive_augment(images: Tensor, names: Sequence[str], p: float, rng: torch.Generator) -> Tensor:
    """``images`` [n, C, H, W] under fresh draws of the operators ``names``: see ``draw_parameters``."""
    return transform(images, draw_parameters(names, images.shape, p, rng, images.device))


# ---- applying --------------------------------------------------------------------------------------------


def transform(images: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """``images`` [n, C, H, W] under the operators that ``drawn`` has parameters of; C is 3 or 1."""
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


GEOMETRY: dict[str, Callable[..., Tensor]] = {  # in this order; from places of the output to the input's
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
    """[n, 3, 3]: the product of all, the first on the left."""
    found = [make(*drawn[name].unbind(dim=1)) for name, make in GEOMETRY.items() if name in drawn]
    return reduce(torch.matmul, found)


COLOURS: dict[str, Callable[..., Tensor]] = {  # in this order; see ``_colour``
    "contrast": lambda c: _colour(c, c),
    "lumaflip": lambda i: _colour(1 - 2 * i, torch.ones_like(i)),
    "hue": lambda angle: _colour(torch.ones_like(angle), angle.cos(), angle.sin()),
    "saturation": lambda s: _colour(torch.ones_like(s), s),
}


def recolour(images: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """The product of all, the last on the left; of a grey picture, what happens to grey."""
    found = [make(drawn[name]) for name, make in COLOURS.items() if name in drawn]
    product = reduce(torch.matmul, found[::-1])
    if images.shape[1] == 1:
        return images * (product.sum(dim=(1, 2)) / 3)[:, None, None, None]
    return (product @ images.flatten(2)).unflatten(2, images.shape[2:])


def _colour(grey: Tensor, rest: Tensor, turn: Tensor | float = 0.0) -> Tensor:
    """A map of colours, [n, 3, 3]: grey times ``grey`` [n, 1], what is not grey times ``rest``, plus ``turn``
    times its right-handed quarter turn around the grey axis (1, 1, 1) / sqrt 3."""
    along = grey.new_full((3, 3), 1 / 3)
    across = torch.eye(3).to(grey) - along
    quarter = grey.new_tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    weights = torch.stack([grey, rest, torch.zeros_like(grey) + turn], dim=1)  # [n, 3, 1]
    return (weights[..., None] * torch.stack([along, across, quarter])).sum(dim=1)


def cut(images: Tensor, centre: Tensor) -> Tensor:
    """Zero around ``centre``, [n, 2] in x and y of the sides, a rectangle of half the sides."""
    inside = []
    for axis, side in ((0, images.shape[3]), (1, images.shape[2])):
        place = (torch.arange(side, device=images.device) + 0.5) / side
        inside.append((place - centre[:, axis, None]).abs() < HOLE / 2)  # [n, side]
    return images * ~(inside[1][:, None, :, None] & inside[0][:, None, None, :])
