"""Seeds and latents: lists of seeds as text, and interpolation between latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Inputs

if TYPE_CHECKING:
    from fsgen.sampling.sampler import Loaded


def parse_seeds(text: str) -> list[int]:
    """``"0-3,8"`` -> [0, 1, 2, 3, 8].

    Raises:
        FsgenError: not a list of whole numbers and ranges.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise FsgenError(
                f"'{text}' is not a list of seeds",
                code=Code.OUT_OF_RANGE, where="--seeds", hint="as in --seeds 0-63 or --seeds 1,5,9",
            )  # fmt: skip
        if dash and int(last) < int(first):
            raise FsgenError(
                f"the range {part.strip()} runs backwards",
                code=Code.OUT_OF_RANGE, where="--seeds", hint=f"write {last}-{first}",
            )  # fmt: skip
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def walk(loaded: Loaded, seeds: Sequence[int], frames: int, label: int | None = None) -> Iterator[Inputs]:
    """Interpolate inputs from seed to seed and back to the first, ``frames`` for each pair.

    Spherical (Shoemake 1985) for normal latents, which have nearly one length; linear for uniform ones.
    """
    if len(seeds) < 2:
        raise FsgenError(
            "an interpolation needs at least 2 seeds", code=Code.TOO_FEW, where="--seeds", hint="--seeds 0-3"
        )
    stops = loaded.conditioning.inputs(loaded.g, list(seeds), loaded.device, label)
    between_z = torch.lerp if getattr(loaded.g, "uniform", False) else _slerp
    for i in range(len(seeds)):
        a, b = stops[i : i + 1], stops[(i + 1) % len(seeds) :][:1]
        for k in range(frames):
            t = k / frames
            ends = a.parts(), b.parts()
            between = {name: torch.lerp(ends[0][name], ends[1][name], t) for name in ends[0] if name != "z"}
            assert a.z is not None and b.z is not None
            yield Inputs(z=between_z(a.z, b.z, t), **between)


def _slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = torch.acos((a * b).sum() / (a.norm() * b.norm())).clamp(1e-4, torch.pi - 1e-4)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
