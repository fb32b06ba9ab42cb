"""Conversion of public BigGAN and IC-GAN checkpoints.

Both have the layout of the public BigGAN in PyTorch (``blocks.0.0.bn1.gain.weight``), with the prefix
``module.`` after data-parallel training. The architecture is inferred from the tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import accumulate, product
from typing import Any, NamedTuple

from fsgen.errors import Code, FsgenError
from fsgen.families.biggan.networks import PUBLISHED
from fsgen.families.conversion import StateDict, unsupported
from fsgen.interfaces import Spec
from fsgen.nn.batchnorm import add_counters

MOST = 1024  # channels: a bound on a file's D_ch

_G = {"linear.u0", "blocks.0.0.bn1.gain.weight", "blocks.0.0.conv2.u0", "output_layer.2.u0"}
_D = {"linear.u0", "blocks.0.0.conv1.u0", "blocks.0.0.conv2.u0"}
_NAMES = (  # published key -> ours
    (r"^(shared|linear)_feat\.", "embed_h."),
    (r"^shared\.", "embed."),
    (r"^blocks\.(\d+)\.0\.", r"blocks.\1."),
    (r"^blocks\.(\d+)\.1\.", r"attention.\1."),
    (r"^output_layer\.0\.gain$", "norm.weight"),
    (r"^output_layer\.0\.", "norm."),
    (r"^output_layer\.2\.", "rgb."),
    (r"\.(bn\d)\.bias\.", r".\1.shift."),
    (r"\.stored_(mean|var)$", r".running_\1"),
    (r"\.u0$", ".u"),
)


def without_prefix(state: StateDict) -> StateDict:
    """Remove the prefix of data-parallel training from the keys."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def is_g(state: StateDict) -> bool:
    """Tell whether ``state`` is a BigGAN generator; those of BigGAN-deep, with four convolutions, are not."""
    keys = without_prefix(state).keys()
    return keys >= _G and "blocks.0.0.conv3.weight" not in keys


def is_d(state: StateDict) -> bool:
    """Tell whether ``state`` is a BigGAN discriminator."""
    keys = without_prefix(state).keys()
    return keys >= _D and "output_layer.2.u0" not in keys and "blocks.0.0.conv3.weight" not in keys


def renamed(state: StateDict) -> StateDict:
    """The tensors of either network in our keys, without the logged singular values."""
    out = {}
    for key, value in without_prefix(state).items():
        if key.endswith(".sv0"):
            continue
        for pattern, name in _NAMES:
            key = re.sub(pattern, name, key)
        if key == "embed.weight":  # published with one row a class
            value = value.T.contiguous()
        out[key] = value.float() if value.is_floating_point() else value
    return add_counters(out)


def infer(g: StateDict, d: StateDict | None, settings: Mapping[str, Any]) -> tuple[Spec, list[str]]:
    """The spec of networks in our keys, and a note for each guess.

    Args:
        g, d: the networks; without ``d``, see ``fresh_d``.
        settings: of the program that trained them, possibly empty: ``class_cond``, ``instance_cond``,
            ``hier`` and those of ``fresh_d``.

    Raises:
        FsgenError: tensors or settings of no BigGAN.
        KeyError: a tensor that every BigGAN has is missing.
        IndexError: a tensor has too few axes.
    """
    chunk, first = g["linear.weight"].shape[1], g["blocks.0.conv1.weight"].shape[1]
    widths = [first, *(g[f"blocks.{i}.conv2.weight"].shape[0] for i in range(_count(g)))]
    side = math.isqrt(g["linear.weight"].shape[0] // first)
    (hier, classes, instances), notes = _conditions(g, d, settings)
    spec = {
        "resolution": side << _count(g),
        "channels": g["rgb.weight"].shape[0],
        "z_dim": chunk * len(widths) if hier else chunk,
        "c_dim": g["embed.weight"].shape[1] if classes else 0,
        "h_dim": g["embed_h.weight"].shape[1] if instances else 0,
        "g_embed_dim": g["embed.weight"].shape[0] if classes else 0,
        "h_embed_dim": g["embed_h.weight"].shape[0] if instances else 0,
        "g_widths": widths,
        "g_attention": _attention(g),
    }
    if not hier:
        spec["hier"] = False
    return spec | (fresh_d(spec, settings) if d is None else infer_d(d)), notes


def infer_d(d: StateDict) -> Spec:
    """D's part of the spec, from its tensors.

    No shape shows which blocks halve the resolution: those with a convolution in the shortcut do, except for
    the last block.
    """
    blocks = range(_count(d))
    hidden = d["blocks.0.conv1.weight"].shape[0]
    return {
        "d_widths": [d[f"blocks.{i}.conv2.weight"].shape[0] for i in blocks],
        "d_halves": [f"blocks.{i}.conv_sc.weight" in d and i != blocks[-1] for i in blocks],
        "d_wide": hidden == d["blocks.0.conv2.weight"].shape[0],
        "d_attention": _attention(d),
    }


def fresh_d(spec: Spec, settings: Mapping[str, Any]) -> Spec:
    """D's part of the spec for an untrained D, to train the generator in ``spec`` further.

    Widths are the published ones of that resolution, in units of ``D_ch`` or, without it, of G's unit. For a
    resolution or a G that is not published they are G's in reverse order. Attention follows the maps that
    ``D_attn`` names ("32_64"; "0": none) or, without it, the first map of each resolution attended to in G.

    Args:
        spec: resolution, g_widths and g_attention.
        settings: of the program that trained G, possibly empty: ``D_ch``, ``D_attn``, ``D_wide``.

    Raises:
        FsgenError: a setting out of range.
    """
    resolution, widths = spec["resolution"], spec["g_widths"]
    unit, attention = settings.get("D_ch"), settings.get("D_attn")
    if unit is not None and (type(unit) is not int or not 1 <= unit <= MOST):
        raise FsgenError(f"D_ch is {unit!r} in the settings of this BigGAN", code=Code.OUT_OF_RANGE,
                         where="D_ch", hint=f"1 to {MOST} channels")  # fmt: skip
    if attention is not None and not re.fullmatch(r"\d{1,4}(_\d{1,4})*", str(attention)):
        raise FsgenError(f"D_attn is {attention!r} in the settings of this BigGAN", code=Code.DAMAGED,
                         where="D_attn", hint="resolutions in pixels, such as 64 or 32_64")  # fmt: skip
    published = PUBLISHED.get(resolution)
    if published and unit is None and widths == [widths[0] // published.g[0] * k for k in published.g]:
        unit = widths[0] // published.g[0]
    if published and unit:
        d = published.discriminator(unit)
    else:
        published, halves = None, [True] * (len(widths) - 1) + [False]
        d = {"d_widths": widths[::-1], "d_halves": halves, "d_wide": True}
    sides = [resolution >> k for k in accumulate(d["d_halves"])]
    if attention is None:
        # G's block i makes maps of resolution / 2^(blocks - 1 - i) px; D's largest have half the resolution.
        attended = {min(resolution >> len(widths) - 2 - i, sides[0]) for i in spec["g_attention"]}
        blocks = [sides.index(side) for side in attended if side in sides]
    else:
        named = {int(side) for side in str(attention).split("_")}
        blocks = [i for i, side in enumerate(published.d_sides if published else sides) if side in named]
    return d | {"d_wide": bool(settings.get("D_wide", True)), "d_attention": sorted(blocks)}


def drop_unused(g: StateDict, spec: Spec) -> StateDict:
    """``g`` without embeddings of classes or instances that no block is conditioned on."""
    unused = [name for name, size in (("embed", "c_dim"), ("embed_h", "h_dim")) if not spec[size]]
    return {key: value for key, value in g.items() if key.rpartition(".")[0] not in unused}


class Conditions(NamedTuple):
    """The parts of the condition of G's blocks."""

    hier: bool  # a chunk of z
    classes: bool
    instances: bool

    def __str__(self) -> str:
        names = ("chunks of z", "classes", "instances")
        return " and ".join(name for name, there in zip(names, self, strict=True) if there)


def _conditions(
    g: StateDict, d: StateDict | None, settings: Mapping[str, Any]
) -> tuple[Conditions, list[str]]:
    """The condition of G's blocks, from the columns of their gains, and a note if it is ambiguous.

    Where the tensors fit several conditions, D and then the settings decide; after them z in one piece, then
    instances, take precedence.
    """
    columns, chunk = g["blocks.0.bn1.gain.weight"].shape[1], g["linear.weight"].shape[1]
    label = g["embed.weight"].shape[0] if "embed.weight" in g else 0
    instance = g["embed_h.weight"].shape[0] if "embed_h.weight" in g else 0
    fits = [
        Conditions(hier, y, h)
        for hier, y, h in product((False, True), repeat=3)
        if 0 < columns == hier * chunk + y * label + h * instance and label >= y and instance >= h
    ]
    if not fits:
        raise unsupported(
            f"a BigGAN generator whose condition has {columns} numbers, which is no sum of a chunk of z "
            f"({chunk}), the embedding of a class ({label}) and that of an instance ({instance})",
            where="blocks.0.bn1.gain.weight",
        )
    known = {"classes": settings.get("class_cond"), "instances": settings.get("instance_cond")}
    if d is not None:
        known = {"classes": "embed.weight" in d, "instances": "embed_h.weight" in d}
    for name, value in {**known, "hier": settings.get("hier")}.items():
        if value is not None:
            fits = [fit for fit in fits if getattr(fit, name) == bool(value)] or fits
    first, *others = fits
    notes = [f"taken to be conditioned on {first}: the tensors also fit {' or '.join(map(str, others))}"]
    return first, notes if others else []


def _count(state: StateDict) -> int:
    """The number of blocks."""
    return len({m[1] for key in state if (m := re.match(r"blocks\.(\d+)\.", key))})


def _attention(state: StateDict) -> list[int]:
    """The indices of the blocks that attention follows."""
    return sorted({int(m[1]) for key in state if (m := re.match(r"attention\.(\d+)\.", key))})
