"""Published FUNIT checkpoints in this family's keys; the architecture is read off the tensors."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.interfaces import Foreign, Spec

State = dict[str, Tensor]
Names = tuple[tuple[str, Callable[[re.Match[str]], str | None]], ...]

PARTS = re.compile(r"(?:^|\.)((?:enc_content|enc_class_model|mlp|dec|cnn_f|cnn_c)\..+)")

_RESIDUAL = r"model\.(\d+)\.model\.([01])"  # of a chain of residual blocks: the block, the convolution

_G: Names = (
    (r"enc_content\.model\.(\d+)\.conv", lambda m: f"content.{_halving(int(m[1]))}"),
    (rf"enc_content\.model\.\d+\.{_RESIDUAL}\.conv", lambda m: f"content.blocks.{m[1]}.{m[2]}"),
    (r"enc_class_model\.model\.(\d+)\.conv", lambda m: f"style.{_halving(int(m[1]))}"),
    (r"enc_class_model\.model\.\d+", lambda m: "style.out"),  # behind the pooling
    (r"mlp\.model\.(\d+)\.fc", lambda m: f"mlp.{2 * int(m[1])}"),
    (rf"dec\.model\.0\.{_RESIDUAL}\.conv", lambda m: f"decoder.blocks.{m[1]}.{m[2]}"),
    (rf"dec\.model\.0\.{_RESIDUAL}\.norm", lambda m: None),  # statistics that nothing reads
    (r"dec\.model\.(\d*[02468])\.conv", lambda m: f"decoder.up.{int(m[1]) // 2 - 1}"),  # behind a doubling
    (r"dec\.model\.\d+\.conv", lambda m: "decoder.out"),
)

_D: Names = (
    (r"cnn_f\.0\.conv", lambda m: "stem"),
    (r"cnn_f\.(\d+)\.conv_([01s])\.conv", lambda m: f"{_staged(int(m[1]))}.{_BRANCH[m[2]]}"),
    (r"cnn_c\.0\.conv", lambda m: "head"),
)
_BRANCH = {"0": "conv0", "1": "conv1", "s": "skip"}


def _halving(i: int) -> str:
    return f"down.{i - 1}" if i else "stem"


def _staged(i: int) -> str:
    """Behind the first convolution each stage is counted as four: two blocks, padding, pooling."""
    stage, block = divmod(i - 1, 4)
    return f"stages.{stage}.{block}"


def networks(foreign: Foreign) -> dict[str, State]:
    """Tensors by network, without what stands before a part's name in their keys (``gen.``, ``module.``)."""
    found: dict[str, State] = {}
    for name, state in foreign.tensors.items():
        for key, value in state.items():
            match = PARTS.search(key)
            before, bare = (key[: match.start(1)], match[1]) if match else ("", key)
            network = f"{name}.{before}".replace("module.", "").strip(".")
            found.setdefault(network, {})[bare] = value
    return found


def is_g(state: State) -> bool:
    return {"enc_content.model.0.conv.weight", "enc_class_model.model.0.conv.weight"} <= state.keys()


def is_d(state: State) -> bool:
    return {"cnn_f.0.conv.weight", "cnn_c.0.conv.weight"} <= state.keys()


def generator(state: State) -> State:
    """G in our keys, float32; raises FsgenError naming a key that has no place."""
    out = _renamed(state, _G, "generator")
    if "style.out.weight" in out:  # a 1x1 convolution of what was pooled to 1x1: a linear layer
        out["style.out.weight"] = out["style.out.weight"].flatten(1)
    return out


def discriminator(state: State) -> State:
    """D in our keys, float32; raises FsgenError naming a key that has no place."""
    return _renamed(state, _D, "discriminator")


def _renamed(state: State, names: Names, what: str) -> State:
    out: State = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        matches = ((name, match) for pattern, name in names if (match := re.fullmatch(pattern, module)))
        name, match = next(matches, (None, None))
        if name is None:
            raise FsgenError(f"a FUNIT {what} with an unknown tensor '{key}'")
        if (found := name(match)) is None:
            continue
        if f"{found}.{tensor}" in out:
            raise FsgenError(f"a FUNIT {what} with two tensors for one place, the second '{key}'")
        out[f"{found}.{tensor}"] = value.float()
    return out


def infer(g: State, d: State | None) -> Spec:
    """The spec of converted networks, but for the resolution, which no tensor shows.

    Raises:
        FsgenError: a generator whose pictures come out in another size than they went in.
        KeyError: a tensor that every FUNIT has is missing.
        IndexError: one has fewer axes than any FUNIT's.
    """
    content = _widths(g, "content.stem", "content.down.{}")
    decoder = _widths(g, None, "decoder.up.{}")
    if len(decoder) != len(content) - 1:
        raise FsgenError(
            f"a FUNIT generator that halves a picture {len(content) - 1} times and doubles it {len(decoder)}"
        )
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
    if d is None:  # a fresh one, of the widths that go with G's
        return spec | {"c_dim": 1, "d_widths": d_widths(content[0])}
    return spec | infer_d(d)


def infer_d(d: State) -> Spec:
    """What the spec says about a converted D."""
    return {"c_dim": d["head.weight"].shape[0], "d_widths": _widths(d, "stem", "stages.{}.1.conv1")}


def d_widths(width: int) -> list[int]:
    """The published widths of D, ``width`` channels at the picture's end: ten blocks in five stages."""
    return [min(width << i, 1024) for i in range(6)]


def _count(state: State, module: str, step: int = 1) -> int:
    """How many there are of ``module``, counted from 0."""
    i = 0
    while f"{module.format(step * i)}.weight" in state:
        i += 1
    return i


def _widths(state: State, first: str | None, module: str) -> list[int]:
    """Channels that leave ``first`` and then each ``module``."""
    names = ([first] if first else []) + [module.format(i) for i in range(_count(state, module))]
    return [state[f"{name}.weight"].shape[0] for name in names]
