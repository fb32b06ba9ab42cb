"""FUNIT once more, slowly, by the published keys: states of any shape, and what their networks do.

Written apart from fsgen's own networks: statistics by hand, padding by index, and activations that work in
place, as those of the published code do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """An architecture, in the published measures."""

    nf: int = 3
    blocks: int = 2
    nf_mlp: int = 5
    latent: int = 4
    mlp: int = 3
    downs_content: int = 3
    downs_class: int = 4
    channels: int = 3
    d_widths: Sequence[int] = (3, 6, 12)  # after the first convolution and after each stage
    classes: int = 3


def _filled(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 4
        state[key] = torch.randn(shape, generator=rng, dtype=torch.float64) * (2 / fan_in) ** 0.5
    return state


def _conv(key: str, inputs: int, outputs: int, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (outputs, inputs, size, size), f"{key}.bias": (outputs,)}


def generator(shape: Shape, seed: int = 0) -> State:
    content, classes = "enc_content.model", "enc_class_model.model"
    shapes = _conv(f"{content}.0.conv", shape.channels, shape.nf, 7)
    shapes |= _conv(f"{classes}.0.conv", shape.channels, shape.nf, 7)
    for i in range(shape.downs_content):
        shapes |= _conv(f"{content}.{i + 1}.conv", shape.nf << i, shape.nf << (i + 1), 4)
    for i in range(shape.downs_class):
        shapes |= _conv(f"{classes}.{i + 1}.conv", shape.nf << min(i, 2), shape.nf << min(i + 1, 2), 4)
    last = shape.nf << min(shape.downs_class, 2)
    shapes |= _conv(f"{classes}.{shape.downs_class + 2}", last, shape.latent, 1)
    width = shape.nf << shape.downs_content
    for block in range(shape.blocks):
        for layer in range(2):
            rest = f"model.{block}.model.{layer}"
            shapes |= _conv(f"{content}.{shape.downs_content + 1}.{rest}.conv", width, width, 3)
            shapes |= _conv(f"dec.model.0.{rest}.conv", width, width, 3)
            shapes |= {f"dec.model.0.{rest}.norm.running_{of}": (width,) for of in ("mean", "var")}
    for i in range(shape.downs_content):
        shapes |= _conv(f"dec.model.{2 * i + 2}.conv", width >> i, width >> (i + 1), 5)
    shapes |= _conv(f"dec.model.{2 * shape.downs_content + 1}.conv", shape.nf, shape.channels, 7)
    sizes = [shape.latent, *[shape.nf_mlp] * (shape.mlp - 1), 4 * shape.blocks * width]
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        shapes |= {f"mlp.model.{i}.fc.weight": (outputs, inputs), f"mlp.model.{i}.fc.bias": (outputs,)}
    return _filled(shapes, seed)


def discriminator(shape: Shape, seed: int = 0) -> State:
    shapes = _conv("cnn_f.0.conv", shape.channels, shape.d_widths[0], 7)
    for stage, (a, b) in enumerate(pairwise(shape.d_widths)):
        for block, outputs in enumerate((a, b)):
            key = f"cnn_f.{1 + 4 * stage + block}"
            shapes |= _conv(f"{key}.conv_0.conv", a, min(a, outputs), 3)
            shapes |= _conv(f"{key}.conv_1.conv", min(a, outputs), outputs, 3)
            if a != outputs:
                shapes[f"{key}.conv_s.conv.weight"] = (outputs, a, 1, 1)
    shapes |= _conv("cnn_c.0.conv", shape.d_widths[-1], shape.classes, 1)
    return _filled(shapes, seed)


# ---- what they do ----------------------------------------------------------------------------------------


def _padded(x: Tensor, by: int) -> Tensor:
    """Reflected at the border, which is not repeated."""
    for axis in (2, 3):
        side = x.shape[axis]
        order = [*range(by, 0, -1), *range(side), *range(side - 2, side - 2 - by, -1)]
        x = x.index_select(axis, torch.tensor(order, dtype=torch.int64))
    return x


def _apply(state: State, key: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{key}.weight"]
    return F.conv2d(_padded(x, (weight.shape[-1] - 1) // 2), weight, state.get(f"{key}.bias"), stride)


def _normal(x: Tensor, shift: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
    mean = x.sum(dim=(2, 3), keepdim=True) / x[0, 0].numel()
    variance = ((x - mean) ** 2).sum(dim=(2, 3), keepdim=True) / x[0, 0].numel()
    return (x - mean) / (variance + 1e-5) ** 0.5 * scale + shift


def content_code(state: State, shape: Shape, x: Tensor) -> Tensor:
    for i in range(shape.downs_content + 1):
        x = _normal(_apply(state, f"enc_content.model.{i}.conv", x, 2 if i else 1)).clamp(min=0)
    for block in range(shape.blocks):
        key = f"enc_content.model.{shape.downs_content + 1}.model.{block}.model"
        dx = _normal(_apply(state, f"{key}.0.conv", x)).clamp(min=0)
        x = x + _normal(_apply(state, f"{key}.1.conv", dx))
    return x


def class_code(state: State, shape: Shape, images: Tensor) -> Tensor:
    """[k, C, H, W] of one class -> [1, latent]"""
    codes = []
    for x in images.split(1):
        for i in range(shape.downs_class + 1):
            x = _apply(state, f"enc_class_model.model.{i}.conv", x, 2 if i else 1).clamp(min=0)
        x = x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
        codes.append(_apply(state, f"enc_class_model.model.{shape.downs_class + 2}", x)[:, :, 0, 0])
    return sum(codes) / len(codes)


def decode(state: State, shape: Shape, x: Tensor, code: Tensor) -> Tensor:
    for i in range(shape.mlp):
        code = code @ state[f"mlp.model.{i}.fc.weight"].T + state[f"mlp.model.{i}.fc.bias"]
        code = code.clamp(min=0) if i < shape.mlp - 1 else code
    at, width = 0, x.shape[1]

    def affine() -> tuple[Tensor, Tensor]:
        nonlocal at
        at += 2 * width
        both = code[:, at - 2 * width : at, None, None]
        return both[:, :width], both[:, width:]

    for block in range(shape.blocks):
        key = f"dec.model.0.model.{block}.model"
        dx = _normal(_apply(state, f"{key}.0.conv", x), *affine()).clamp(min=0)
        x = x + _normal(_apply(state, f"{key}.1.conv", dx), *affine())
    assert at == code.shape[1]
    for i in range(shape.downs_content):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = _normal(_apply(state, f"dec.model.{2 * i + 2}.conv", x)).clamp(min=0)
    return torch.tanh(_apply(state, f"dec.model.{2 * shape.downs_content + 1}.conv", x))


def judge(state: State, shape: Shape, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of all classes, [n, classes, h, w], and the features as the published forward returns them."""
    x = _apply(state, "cnn_f.0.conv", x)
    stages = len(shape.d_widths) - 1
    for stage in range(stages):
        for block in range(2):
            key = f"cnn_f.{1 + 4 * stage + block}"
            learned = f"{key}.conv_s.conv.weight" in state
            past = _apply(state, f"{key}.conv_s.conv", x) if learned else x
            dx = _apply(state, f"{key}.conv_0.conv", F.leaky_relu_(x, 0.2))
            x = past + _apply(state, f"{key}.conv_1.conv", F.leaky_relu_(dx, 0.2))
        if stage < stages - 1:
            x = _padded(x, 1).unfold(2, 3, 2).unfold(3, 3, 2).mean(dim=(4, 5))
    logits = _apply(state, "cnn_c.0.conv", F.leaky_relu_(x, 0.2))
    return logits, x
