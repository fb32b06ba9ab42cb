"""Other people's BigGAN and IC-GAN checkpoints in this family's keys.

Both have the layout of the public BigGAN in PyTorch (``blocks.0.0.bn1.gain.weight``), from data-parallel
training behind ``module.``. The architecture is read off the tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.interfaces import Spec
from fsgen.nn.batchnorm import add_counters

State = dict[str, Tensor]

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
        g, d: the networks; without ``d`` a fresh one gets the widths of G.
        told: the settings that came with them, if any: ``class_cond`` and ``instance_cond``.

    Raises:
        FsgenError: networks that fit together in no BigGAN.
        KeyError: a tensor that every BigGAN has is missing.
        IndexError: one has fewer axes than any BigGAN's.
    """
    part, first = g["linear.weight"].shape[1], g["blocks.0.conv1.weight"].shape[1]
    widths = [first, *(g[f"blocks.{i}.conv2.weight"].shape[0] for i in range(_count(g)))]
    side = math.isqrt(g["linear.weight"].shape[0] // first)
    labelled, instances, notes = _conditions(g, d, told)
    spec = {
        "resolution": side << _count(g),
        "channels": g["rgb.weight"].shape[0],
        "z_dim": part * len(widths),
        "c_dim": g["embed.weight"].shape[1] if labelled else 0,
        "h_dim": g["embed_h.weight"].shape[1] if instances else 0,
        "g_embed_dim": g["embed.weight"].shape[0] if labelled else 0,
        "h_embed_dim": g["embed_h.weight"].shape[0] if instances else 0,
        "g_widths": widths,
        "g_attention": _attention(g),
    }
    return spec | (mirrored(spec) if d is None else infer_d(d)), notes


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


def mirrored(spec: Spec) -> Spec:
    """A D for the generator in ``spec``: its widths turned round, its attention on maps of the same side."""
    widths = spec["g_widths"]
    last = len(widths) - 1
    return {
        "d_widths": widths[::-1],
        "d_halves": [i < last for i in range(last + 1)],
        "d_wide": True,
        # G's block i makes maps of resolution / 2^(last - 1 - i) px, D's block j of resolution / 2^(j + 1).
        "d_attention": sorted({max(0, last - 2 - i) for i in spec["g_attention"]}),
    }


def used(g: State, spec: Spec) -> State:
    """``g`` without the embedding of classes, or of instances, that files carry and blocks are not told."""
    idle = [name for name, of in (("embed", "c_dim"), ("embed_h", "h_dim")) if not spec[of]]
    return {key: value for key, value in g.items() if key.rpartition(".")[0] not in idle}


def _conditions(g: State, d: State | None, told: Mapping[str, Any]) -> tuple[bool, bool, list[str]]:
    """Whether G is told classes, and instances: by how many numbers its blocks take beside their z."""
    count = g["blocks.0.bn1.gain.weight"].shape[1] - g["linear.weight"].shape[1]
    label = g["embed.weight"].shape[0] if "embed.weight" in g else 0
    instance = g["embed_h.weight"].shape[0] if "embed_h.weight" in g else 0
    fits = [
        (y, h)
        for y, h in ((False, False), (False, True), (True, False), (True, True))
        if y * label + h * instance == count and label >= y and instance >= h
    ]
    if not fits:
        raise FsgenError(
            f"a BigGAN generator whose blocks are told {count} numbers beside their part of z: neither an "
            f"embedding of a class ({label}), nor of an instance ({instance}), nor both"
        )
    if len(fits) == 1:
        return *fits[0], []
    if d is not None:
        return "embed.weight" in d, "embed_h.weight" in d, []
    if "class_cond" in told and "instance_cond" in told:
        return bool(told["class_cond"]), bool(told["instance_cond"]), []
    return *fits[0], ["taken to be told instances, not classes: the tensors fit either"]


def _count(state: State) -> int:
    """How many blocks there are."""
    return len({m[1] for key in state if (m := re.match(r"blocks\.(\d+)\.", key))})


def _attention(state: State) -> list[int]:
    """The blocks that attention follows."""
    return sorted({int(m[1]) for key in state if (m := re.match(r"attention\.(\d+)\.", key))})
