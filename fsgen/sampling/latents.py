"""A seed names one picture of a model, whatever the batch and the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from fsgen import registry
from fsgen import rng as random
from fsgen.errors import FsgenError
from fsgen.interfaces import Inputs
from fsgen.models.classes import drawn_class
from fsgen.models.model import Model

Draw = Callable[[int, torch.Generator], Inputs]  # (n, generator) -> n inputs


def prior(model: Model, g: nn.Module, label: int | None = None) -> Draw:
    """What pictures of ``model`` are drawn from: G's own prior, and what the model conditions it on.

    Args:
        model: its class, if it stands for one, and the features it draws with, if it holds some.
        g: a generator of it.
        label: the class of all, in place of the model's own or of those drawn; the latents stay.

    What is drawn raises FsgenError for a model of instances that holds none.
    """
    label = drawn_class(model) if label is None else label
    conditions = model.extra.get("conditions")

    def draw(n: int, rng: torch.Generator) -> Inputs:
        if conditions is None and model.spec.get("h_dim"):
            raise FsgenError(
                f"{model.about.get('title', 'this model')} draws after an image, and holds none",
                hint="fsgen adapt IMAGES --source MODEL --method instances",
            )
        inputs = g.draw(n, rng)
        if label is not None:
            number = torch.tensor([label], device=inputs.y.device)
            inputs = replace(inputs, y=torch.zeros_like(inputs.y).index_fill(1, number, 1.0))
        if conditions is not None:
            rows = torch.randint(len(conditions), (n,), generator=rng, device=rng.device)
            inputs = replace(inputs, h=conditions.to(rng.device)[rows])
        return stored(model, inputs)

    return draw


def stored(model: Model, inputs: Inputs) -> Inputs:
    """``inputs`` as the methods that ``model`` was made with want them, by what they stored in it."""
    for name in dict.fromkeys(key.split(".")[0] for key in model.extra if "." in key):
        mine = {key.removeprefix(f"{name}."): value for key, value in model.extra.items()
                if key.startswith(f"{name}.")}  # fmt: skip
        inputs = registry.method(name).feed(mine, inputs)
    return inputs


def inputs_of(
    model: Model, g: nn.Module, seeds: Sequence[int], device: torch.device | str, label: int | None = None
) -> Inputs:
    """Generator inputs of ``seeds``, each drawn on the CPU from a generator of its own: see ``prior``.

    A model that translates has no prior: seed s names the content s, counted round and round.
    """
    if "translation" in model.family.traits:
        return _translated(model, seeds, label).to(device)
    draw = prior(model, g, label)
    parts = [draw(1, random.generator(seed, "picture")).parts() for seed in seeds]
    return Inputs(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}).to(device)


def _translated(model: Model, seeds: Sequence[int], label: int | None) -> Inputs:
    """Contents of ``seeds`` as the class ``label``, or each as one of those that the model has codes of."""
    title = model.about.get("title", "this model")
    contents, codes = model.extra.get("contents"), model.extra.get("conditions")
    if contents is None:
        raise FsgenError(f"{title} translates pictures, and was given none", hint="--content PICTURES")
    if codes is None:
        raise FsgenError(
            f"{title} draws as the class of some images, and was given none",
            hint="fsgen adapt IMAGES --source MODEL --method classcode",
        )
    if label is None:
        rows = [int(torch.randint(len(codes), [], generator=random.generator(s, "class"))) for s in seeds]
    else:
        rows = [label] * len(seeds)
    shown = contents[[seed % len(contents) for seed in seeds]].float() / 127.5 - 1
    return Inputs(content=shown, h=codes[rows])


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
