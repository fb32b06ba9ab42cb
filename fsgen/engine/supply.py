"""What a run feeds its networks: inputs, and the real images that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from fsgen.data.images import ImageSet
from fsgen.engine import instances
from fsgen.engine.reals import Reals, reals
from fsgen.engine.seeds import Draw, prior
from fsgen.engine.watch import Watch
from fsgen.models.classes import drawn_class
from fsgen.models.model import Model


@dataclass(frozen=True)
class Supply:
    """How a run's images reach the training loop."""

    model: Model  # what the run starts from, with what its pictures are drawn after from now on
    drawing: Callable[[nn.Module], Draw]  # of G: what it is trained on
    reals: Reals


def supply(
    model: Model, shots: ImageSet, *, mirror: bool, features: str, neighbours: int | None, seed: int,
    device: torch.device, watch: Watch,
) -> Supply:  # fmt: skip
    """The images ``shots`` as ``model`` takes them: plain, by class, or as instances.

    Args:
        model: what the run starts from.
        mirror: show each image also flipped left to right.
        features, neighbours: of the instances, where the model draws after any.
    """
    labels = _labels(shots, model.about.get("classes") if drawn_class(model) is None else None)
    drawing: Callable[[nn.Module], Draw] = partial(prior, model)
    if instances.wanted(model):
        shown = instances.shots_of(
            model, shots, features, neighbours, labels, device, partial(watch.progress, "features")
        )
        about = {**model.about, "features": features or model.about["features"]}
        model = replace(model, about=about, extra={"conditions": shown.stored(seed)})
        drawing = shown.drawing
    return Supply(model, drawing, reals(shots, device, mirror=mirror, classes=labels))


def folders_of(shots: ImageSet) -> list[str | None]:
    """The sub-folder each image lies in; None for those in none."""
    return [name.split("/")[0] if "/" in name else None for name in shots.names]


def _labels(shots: ImageSet, classes: list[str] | None) -> list[int] | None:
    """The class of each image, if sub-folders of these names hold them all."""
    folders = folders_of(shots)
    return [classes.index(name) for name in folders] if classes and set(folders) <= set(classes) else None
