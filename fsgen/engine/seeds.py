"""A seed names one picture of a model, whatever the batch and the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from fsgen import rng as random
from fsgen.errors import FsgenError
from fsgen.types import Inputs

Draw = Callable[[int, torch.Generator], Inputs]  # (n, generator) -> n inputs


def inputs_of(
    g: nn.Module, seeds: Sequence[int], device: torch.device | str, label: int | None = None
) -> Inputs:
    """Generator inputs of ``seeds``, each drawn on the CPU from a generator of its own.

    ``label``: the class of all of them, in place of those drawn; the latents stay.
    """
    drawn = [g.draw(1, random.generator(seed, "picture")) for seed in seeds]
    z = torch.cat([part.z for part in drawn])
    y = None if drawn[0].y is None else torch.cat([part.y for part in drawn])
    return _of_class(Inputs(z=z, y=y), label).to(device)


def drawing(g: nn.Module, label: int | None) -> Draw:
    """G's prior, with the class ``label`` for all if there is one."""
    return lambda n, rng: _of_class(g.draw(n, rng), label)


def _of_class(inputs: Inputs, label: int | None) -> Inputs:
    if label is None:
        return inputs
    number = torch.tensor([label], device=inputs.y.device)
    return replace(inputs, y=torch.zeros_like(inputs.y).index_fill(1, number, 1.0))


def parse(text: str) -> list[int]:
    """``"0-3,8"`` -> [0, 1, 2, 3, 8].

    Raises:
        FsgenError: not a list of whole numbers and ranges.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise FsgenError(f"'{text}' is not a list of seeds", hint="as in --seeds 0-63 or --seeds 1,5,9")
        if dash and int(last) < int(first):
            raise FsgenError(f"the range {part.strip()} runs backwards", hint=f"write {last}-{first}")
        seeds += range(int(first), int(last or first) + 1)
    return seeds
