"""Other people's BigGAN and IC-GAN checkpoints in this family's keys.

Both have the layout of the public BigGAN in PyTorch (``blocks.0.0.bn1.gain.weight``), from data-parallel
training behind ``module.``. The architecture is read off the tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import accumulate, product
from typing import Any, NamedTuple

from torch import Tensor

from fsgen.errors import Code, FsgenError
from fsgen.families.biggan.networks import PLANS
from fsgen.interfaces import Spec
from fsgen.nn.batchnorm import add_counters

State = dict[str, Tensor]
MOST = 1024  # channels: a bound on a file's D_ch

_G = {"linear.u0", "blocks.0.0.bn1.gain.weight", "blocks.0.0.conv2.u0", "output_layer.2.u0"}
_D = {"linear.u0", "blocks.0.0.conv1.u0", "blocks.0.0.conv2.u0"}
_NAMES = (  # to ours
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


def bare(state: State) -> State:
    """Published names, without what data-parallel training puts before them."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def is_g(state: State) -> bool:
    """Whether ``state`` is a BigGAN's generator. Those of BigGAN-deep, with four convolutions, are not."""
    return bare(state).keys() >= _G and "blocks.0.0.conv3.weight" not in bare(state)


def is_d(state: State) -> bool:
    """Whether ``state`` is a BigGAN's discriminator."""
    keys = bare(state).keys()
    return keys >= _D and "output_layer.2.u0" not in keys and "blocks.0.0.conv3.weight" not in keys


def renamed(state: State) -> State:
    """The tensors of either network in our keys. Singular values, which are a log, are left out."""
    out = {}
    for key, value in bare(state).items():
        if key.endswith(".sv0"):
            continue
        for pattern, name in _NAMES:
            key = re.sub(pattern, name, key)
        if key == "embed.weight":  # published with a row for each class
            value = value.T.contiguous()
        out[key] = value.float() if value.is_floating_point() else value
    return add_counters(out)


def infer(g: State, d: State | None, told: Mapping[str, Any]) -> tuple[Spec, list[str]]:
    """The spec of networks in our keys, and what had to be guessed.

    Args:
        g, d: the networks; without ``d``, see ``fresh_d``.
        told: the settings that came with them, if any: ``class_cond``, ``instance_cond``, ``hier`` and those
            of ``fresh_d``.

    Raises:
        FsgenError: networks that fit together in no BigGAN.
        KeyError: a tensor that every BigGAN has is missing.
        IndexError: one has fewer axes than any BigGAN's.
    """
    part, first = g["linear.weight"].shape[1], g["blocks.0.conv1.weight"].shape[1]
    widths = [first, *(g[f"blocks.{i}.conv2.weight"].shape[0] for i in range(_count(g)))]
    side = math.isqrt(g["linear.weight"].shape[0] // first)
    (hier, labelled, instances), notes = _conditions(g, d, told)
    spec = {
        "resolution": side << _count(g),
        "channels": g["rgb.weight"].shape[0],
        "z_dim": part * len(widths) if hier else part,
        "c_dim": g["embed.weight"].shape[1] if labelled else 0,
        "h_dim": g["embed_h.weight"].shape[1] if instances else 0,
        "g_embed_dim": g["embed.weight"].shape[0] if labelled else 0,
        "h_embed_dim": g["embed_h.weight"].shape[0] if instances else 0,
        "g_widths": widths,
        "g_attention": _attention(g),
    }
    if not hier:
        spec["hier"] = False
    return spec | (fresh_d(spec, told) if d is None else infer_d(d)), notes


def infer_d(d: State) -> Spec:
    """What the spec says about a D in our keys.

    Whether a block halves the side shows in no shape. Where it does it has a shortcut of its own; the last
    one does not, whatever its shortcut.
    """
    blocks = range(_count(d))
    hidden = d["blocks.0.conv1.weight"].shape[0]
    return {
        "d_widths": [d[f"blocks.{i}.conv2.weight"].shape[0] for i in blocks],
        "d_halves": [f"blocks.{i}.conv_sc.weight" in d and i != blocks[-1] for i in blocks],
        "d_wide": hidden == d["blocks.0.conv2.weight"].shape[0],
        "d_attention": _attention(d),
    }


def fresh_d(spec: Spec, told: Mapping[str, Any]) -> Spec:
    """What the spec says about an untrained D for the generator in ``spec``.

    Widths are the published ones of that resolution, in units of ``D_ch`` or, without it, of G's unit. For a
    resolution or a G that is not published they are G's in reverse order. Attention follows the maps that
    ``D_attn`` names ("32_64"; "0": none) or, without it, the first of the same side as each that it follows
    in G.

    Args:
        spec: resolution, g_widths and g_attention.
        told: the file's settings, possibly empty: ``D_ch``, ``D_attn``, ``D_wide``.

    Raises:
        FsgenError: a setting that no BigGAN has.
    """
    resolution, widths = spec["resolution"], spec["g_widths"]
    unit, attention = told.get("D_ch"), told.get("D_attn")
    if unit is not None and (type(unit) is not int or not 1 <= unit <= MOST):
        raise FsgenError(f"the file's D_ch is {unit!r}", code=Code.OUT_OF_RANGE, where="D_ch",
                         hint=f"1 to {MOST} channels")  # fmt: skip
    if attention is not None and not re.fullmatch(r"\d{1,4}(_\d{1,4})*", str(attention)):
        raise FsgenError(f"the file's D_attn is {attention!r}", code=Code.DAMAGED, where="D_attn",
                         hint="sides in pixels, such as 64 or 32_64")  # fmt: skip
    plan = PLANS.get(resolution)
    if plan and unit is None and widths == [widths[0] // plan.g[0] * times for times in plan.g]:
        unit = widths[0] // plan.g[0]
    if plan and unit:
        d = plan.discriminator(unit)
    else:
        plan, halves = None, [True] * (len(widths) - 1) + [False]
        d = {"d_widths": widths[::-1], "d_halves": halves, "d_wide": True}
    sides = [resolution >> k for k in accumulate(d["d_halves"])]
    if attention is None:
        # G's block i makes maps of resolution / 2^(blocks - 1 - i) px; D's largest have half the resolution.
        attended = {min(resolution >> len(widths) - 2 - i, sides[0]) for i in spec["g_attention"]}
        blocks = [sides.index(side) for side in attended if side in sides]
    else:
        named = {int(side) for side in str(attention).split("_")}
        blocks = [i for i, side in enumerate(plan.d_sides if plan else sides) if side in named]
    return d | {"d_wide": bool(told.get("D_wide", True)), "d_attention": sorted(blocks)}


def used(g: State, spec: Spec) -> State:
    """``g`` without the embedding of classes, or of instances, that files carry and blocks are not told."""
    idle = [name for name, of in (("embed", "c_dim"), ("embed_h", "h_dim")) if not spec[of]]
    return {key: value for key, value in g.items() if key.rpartition(".")[0] not in idle}


class Conditions(NamedTuple):
    """What G's blocks are conditioned on."""

    hier: bool  # a chunk of z
    classes: bool
    instances: bool

    def __str__(self) -> str:
        names = ("chunks of z", "classes", "instances")
        return " and ".join(name for name, there in zip(names, self, strict=True) if there)


def _conditions(g: State, d: State | None, told: Mapping[str, Any]) -> tuple[Conditions, list[str]]:
    """What G's blocks are conditioned on, by the columns of their gains, and a note if that is ambiguous.

    Where the tensors fit several conditions, D and then the file's settings decide; after them z in one
    piece, then instances, take precedence.
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
        raise FsgenError(
            f"a BigGAN generator whose blocks have a condition of {columns} numbers, which is no sum of a "
            f"chunk of z ({chunk}), the embedding of a class ({label}) and that of an instance ({instance})",
            code=Code.UNSUPPORTED, where="blocks.0.bn1.gain.weight",
        )  # fmt: skip
    known = {"classes": told.get("class_cond"), "instances": told.get("instance_cond")}
    if d is not None:
        known = {"classes": "embed.weight" in d, "instances": "embed_h.weight" in d}
    for name, value in {**known, "hier": told.get("hier")}.items():
        if value is not None:
            fits = [fit for fit in fits if getattr(fit, name) == bool(value)] or fits
    first, *others = fits
    notes = [f"taken to be conditioned on {first}: the tensors also fit {' or '.join(map(str, others))}"]
    return first, notes if others else []


def _count(state: State) -> int:
    """How many blocks there are."""
    return len({m[1] for key in state if (m := re.match(r"blocks\.(\d+)\.", key))})


def _attention(state: State) -> list[int]:
    """The blocks that attention follows."""
    return sorted({int(m[1]) for key in state if (m := re.match(r"attention\.(\d+)\.", key))})
