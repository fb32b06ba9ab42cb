"""Conversion of public FastGAN checkpoints.

Two layouts store the same values: that of the published code (``feat_8.1.weight_orig``, possibly with the
prefix ``module.``) and that of the generators on the Hugging Face Hub
(``_upsample_8._layers.1._conv.weight_orig``; taken from the source code, not tested on files, the name inside
its first layer is uncertain). The architecture is inferred from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fsgen.errors import Code, FsgenError
from fsgen.families.conversion import StateDict, unsupported
from fsgen.families.fastgan.networks import STEM, is_deep, sides, small_side
from fsgen.interfaces import Spec
from fsgen.nn.batchnorm import add_counters

Names = tuple[tuple[str, Callable[[re.Match[str]], str]], ...]

BUFFERS = ("weight_u", "weight_v", "running_mean", "running_var", "num_batches_tracked")

# Published channels at each side in units of ngf (G) or ndf (D); D's maps are listed under twice their side.
MULTIPLES = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
D_MULTIPLES = {4: 16, 8: 16, 16: 8, 32: 4, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
DECODER = (128, 64, 64, 32)  # independent of ndf

_DEEP = {
    "1": "0.conv", "2": "0.noise_strength", "3": "0.norm",
    "5": "1.conv", "6": "1.noise_strength", "7": "1.norm",
}  # fmt: skip
_FLAT = {"1": "0.conv", "2": "0.norm"}
_GATE = {"1": "squeeze", "3": "excite"}
_LEAKY = {"0": "0.conv", "1": "0.norm", "3": "1.conv", "4": "1.norm"}
_HEAD = {"0": "0.conv", "1": "0.norm", "3": "1"}
_STEM = {"0": "0.conv", "2": "1.conv", "3": "1.norm"}
_PAIR = {"0": "conv", "1": "norm"}
_AFTER = {"1": "conv", "2": "norm"}

_HUB = (  # key on the Hub -> published key
    (r"\._conv\.", "."),
    (r"\._weight$", ".weight"),
    (r"^_init\.(_layers\.)?", "init.init."),
    (r"^_upsample_(\d+)\._layers\.", r"feat_\1."),
    (r"^_sle_(\d+)\._layers\.", r"se_\1.main."),
    (r"^_out_128\.0\.", "to_128."),
    (r"^_out_\d+\.0\.", "to_big."),
)

_G: Names = (
    (r"init\.init\.([01])", lambda m: f"b4.{_PAIR[m[1]]}"),
    (r"feat_([1-9]\d*)\.([1-7])", lambda m: f"b{m[1]}.{(_DEEP if is_deep(int(m[1])) else _FLAT)[m[2]]}"),
    (r"se_(\d+)\.main\.([13])", lambda m: f"gate{m[1]}.{_GATE[m[2]]}"),
    (r"to_128", lambda m: "rgb128"),
    (r"to_big", lambda m: "to_big"),  # the side is not in the name
)

# D's blocks are named by the factor from 1024 px to twice their output: down_4 maps 256 to 128 px.
_D: Names = (
    (r"down_from_big\.([023])", lambda m: f"stem.{_STEM[m[1]]}"),
    (r"down_(4|8|16|32|64)\.main\.([0134])", lambda m: f"b{512 // int(m[1])}.main.{_LEAKY[m[2]]}"),
    (r"down_(4|8|16|32|64)\.direct\.([12])", lambda m: f"b{512 // int(m[1])}.direct.{_AFTER[m[2]]}"),
    (r"se_\d+_(16|32|64)\.main\.([13])", lambda m: f"gate{512 // int(m[1])}.{_GATE[m[2]]}"),
    (r"rf_big\.([013])", lambda m: f"head.{_HEAD[m[1]]}"),
    (r"rf_small", lambda m: "head_small"),
    (r"down_from_small\.0", lambda m: "branch.0.conv"),
    (r"down_from_small\.([234])\.main\.([01])", lambda m: f"branch.{int(m[1]) - 1}.{_PAIR[m[2]]}"),
    (r"decoder_(\w+)\.main\.([1-4])\.([12])", lambda m: f"decode_{m[1]}.up.{int(m[2]) - 1}.{_AFTER[m[3]]}"),
    (r"decoder_(\w+)\.main\.5", lambda m: f"decode_{m[1]}.out"),
)
_TENSORS = {"weight_orig": "weight", "weight_u": "u", "weight_v": "v"}


def published_keys(state: StateDict) -> StateDict:
    """``state`` of either layout with published keys, without the prefix of data-parallel training."""
    out = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if key.startswith("_"):
            for pattern, name in _HUB:
                key = re.sub(pattern, name, key)
        out[key] = value
    return out


def is_g(state: StateDict) -> bool:
    """Tell whether ``state``, in either layout, is a FastGAN generator."""
    keys = published_keys(state).keys()
    return {"init.init.0.weight_orig", "feat_8.5.weight_orig", "to_big.weight_orig"} <= keys


def convert_g(state: StateDict) -> StateDict:
    """G in our keys, without stored noise; raises FsgenError for an unknown key."""
    out = _renamed(published_keys(state), _G, "generator")
    top = max(_sides(out), default=0)
    out = {key.replace("to_big.", f"rgb{top}."): value for key, value in out.items()}
    return {
        key.removesuffix(".weight") if ".noise_strength" in key else key:
        value.reshape([]) if ".noise_strength" in key else value
        for key, value in out.items()
    }  # fmt: skip


def convert_d(state: StateDict) -> StateDict:
    """D in our keys; raises FsgenError for an unknown key."""
    return _renamed(published_keys(state), _D, "discriminator")


def _renamed(state: StateDict, names: Names, network: str) -> StateDict:
    out = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        try:
            found = next(name(match) for pattern, name in names if (match := re.fullmatch(pattern, module)))
        except (StopIteration, KeyError):
            raise unsupported(f"a FastGAN {network} with an unknown tensor '{key}'", key) from None
        out[f"{found}.{_TENSORS.get(tensor, tensor)}"] = value.float() if value.is_floating_point() else value
    return add_counters(out)


def averaged(state: StateDict, averages: Sequence[Tensor]) -> StateDict:
    """``state`` with its parameters replaced, in the file's order, by a list of unnamed averages."""
    names = [key for key in state if key.rpartition(".")[2] not in BUFFERS]
    if [state[name].shape for name in names] != [value.shape for value in averages]:
        raise FsgenError(
            f"a FastGAN checkpoint whose 'g_ema' has {len(averages)} tensors that do not fit the "
            f"{len(names)} parameters of its 'g'", code=Code.DAMAGED, where="g_ema",
        )  # fmt: skip
    own = {key: value.clone() for key, value in state.items()}  # the two networks share no tensors
    return own | dict(zip(names, averages, strict=True))


def infer(g: StateDict, d: StateDict | None) -> Spec:
    """The spec of converted networks; without ``d``, with the published widths of D that go with G's.

    Raises:
        FsgenError: resolutions that no FastGAN has, or that differ between the networks.
        KeyError: a tensor that every FastGAN has is missing.
        IndexError: a tensor has too few axes.
    """
    found = _sides(g)
    if not found or found != sides(8, found[-1]) or not 32 <= found[-1] <= 1024:
        raise unsupported(f"a FastGAN generator with blocks of {found} px, not of 8 to 1024", "resolution")
    resolution = found[-1]
    g_widths = {"4": g["b4.conv.weight"].shape[1] // 2}
    g_widths |= {str(side): g[f"b{side}.0.conv.weight"].shape[0] // 2 for side in found}
    spec = {
        "resolution": resolution,
        "channels": g[f"rgb{resolution}.weight"].shape[0],
        "z_dim": g["b4.conv.weight"].shape[0],
        "sle": any(key.startswith("gate") for key in g),
        "g_widths": g_widths,
    }
    if d is None:
        return spec | d_widths(resolution, g_widths["4"] // MULTIPLES[4])
    return spec | infer_d(d, resolution)


def infer_d(d: StateDict, resolution: int) -> Spec:
    """D's part of the spec, from a converted D for images of ``resolution`` px."""
    top = min(STEM, resolution)
    stem = [d[f"stem.{i}.conv.weight"] for i in range(2) if f"stem.{i}.conv.weight" in d]
    kernel = 3 if resolution <= STEM else 4
    if len(stem) != (2 if resolution > 2 * STEM else 1) or stem[0].shape[-1] != kernel:
        raise FsgenError(f"a FastGAN discriminator that does not fit a generator of {resolution} px",
                         code=Code.INCOMPATIBLE, where="d")  # fmt: skip
    widths = {2 * top: stem[0], top: stem[-1]} if len(stem) == 2 else {top: stem[0]}
    widths |= {side: d[f"b{side}.direct.conv.weight"] for side in sides(8, top // 2)[::-1]}
    widths |= {4: d["head.0.conv.weight"]}
    decoders = len(sides(16, small_side(resolution)))
    return {
        "d_widths": {str(side): weight.shape[0] for side, weight in widths.items()},
        "decoder_widths": [d[f"decode_part.up.{i}.conv.weight"].shape[0] // 2 for i in range(decoders)],
    }


def g_widths(resolution: int, ngf: int) -> Spec:
    """The published widths of G, ``ngf`` channels at 128 px."""
    return {"g_widths": {str(side): max(1, int(MULTIPLES[side] * ngf)) for side in sides(4, resolution)}}


def d_widths(resolution: int, ndf: float) -> Spec:
    """The published widths of D, ``ndf`` channels at 64 px, and of its decoders."""
    top = 2 * STEM if resolution > 2 * STEM else min(STEM, resolution)
    return {
        "d_widths": {str(side): max(1, int(D_MULTIPLES[2 * side] * ndf)) for side in sides(4, top)},
        "decoder_widths": list(DECODER[: len(sides(16, small_side(resolution)))]),
    }


def add_stored_noise(g: StateDict) -> None:
    """Add the stored noise, which these files lack, from seed 0."""
    rng = torch.Generator().manual_seed(0)
    for side in _sides(g):
        for layer in (0, 1) if is_deep(side) else ():
            g[f"b{side}.{layer}.noise_const"] = torch.randn(side, side, generator=rng)


def _sides(g: StateDict) -> list[int]:
    """Sides of G's blocks above 4 px."""
    return sorted(int(m[1]) for key in g if (m := re.fullmatch(r"b(\d+)\.0\.conv\.weight", key)))
