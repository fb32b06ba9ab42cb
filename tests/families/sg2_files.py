"""Small random StyleGAN2 networks, and how other people's files would hold them."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

from fsgen.families.stylegan2.family import StyleGAN2
from fsgen.interfaces import Foreign, Networks, Spec

State = dict[str, Tensor]
FAMILY = StyleGAN2()


def spec_of(**changes: Any) -> Spec:
    """16 px and a few channels, unless told otherwise."""
    spec: Spec = {
        "resolution": 16, "channels": 3, "z_dim": 5, "w_dim": 6, "c_dim": 0, "g_embed_dim": 0,
        "mapping_layers": 3, "mapping_lr_mul": 0.01, "g_widths": {"4": 8, "8": 8, "16": 4}, "g_clamp": None,
        "d_widths": {"4": 8, "8": 8, "16": 4}, "d_architecture": "resnet", "d_clamp": None, "d_group": 4,
        "d_embed_dim": 0, "d_cmap_dim": 1, "d_mapping_layers": 0,
    }  # fmt: skip
    if changes.get("c_dim"):
        spec |= {"g_embed_dim": 6, "d_embed_dim": 8, "d_cmap_dim": 8, "d_mapping_layers": 2}
    return spec | changes


def nets(spec: Spec, seed: int = 0) -> Networks:
    """Networks without a parameter or buffer at its initial value; ``seed`` fixes all of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = FAMILY.build(spec)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for net in built:
            for value in (*net.parameters(), *net.buffers()):
                value.add_(torch.randn(value.shape, generator=rng) * 0.3)
    return built


def rosinality_g(state: State) -> State:
    """G as rosinality's training saves it, filters included, w_avg left out."""
    out: State = {}
    parts = {
        "weight": "conv.weight", "affine.weight": "conv.modulation.weight",
        "affine.bias": "conv.modulation.bias", "bias": "activate.bias", "noise_strength": "noise.weight",
    }  # fmt: skip
    for key, value in state.items():
        words = key.split(".")
        if words[0] == "mapping":
            if words[1] != "w_avg":
                out[f"style.{int(words[1][2:]) + 1}.{words[2]}"] = value
            continue
        level = int(math.log2(int(words[1][1:]))) - 3  # -1 at 4 px
        rest = ".".join(words[3:])
        if words[2] == "const":
            out["input.input"] = value[None]
        elif words[2] == "torgb":
            name = "to_rgb1" if level < 0 else f"to_rgbs.{level}"
            if rest == "bias":
                out[f"{name}.bias"] = value[None, :, None, None]
            else:
                out[f"{name}.{parts[rest]}"] = value[None] if rest == "weight" else value
        else:
            i = 2 * level + int(words[2][4:])
            name = "conv1" if level < 0 else f"convs.{i}"
            if rest == "noise_const":
                out[f"noises.noise_{i + 1}"] = value[None, None]
            elif rest == "noise_strength":
                out[f"{name}.noise.weight"] = value.reshape(1)
            else:
                out[f"{name}.{parts[rest]}"] = value[None] if rest == "weight" else value
            if level >= 0 and words[2] == "conv0":
                out[f"{name}.conv.blur.kernel"] = torch.ones(4, 4) / 4
    return out


def rosinality_d(state: State) -> State:
    """D as rosinality's training saves it (a resnet without labels)."""
    top = max(int(key[1:].split(".")[0]) for key in state)
    fixed = {
        f"b{top}.fromrgb.weight": "convs.0.0.weight", f"b{top}.fromrgb.bias": "convs.0.1.bias",
        "b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias",
        "b4.fc.weight": "final_linear.0.weight", "b4.fc.bias": "final_linear.0.bias",
        "b4.out.weight": "final_linear.1.weight", "b4.out.bias": "final_linear.1.bias",
    }  # fmt: skip
    parts = {
        "conv0.weight": "conv1.0.weight", "conv0.bias": "conv1.1.bias", "conv1.weight": "conv2.1.weight",
        "conv1.bias": "conv2.2.bias", "skip.weight": "skip.1.weight",
    }  # fmt: skip
    out: State = {}
    for key, value in state.items():
        block, rest = key.split(".", 1)
        i = int(math.log2(top)) - int(math.log2(int(block[1:]))) + 1
        out[fixed[key] if key in fixed else f"convs.{i}.{parts[rest]}"] = value
        if rest == "conv1.weight":
            out[f"convs.{i}.conv2.0.kernel"] = torch.ones(4, 4) / 16
    return out


def shuffled(state: State, seed: int = 0) -> State:
    keys = list(state)
    random.Random(seed).shuffle(keys)
    return {key: state[key] for key in keys}


def rosinality(built: Networks, **extras: Any) -> Foreign:
    """What is in a training checkpoint; G stands for both of its copies."""
    g, d = rosinality_g(built.g.state_dict()), rosinality_d(built.d.state_dict())
    return Foreign("torch", {"g": dict(g), "g_ema": dict(g), "d": d}, {}, extras)


def nvidia(built: Networks, settings: dict[str, dict[str, Any]] | None = None) -> Foreign:
    """What is in a pickle: NVIDIA's keys are ours, and constant filters besides."""
    g, d = dict(built.g.state_dict()), dict(built.d.state_dict())
    for state, key in ((g, "synthesis.b8.conv0"), (g, "synthesis.b8"), (d, "b8.conv1"), (d, "b8")):
        state[f"{key}.resample_filter"] = torch.ones(4, 4) / 16
    return Foreign("nvidia-pkl", {"G": dict(g), "D": d, "G_ema": dict(g)}, settings or {})
