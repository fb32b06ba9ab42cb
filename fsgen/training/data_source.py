"""What a run feeds its networks: inputs, and the real images that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.data.images import ImageSet, folders_of
from fsgen.features.base_extractor import Extractor
from fsgen.interfaces import Inputs
from fsgen.methods.stack import Stack
from fsgen.models.classes import drawn_class, names_of
from fsgen.models.model import Model
from fsgen.sampling import instances, translation
from fsgen.sampling.latents import Draw, inputs_of, prior
from fsgen.training.real_batches import RealBatches, make_real_batches
from fsgen.training.settings import Settings

SHOWN = 16  # pictures in the grids of a run


@dataclass(frozen=True)
class DataSource:
    """How a run's images reach the training loop, and what its grids show."""

    model: Model  # what the run starts from, with what its pictures are drawn after from now on
    drawing: Callable[[nn.Module], Draw]  # of G: what it is trained on
    real_batches: RealBatches
    shown: Callable[[nn.Module], Inputs]  # of G: what the grids are drawn from
    kept: Callable[[nn.Module], dict[str, Tensor]]  # of the trained G: what the model holds in the end


def make_data_source(
    model: Model, shots: ImageSet, settings: Settings, methods: Stack, device: torch.device,
    callbacks: Callbacks, extractor: Extractor | None = None,
) -> DataSource:  # fmt: skip
    """The images ``shots`` as ``model`` takes them: plain, by class, as instances, or to be translated.

    ``extractor`` sees the features that a model of instances draws after.
    """
    labels = _labels(shots, model)
    given = make_real_batches(shots, device, mirror=settings.mirror, classes=labels)
    if translation.wanted(model):
        return _translated(model, shots, given, labels, settings, methods, device)
    drawing: Callable[[nn.Module], Draw] = partial(prior, model)
    if extractor is not None:
        found = instances.shots_of(
            extractor, shots, settings.neighbours, labels, settings.mirror and not methods.conditions,
            partial(callbacks.progress, "features"),
        )  # fmt: skip
        about = {**model.about, "features": settings.features or model.about["features"]}
        model = replace(model, about=about, extra={"conditions": found.stored(settings.seed)})
        drawing = found.drawing
    return DataSource(
        model, drawing, given, shown=lambda g: inputs_of(model, g, range(SHOWN), device),
        kept=lambda g: model.extra,
    )  # fmt: skip


def _translated(
    model: Model, shots: ImageSet, given: RealBatches, labels: list[int] | None, settings: Settings,
    methods: Stack, device: torch.device,
) -> DataSource:  # fmt: skip
    """Contents and styles from the images; where nothing is trained, the class of the images alone."""
    if methods.conditions:
        model = translation.of_class(model, shots, Path(settings.images).stem)
        some = replace(model, extra={**model.extra, "contents": shots.pixels[:SHOWN]})
        return DataSource(
            model, partial(prior, model), given, shown=lambda g: inputs_of(some, g, range(SHOWN), device),
            kept=lambda g: model.extra,
        )  # fmt: skip
    classes = translation.Classes.of(shots, labels, model)
    return DataSource(
        model, classes.drawing, given,
        shown=lambda g: classes.drawing(g)(SHOWN, random.generator(settings.seed, "shown")),
        kept=lambda g: {"conditions": classes.codes(g)},
    )  # fmt: skip


def check(model: Model, shots: ImageSet, methods: Stack) -> None:
    """Refuse images that ``model`` is to be trained on and cannot learn from."""
    if translation.wanted(model) and not methods.conditions:
        translation.Classes.of(shots, _labels(shots, model), model)


def _labels(shots: ImageSet, model: Model) -> list[int] | None:
    """The class of each image, if sub-folders by the names of the model's classes hold them all."""
    classes = names_of(model) if drawn_class(model) is None else []
    folders = folders_of(shots)
    return [classes.index(name) for name in folders] if classes and set(folders) <= set(classes) else None
