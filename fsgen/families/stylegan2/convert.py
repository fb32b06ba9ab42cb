"""Conversion of public StyleGAN2 checkpoints.

Both public layouts store the same values: rosinality's differs from NVIDIA's by names and axes of length one.
The architecture is inferred from the tensors; values that no tensor depends on (clamps, group size of the
minibatch stddev, learning rate of the mapping) are taken from the file's settings where it has them.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.families.conversion import StateDict, unsupported
from fsgen.interfaces import Spec

CONSTANTS = re.compile(r"(resample_filter|\.kernel|num_batches_tracked)$")  # filters: the same in every file

_ROSINALITY_G = (
    (r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}"),
    (r"input\.input", lambda m: "synthesis.b4.const"),
    (r"conv1\.(.+)", lambda m: f"synthesis.b4.conv1.{_styled(m[1])}"),
    (
        r"convs\.(\d+)\.(.+)",
        lambda m: f"synthesis.b{8 << int(m[1]) // 2}.conv{int(m[1]) % 2}.{_styled(m[2])}",
    ),
    (r"to_rgb1\.(.+)", lambda m: f"synthesis.b4.torgb.{_styled(m[1])}"),
    (r"to_rgbs\.(\d+)\.(.+)", lambda m: f"synthesis.b{8 << int(m[1])}.torgb.{_styled(m[2])}"),
    (r"noises\.noise_(\d+)", lambda m: _noise(int(m[1]))),
)


def _styled(rest: str) -> str:
    for theirs, ours in (
        ("conv.modulation.", "affine."),
        ("noise.weight", "noise_strength"),
        ("activate.bias", "bias"),
        ("conv.weight", "weight"),
    ):
        rest = rest.replace(theirs, ours)
    return rest


def _conv(i: int) -> str:
    """rosinality numbers the convolutions above 4 px consecutively, two a resolution."""
    return f"synthesis.b{8 << i // 2}.conv{i % 2}"


def _noise(i: int) -> str:
    return ("synthesis.b4.conv1" if i == 0 else _conv(i - 1)) + ".noise_const"


def _squeeze(key: str, value: Tensor) -> Tensor:
    """Remove the axes of length one that rosinality's layout adds."""
    if key.endswith("noise_strength"):
        return value.reshape([])
    if key.endswith("noise_const"):
        return value.reshape(value.shape[-2:])
    if key.endswith("torgb.bias"):
        return value.flatten()
    if key.endswith("const") or (key.endswith(".weight") and value.ndim == 5):
        return value[0]
    return value


def is_rosinality_g(state: StateDict) -> bool:
    """Tell whether ``state`` is a generator in rosinality's layout."""
    return "input.input" in state and "conv1.conv.weight" in state


def is_nvidia_g(state: StateDict) -> bool:
    """Tell whether ``state`` is a generator in NVIDIA's layout."""
    return "synthesis.b4.const" in state


def is_nvidia_d(state: StateDict) -> bool:
    """Tell whether ``state`` is a discriminator in NVIDIA's layout."""
    return "b4.out.weight" in state and "b4.fc.weight" in state


def is_g(state: StateDict) -> bool:
    """Tell whether ``state`` is a generator in either layout."""
    return is_rosinality_g(state) or is_nvidia_g(state)


def convert_g(state: StateDict) -> StateDict:
    """G of either layout in ours, float32; raises FsgenError for an unknown key."""
    out: StateDict = {}
    if is_nvidia_g(state):
        for key, value in state.items():
            if not CONSTANTS.search(key):
                out[key] = value.reshape([]) if key.endswith("noise_strength") else value
    else:
        for key, value in state.items():
            if CONSTANTS.search(key):
                continue
            for pattern, name in _ROSINALITY_G:
                if match := re.fullmatch(pattern, key):
                    out[name(match)] = _squeeze(name(match), value)
                    break
            else:
                raise unsupported(f"a StyleGAN2 generator with an unknown tensor '{key}'", key)
    return {key: value.float() for key, value in out.items()}


def convert_d(state: StateDict) -> StateDict:
    """D of either layout in ours, float32; raises FsgenError for an unknown key."""
    state = {key: value.float() for key, value in state.items() if not CONSTANTS.search(key)}
    if is_nvidia_d(state):
        return state
    blocks = max((int(m[1]) for key in state if (m := re.match(r"convs\.(\d+)\.", key))), default=0)
    names = {
        "convs.0.0.weight": f"b{4 << blocks}.fromrgb.weight",
        "convs.0.1.bias": f"b{4 << blocks}.fromrgb.bias",
        "final_conv.0.weight": "b4.conv.weight",
        "final_conv.1.bias": "b4.conv.bias",
        "final_linear.0.weight": "b4.fc.weight",
        "final_linear.0.bias": "b4.fc.bias",
        "final_linear.1.weight": "b4.out.weight",
        "final_linear.1.bias": "b4.out.bias",
    }
    for k in range(1, blocks + 1):
        block = f"b{8 << (blocks - k)}"
        names |= {
            f"convs.{k}.conv1.0.weight": f"{block}.conv0.weight",
            f"convs.{k}.conv1.1.bias": f"{block}.conv0.bias",
            f"convs.{k}.conv2.1.weight": f"{block}.conv1.weight",
            f"convs.{k}.conv2.2.bias": f"{block}.conv1.bias",
            f"convs.{k}.skip.1.weight": f"{block}.skip.weight",
        }
    if unknown := sorted(set(state) - set(names)):
        raise unsupported(f"a StyleGAN2 discriminator with an unknown tensor '{unknown[0]}'", unknown[0])
    return {names[key]: value for key, value in state.items()}


def infer(g: StateDict, d: StateDict | None, settings_g: PlainDict, settings_d: PlainDict) -> Spec:
    """The spec of converted networks; without ``d``, with a D of G's widths.

    Args:
        g, d: the networks.
        settings_g, settings_d: as in ``Foreign.settings``, possibly empty.

    Raises:
        FsgenError: an architecture other than the supported ones, or networks of different resolutions.
        KeyError: a tensor that every StyleGAN2 has is missing.
    """
    sizes = _sizes(g, r"synthesis\.b(\d+)\.conv1\.weight")
    if not sizes or sizes != [4 << i for i in range(len(sizes))]:
        raise unsupported(f"a StyleGAN2 generator with blocks of {sizes} px, not 4, 8, ...", "resolution")
    resolution = sizes[-1]
    if f"synthesis.b{sizes[0]}.torgb.weight" not in g:
        raise unsupported("a StyleGAN2 generator of another architecture than 'skip'", "torgb")
    embedded, c_dim = _embedding(g, "embed")
    h_embedded, h_dim = _embedding(g, "embed_feats")
    spec: Spec = {
        "resolution": resolution,
        "channels": g["synthesis.b4.torgb.weight"].shape[0],
        "z_dim": g["mapping.fc0.weight"].shape[1] - embedded - h_embedded,
        "w_dim": g["synthesis.b4.conv1.affine.weight"].shape[1],
        "c_dim": c_dim,
        "g_embed_dim": embedded,
        "mapping_layers": _depth(g),
        "mapping_lr_mul": settings_g.get("mapping.fc0.bias_gain", 0.01),
        "g_widths": {str(r): g[f"synthesis.b{r}.conv1.weight"].shape[0] for r in sizes},
        "g_clamp": settings_g.get("synthesis.b4.conv1.conv_clamp"),
    }
    if h_dim:
        d_embedded = _embedding(d, "embed_feats")[0] if d is not None else h_embedded
        spec |= {"h_dim": h_dim, "g_h_embed_dim": h_embedded, "d_h_embed_dim": d_embedded}
    if d is None:
        return spec | {
            "d_widths": spec["g_widths"],
            "d_architecture": "resnet",
            "d_clamp": spec["g_clamp"],
            "d_group": 4,
            "d_embed_dim": spec["g_widths"]["4"],
            "d_cmap_dim": spec["g_widths"]["4"],
            "d_mapping_layers": spec["mapping_layers"],
        }
    return spec | _infer_d(d, resolution, settings_d)


def _infer_d(d: StateDict, resolution: int, settings: PlainDict) -> Spec:
    """D's part of the spec."""
    sizes = _sizes(d, r"b(\d+)\.conv0\.weight")
    if not sizes or sizes != [8 << i for i in range(len(sizes))] or sizes[-1] != resolution:
        raise FsgenError(f"a generator of {resolution} px with a discriminator of blocks of {sizes} px",
                         code=Code.INCOMPATIBLE, where="d")  # fmt: skip
    width, inputs = d["b4.conv.weight"].shape[:2]
    group = settings.get("b4.mbstd.group_size", 4)
    if inputs - width not in (0, 1):
        extra = f"{inputs - width} channels of minibatch stddev, not 0 or 1"
        raise unsupported(f"a StyleGAN2 discriminator with {extra}", "b4.conv.weight")
    architecture = "skip" if "b4.fromrgb.weight" in d else "orig"
    return {
        "d_widths": {str(r): d[f"b{r}.conv0.weight"].shape[0] for r in sizes} | {"4": width},
        "d_architecture": "resnet" if f"b{resolution}.skip.weight" in d else architecture,
        "d_clamp": settings.get("b4.conv.conv_clamp"),
        "d_group": 0 if inputs == width else (group or 1 << 30),  # NVIDIA's None: the whole batch
        "d_embed_dim": _embedding(d, "embed")[0],
        "d_cmap_dim": d["b4.out.weight"].shape[0],
        "d_mapping_layers": _depth(d),
    }


def _embedding(state: StateDict, name: str) -> tuple[int, int]:
    """Outputs and inputs of the mapping's layer ``name``; (0, 0) without it."""
    weight = state.get(f"mapping.{name}.weight")
    return (0, 0) if weight is None else (weight.shape[0], weight.shape[1])


def _sizes(state: StateDict, pattern: str) -> list[int]:
    return sorted(int(m[1]) for key in state if (m := re.fullmatch(pattern, key)))


def _depth(state: StateDict) -> int:
    return sum(1 for key in state if re.fullmatch(r"mapping\.fc\d+\.weight", key))


def add_stored_noise(g: StateDict, spec: Spec) -> bool:
    """Add noise from seed 0 where it is missing (files from before January 2020); True if any was missing."""
    rng = torch.Generator().manual_seed(0)
    missing = False
    for r in (int(r) for r in spec["g_widths"]):
        for conv in ("conv1",) if r == 4 else ("conv0", "conv1"):
            key = f"synthesis.b{r}.{conv}.noise_const"
            drawn = torch.randn(r, r, generator=rng)
            if key not in g:
                g[key] = drawn
                missing = True
    return missing
