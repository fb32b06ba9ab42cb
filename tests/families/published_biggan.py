"""BigGAN and IC-GAN with the published keys, step by step in float64: what ours are held against.

Written from the papers and apart from ours: functions of a state dict, whose block shapes are given as lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fsgen.interfaces import Inputs, Spec

State = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """An architecture; widths are channels."""

    g: tuple[int, ...]  # at ``bottom`` px and after each block
    d: tuple[int, ...]  # after each block
    halves: tuple[bool, ...]
    g_attention: tuple[int, ...] = ()
    d_attention: tuple[int, ...] = ()
    classes: int = 0
    features: int = 0
    label: int = 0  # numbers that G makes of a class
    instance: int = 0
    part: int = 3  # of z, for each block and the first layer
    hier: bool = True  # False: z is one part, for the first layer
    channels: int = 3
    bottom: int = 4
    wide: bool = True

    @property
    def z_dim(self) -> int:
        return self.part * (len(self.g) if self.hier else 1)

    @property
    def resolution(self) -> int:
        return self.bottom * 2 ** (len(self.g) - 1)


class Maker:
    """Random tensors of the published names; none at a value that it would start from."""

    def __init__(self, seed: int) -> None:
        self.rng, self.state = torch.Generator().manual_seed(seed), {}

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng)

    def spectral(self, name: str, *shape: int, bias: bool = True) -> None:
        self.state[f"{name}.weight"] = self.normal(*shape)
        self.state[f"{name}.u0"] = self.normal(1, shape[0])
        self.state[f"{name}.sv0"] = torch.ones(1)
        if bias:
            self.state[f"{name}.bias"] = self.normal(shape[0]) / 4

    def statistics(self, name: str, channels: int) -> None:
        self.state[f"{name}.stored_mean"] = self.normal(channels) / 4
        self.state[f"{name}.stored_var"] = self.normal(channels).square() + 0.5

    def attention(self, name: str, channels: int) -> None:
        self.spectral(f"{name}.theta", channels // 8, channels, 1, 1, bias=False)
        self.spectral(f"{name}.phi", channels // 8, channels, 1, 1, bias=False)
        self.spectral(f"{name}.g", channels // 2, channels, 1, 1, bias=False)
        self.spectral(f"{name}.o", channels, channels // 2, 1, 1, bias=False)
        self.state[f"{name}.gamma"] = self.normal().reshape([]) + 1


def inputs(spec: Spec, n: int, seed: int = 0) -> Inputs:
    """Random inputs for ours of ``spec``, with soft labels and features where it has them."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(n, spec["z_dim"], generator=rng)
    y = torch.rand(n, spec["c_dim"], generator=rng) if spec["c_dim"] else None
    h = F.normalize(torch.randn(n, spec["h_dim"], generator=rng)) if spec["h_dim"] else None
    return Inputs(z=z, y=y, h=h)


def g_state(shape: Shape, seed: int = 0) -> State:
    make = Maker(seed)
    make.state["shared.weight"] = make.normal(shape.classes or 5, shape.label or 6)  # there in any case
    if shape.features:
        make.spectral("shared_feat", shape.instance, shape.features)
    told = shape.hier * shape.part + bool(shape.classes) * shape.label + bool(shape.features) * shape.instance
    make.spectral("linear", shape.g[0] * shape.bottom**2, shape.part)
    for i, (before, after) in enumerate(zip(shape.g[:-1], shape.g[1:], strict=True)):
        name = f"blocks.{i}.0"
        make.spectral(f"{name}.conv1", after, before, 3, 3)
        make.spectral(f"{name}.conv2", after, after, 3, 3)
        make.spectral(f"{name}.conv_sc", after, before, 1, 1)
        for norm, channels in (("bn1", before), ("bn2", after)):
            make.spectral(f"{name}.{norm}.gain", channels, told, bias=False)
            make.spectral(f"{name}.{norm}.bias", channels, told, bias=False)
            make.statistics(f"{name}.{norm}", channels)
        if i in shape.g_attention:
            make.attention(f"blocks.{i}.1", after)
    make.state["output_layer.0.gain"] = make.normal(shape.g[-1])
    make.state["output_layer.0.bias"] = make.normal(shape.g[-1])
    make.statistics("output_layer.0", shape.g[-1])
    make.spectral("output_layer.2", shape.channels, shape.g[-1], 3, 3)
    return make.state


def d_state(shape: Shape, seed: int = 1) -> State:
    make = Maker(seed)
    before = shape.channels
    for i, (after, halves) in enumerate(zip(shape.d, shape.halves, strict=True)):
        name, hidden = f"blocks.{i}.0", after if shape.wide else before
        make.spectral(f"{name}.conv1", hidden, before, 3, 3)
        make.spectral(f"{name}.conv2", after, hidden, 3, 3)
        if halves or before != after:
            make.spectral(f"{name}.conv_sc", after, before, 1, 1)
        if i in shape.d_attention:
            make.attention(f"blocks.{i}.1", after)
        before = after
    make.spectral("linear", 1, before)
    each = before // 2 if shape.classes and shape.features else before
    if shape.classes:
        make.spectral("embed", shape.classes, each, bias=False)
    if shape.features:
        make.spectral("linear_feat", each, shape.features)
    return make.state


def divided(state: State, name: str) -> Tensor:
    """W / sigma after one power iteration, the vectors and sigma spelled out."""
    weight = state[f"{name}.weight"].double()
    matrix, u = weight.reshape(len(weight), -1), state[f"{name}.u0"].double()[0]
    v = matrix.T @ u
    v = v / v.norm()
    u = matrix @ v
    u = u / u.norm()
    return weight / (u @ matrix @ v)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    out = x @ divided(state, name).T
    return out + state[f"{name}.bias"].double() if f"{name}.bias" in state else out


def conv(state: State, name: str, x: Tensor) -> Tensor:
    weight, bias = divided(state, name), state.get(f"{name}.bias")
    return F.conv2d(x, weight, None if bias is None else bias.double(), padding=weight.shape[-1] // 2)


def normed(state: State, name: str, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    mean, var = state[f"{name}.stored_mean"].double(), state[f"{name}.stored_var"].double()
    x = (x - mean[None, :, None, None]) / (var[None, :, None, None] + 1e-5).sqrt()
    return x * gain[..., None, None] + bias[..., None, None]


def conditional(state: State, name: str, x: Tensor, c: Tensor) -> Tensor:
    gain = 1 + linear(state, f"{name}.gain", c)
    weights = {key: value for key, value in state.items() if not key.startswith(f"{name}.bias.bias")}
    return normed(state, name, x, gain, linear(weights, f"{name}.bias", c))


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def halved(x: Tensor) -> Tensor:
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def attended(state: State, name: str, x: Tensor) -> Tensor:
    """Position by position."""
    query = conv(state, f"{name}.theta", x).flatten(2)
    key = F.max_pool2d(conv(state, f"{name}.phi", x), 2).flatten(2)
    value = F.max_pool2d(conv(state, f"{name}.g", x), 2).flatten(2)
    out = torch.zeros(*value.shape[:2], query.shape[2], dtype=x.dtype)
    for i in range(query.shape[2]):
        scores = torch.einsum("nc,nck->nk", query[:, :, i], key)
        out[:, :, i] = torch.einsum("nk,nck->nc", scores.softmax(dim=1), value)
    mixed = conv(state, f"{name}.o", out.reshape(*out.shape[:2], *x.shape[2:]))
    return state[f"{name}.gamma"].double() * mixed + x


def picture(shape: Shape, state: State, z: Tensor, y: Tensor | None, h: Tensor | None) -> Tensor:
    """G in evaluation: z [n, z_dim], y [n, classes], h [n, features] -> [n, channels, H, W]"""
    parts = [z.double()[:, i * shape.part : (i + 1) * shape.part] for i in range(len(shape.g))]
    told = [y.double() @ state["shared.weight"].double()] if shape.classes else []
    told += [linear(state, "shared_feat", h.double())] if shape.features else []
    x = linear(state, "linear", parts[0]).reshape(len(z), shape.g[0], shape.bottom, shape.bottom)
    for i in range(len(shape.g) - 1):
        name, c = f"blocks.{i}.0", torch.cat([*told, parts[i + 1]] if shape.hier else told, dim=1)
        out = conv(state, f"{name}.conv1", doubled(conditional(state, f"{name}.bn1", x, c).relu()))
        out = conv(state, f"{name}.conv2", conditional(state, f"{name}.bn2", out, c).relu())
        x = out + conv(state, f"{name}.conv_sc", doubled(x))
        if i in shape.g_attention:
            x = attended(state, f"blocks.{i}.1", x)
    gain, bias = state["output_layer.0.gain"].double(), state["output_layer.0.bias"].double()
    return conv(state, "output_layer.2", normed(state, "output_layer.0", x, gain, bias).relu()).tanh()


def logit(shape: Shape, state: State, images: Tensor, y: Tensor | None, h: Tensor | None) -> Tensor:
    """D in evaluation: [n, channels, H, W] -> [n, 1]"""
    x = images.double()
    for i, halves in enumerate(shape.halves):
        name = f"blocks.{i}.0"
        out = conv(state, f"{name}.conv2", conv(state, f"{name}.conv1", x.relu() if i else x).relu())
        shortcut = halved(x) if halves and not i else x
        if f"{name}.conv_sc.weight" in state:
            shortcut = conv(state, f"{name}.conv_sc", shortcut)
        if halves:
            out, shortcut = halved(out), halved(shortcut) if i else shortcut
        x = out + shortcut
        if i in shape.d_attention:
            x = attended(state, f"blocks.{i}.1", x)
    x = x.relu().sum(dim=(2, 3))
    told = [y.double() @ divided(state, "embed")] if shape.classes else []
    told += [linear(state, "linear_feat", h.double())] if shape.features else []
    out = linear(state, "linear", x)
    return out + (torch.cat(told, dim=1) * x).sum(dim=1, keepdim=True) if told else out


def d_parameters(
    widths: tuple[int, ...], halves: tuple[bool, ...], *, attention: tuple[int, ...] = (), channels: int = 3,
    classes: int = 0, features: int = 0,
) -> int:  # fmt: skip
    """How many numbers a wide D learns, counted layer by layer."""
    total, before = 0, channels
    for i, (after, halving) in enumerate(zip(widths, halves, strict=True)):
        total += 9 * before * after + after + 9 * after * after + after
        total += before * after + after if halving or before != after else 0
        total += 2 * after * (after // 8) + 2 * after * (after // 2) + 1 if i in attention else 0
        before = after
    each = before // 2 if classes and features else before
    total += before + 1 + classes * each
    return total + (features * each + each if features else 0)
