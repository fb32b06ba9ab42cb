"""Conversion of public FUNIT checkpoints; the architecture is inferred from the tensors."""

from __future__ import annotations

import re
from collections.abc import Callable

from fsgen.families.conversion import StateDict, unsupported
from fsgen.interfaces import Foreign, Spec

Names = tuple[tuple[str, Callable[[re.Match[str]], str | None]], ...]

PARTS = re.compile(r"(?:^|\.)((?:enc_content|enc_class_model|mlp|dec|cnn_f|cnn_c)\..+)")

_RESIDUAL = r"model\.(\d+)\.model\.([01])"  # in a chain of residual blocks: block, convolution
_BRANCH = {"0": "conv0", "1": "conv1", "s": "skip"}

_G: Names = (
    (r"enc_content\.model\.(\d+)\.conv", lambda m: f"content.{_halving(int(m[1]))}"),
    (rf"enc_content\.model\.\d+\.{_RESIDUAL}\.conv", lambda m: f"content.blocks.{m[1]}.{m[2]}"),
    (r"enc_class_model\.model\.(\d+)\.conv", lambda m: f"style.{_halving(int(m[1]))}"),
    (r"enc_class_model\.model\.\d+", lambda m: "style.out"),  # after the pooling
    (r"mlp\.model\.(\d+)\.fc", lambda m: f"mlp.{2 * int(m[1])}"),
    (rf"dec\.model\.0\.{_RESIDUAL}\.conv", lambda m: f"decoder.blocks.{m[1]}.{m[2]}"),
    (rf"dec\.model\.0\.{_RESIDUAL}\.norm", lambda m: None),  # unused statistics
    (r"dec\.model\.(\d*[02468])\.conv", lambda m: f"decoder.up.{int(m[1]) // 2 - 1}"),  # after an upsampling
    (r"dec\.model\.\d+\.conv", lambda m: "decoder.out"),
)

_D: Names = (
    (r"cnn_f\.0\.conv", lambda m: "stem"),
    (r"cnn_f\.(\d+)\.conv_([01s])\.conv", lambda m: f"{_staged(int(m[1]))}.{_BRANCH[m[2]]}"),
    (r"cnn_c\.0\.conv", lambda m: "head"),
)


def _halving(i: int) -> str:
    return f"down.{i - 1}" if i else "stem"


def _staged(i: int) -> str:
    """After the first convolution each stage counts as four modules: two blocks, padding, pooling."""
    stage, block = divmod(i - 1, 4)
    return f"stages.{stage}.{block}"


def networks(foreign: Foreign) -> dict[str, StateDict]:
    """Tensors by network; what precedes a part in a key (``gen.``) is taken as the network's name."""
    found: dict[str, StateDict] = {}
    for name, state in foreign.tensors.items():
        for key, value in state.items():
            match = PARTS.search(key)
            before, rest = (key[: match.start(1)], match[1]) if match else ("", key)
            network = f"{name}.{before}".replace("module.", "").strip(".")
            found.setdefault(network, {})[rest] = value
    return found


def is_g(state: StateDict) -> bool:
    """Tell whether ``state`` is a FUNIT generator."""
    return {"enc_content.model.0.conv.weight", "enc_class_model.model.0.conv.weight"} <= state.keys()


def is_d(state: StateDict) -> bool:
    """Tell whether ``state`` is a FUNIT discriminator."""
    return {"cnn_f.0.conv.weight", "cnn_c.0.conv.weight"} <= state.keys()


def convert_g(state: StateDict) -> StateDict:
    """G in our keys, float32; raises FsgenError for an unknown key."""
    out = _renamed(state, _G, "generator")
    if "style.out.weight" in out:  # a 1x1 convolution of a 1x1 map: a linear layer
        out["style.out.weight"] = out["style.out.weight"].flatten(1)
    return out


def convert_d(state: StateDict) -> StateDict:
    """D in our keys, float32; raises FsgenError for an unknown key."""
    return _renamed(state, _D, "discriminator")


def _renamed(state: StateDict, names: Names, network: str) -> StateDict:
    out: StateDict = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        matches = (name(m) for pattern, name in names if (m := re.fullmatch(pattern, module)))
        found = next(matches, "")
        if found == "":
            raise unsupported(f"a FUNIT {network} with an unknown tensor '{key}'", key)
        if found is None:
            continue
        if f"{found}.{tensor}" in out:
            raise unsupported(f"a FUNIT {network} with two tensors '{found}.{tensor}', one '{key}'", key)
        out[f"{found}.{tensor}"] = value.float()
    return out


def infer(g: StateDict, d: StateDict | None) -> Spec:
    """The spec of converted networks without the resolution, which no tensor depends on.

    Without ``d``, with the published widths of D that go with G's, and one class.

    Raises:
        FsgenError: a generator with more upsampling than downsampling layers, or fewer.
        KeyError: a tensor that every FUNIT has is missing.
        IndexError: a tensor has too few axes.
    """
    content = _widths(g, "content.stem", "content.down.{}")
    decoder = _widths(g, None, "decoder.up.{}")
    if len(decoder) != len(content) - 1:
        layers = f"{len(content) - 1} downsampling and {len(decoder)} upsampling layers"
        raise unsupported(f"a FUNIT generator with {layers}", "dec")
    spec = {
        "channels": g["content.stem.weight"].shape[1],
        "content_widths": content,
        "content_blocks": _count(g, "content.blocks.{}.0"),
        "class_widths": _widths(g, "style.stem", "style.down.{}"),
        "latent_dim": g["style.out.weight"].shape[0],
        "mlp_widths": [g[f"mlp.{2 * i}.weight"].shape[0] for i in range(_count(g, "mlp.{}", step=2) - 1)],
        "decoder_blocks": _count(g, "decoder.blocks.{}.0"),
        "decoder_widths": decoder,
    }
    if d is None:
        return spec | {"c_dim": 1, "d_widths": d_widths(content[0])}
    return spec | infer_d(d)


def infer_d(d: StateDict) -> Spec:
    """D's part of the spec, from a converted D."""
    return {"c_dim": d["head.weight"].shape[0], "d_widths": _widths(d, "stem", "stages.{}.1.conv1")}


def d_widths(width: int) -> list[int]:
    """The published widths of D, ``width`` channels next to the image: ten blocks in five stages."""
    return [min(width << i, 1024) for i in range(6)]


def _count(state: StateDict, module: str, step: int = 1) -> int:
    """The number of modules called ``module``, numbered from 0 in steps of ``step``."""
    i = 0
    while f"{module.format(step * i)}.weight" in state:
        i += 1
    return i


def _widths(state: StateDict, first: str | None, module: str) -> list[int]:
    """Output channels of ``first`` and of each ``module``."""
    names = ([first] if first else []) + [module.format(i) for i in range(_count(state, module))]
    return [state[f"{name}.weight"].shape[0] for name in names]
