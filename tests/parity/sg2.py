"""What the golden cases of StyleGAN2 have in common: their files, their networks, their outputs by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cases import WEIGHTS, Case, each_output
from torch import Tensor, nn

from fsgen.families.stylegan2 import convert
from fsgen.families.stylegan2.family import StyleGAN2
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Converted, Foreign

FAMILY = StyleGAN2()
WHOLE_BATCH = 1 << 30  # a group size of None
PICKLES = ("nvidia-pkl", "nvidia-pkl-torch2", "nvidia-pkl-sg3")


def files(case: Case) -> list[str]:
    """The case's checkpoint files in other people's formats, then its plain weights if it has them."""
    named = case.files
    return named + ([WEIGHTS] if (case.folder / WEIGHTS).is_file() and WEIGHTS not in named else [])


def foreign(case: Case, file: str) -> Foreign:
    return read_foreign(case.folder / file)


def settings(case: Case) -> dict[str, Any]:
    """The spec entries that no tensor shows, as the case's config has them."""
    config = case.info["config"]
    told = {}
    for theirs, ours in (
        ("conv_clamp", ("g_clamp", "d_clamp")),
        ("mapping_lr_multiplier", ("mapping_lr_mul",)),
        ("lr_mlp", ("mapping_lr_mul",)),
    ):
        told |= {name: config[theirs] for name in ours if theirs in config}
    for theirs in ("mbstd_group_size", "stddev_group"):
        if theirs in config and config.get("mbstd_num_channels", config.get("stddev_feat", 1)):
            told["d_group"] = config[theirs] or WHOLE_BATCH
    return told


def load(case: Case) -> Converted:
    """The case's networks; a pickle tells its own clamps and groups, plain weights borrow the config's."""
    if case.kind in PICKLES:
        return FAMILY.convert(foreign(case, files(case)[0]))
    here = files(case)
    if here:
        found = foreign(case, WEIGHTS if WEIGHTS in here else here[0])
    else:  # those of another case
        other = sibling(case)
        assert other is not None and other.is_file(), f"{case.label} has no weights"
        found = read_foreign(other)
    converted = FAMILY.convert(found)
    return replace(converted, spec=converted.spec | settings(case))


def parts(case: Case) -> dict[str, dict[str, Tensor]]:
    """The plain weights of several networks in one file, by what stands before the first dot."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in case.tensors(WEIGHTS).items():
        part, _, rest = key.partition(".")
        found.setdefault(part, {})[rest] = value
    return found


def generator(case: Case, state: dict[str, Tensor]) -> nn.Module:
    """G of a part that has no mean latent."""
    state = convert.convert_g(state)
    spec = convert.infer(state, None, {}, {}) | settings(case)
    g = FAMILY.build(spec, discriminator=False).g
    g.load_state_dict(state | {"mapping.w_avg": torch.zeros(spec["w_dim"])})
    return g


def outputs(*kinds: str, only: Callable[[str], bool] = lambda name: True) -> list[Any]:
    """For ``parametrize("case, name", ...)``: every tensor of the cases that is not an input."""
    return each_output(*kinds, is_input=lambda case, name: name.startswith("in.") or not only(name))


def what(case: Case, name: str) -> str:
    """What case.json says about a tensor."""
    return case.info.get("io_tensors", {}).get(name, {}).get("what", "")


def number(digits: str) -> float:
    """07 in a tensor's name is 0.7, 05 is 0.5, 075 is 0.75, 10 is 1."""
    return float(f"{digits[0]}.{digits[1:] or 0}")


def crop(ours: Tensor, reference: Tensor, said: str = "") -> Tensor:
    """The part of ``ours`` that a case stores: by the slice string in ``said``, else its first rows."""
    if ours.shape == reference.shape or ours.ndim != reference.ndim or not ours.ndim:
        return ours
    for text in re.findall(r"\[([-\d:, ]*:[-\d:, ]*)\]", said):
        parts = [slice(*(int(n) if n.strip() else None for n in part.split(":"))) for part in text.split(",")]
        if len(parts) <= ours.ndim and ours[tuple(parts)].shape == reference.shape:
            return ours[tuple(parts)]
    return ours[: len(reference)]


def renamed(
    state: dict[str, Tensor], convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, str]:
    """Reference key -> our key: every tensor is filled with a number and looked for after conversion."""
    keys = list(state)
    marked = convert({key: torch.full_like(state[key], i, dtype=torch.float32) for i, key in enumerate(keys)})
    return {keys[int(value.flatten()[0])]: ours for ours, value in marked.items()}


def sibling(case: Case) -> Path | None:
    """The weights of another case that this case's text refers to, there or not."""
    match = re.search(r"\.\./([\w.-]+)/([\w.-]+\.(?:safetensors|pkl|pth|pt))", case.info.get("weights", ""))
    return case.folder.parent / match[1] / match[2] if match else None
