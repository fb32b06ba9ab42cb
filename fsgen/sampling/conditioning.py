"""The condition a model draws from, chosen once from the model: none, classes, instances or translation.

A conditioning knows how inputs are drawn from seeds and in training, which inputs a preview shows, and what
the finished model stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fsgen import registry
from fsgen import rng as random
from fsgen.data.images import ImageSet, folders_of
from fsgen.errors import Code, FsgenError, suggest
from fsgen.features import feature_networks
from fsgen.features.base_extractor import Extractor
from fsgen.interfaces import Draw, Generator, Inputs, Method, Trait
from fsgen.methods.stack import own_part
from fsgen.models.classes import drawn_class, names_of
from fsgen.models.model import Model
from fsgen.sampling import instances, translation

PREVIEW = 16  # images in the grids of a run


@dataclass(frozen=True)
class TrainingInputs:
    """The inputs of a run, those of its grids, and the conditions that the finished model stores."""

    model: Model  # the starting model, with the conditions it draws from
    draw: Callable[[Generator], Draw]  # G -> inputs for training
    preview: Callable[[Generator], Inputs]  # G -> the inputs of the grids
    stored: Callable[[Generator], dict[str, Tensor]]  # the trained G -> ``Model.extra``


@dataclass(frozen=True)
class TrainingRequest:
    """The parts of a run that conditionings look at."""

    seed: int
    device: torch.device
    mirror: bool = False  # images are also shown flipped
    neighbours: int | None = None  # of each instance; None: as published
    features: str = ""  # name of the instance features; empty: the model's own
    extractor: Extractor | None = None  # computes them
    progress: Callable[[int, int], None] = lambda done, total: None


class Conditioning:
    """No condition: G draws from its prior alone."""

    draws_alone: ClassVar[bool] = True  # a seed is enough for an image

    def __init__(self, model: Model) -> None:
        self.model = model
        self.title = model.about.get("title", "this model")

    # ---- sampling ------------------------------------------------------------------------------------

    def prior(self, g: Generator, label: int | None = None) -> Draw:
        """Inputs as images of the finished model are drawn from; ``label``: the class of all of them."""
        return lambda n, rng: prepared(self.model, self._draw(g, n, rng, label))

    def extractor(self, name: str, device: torch.device | str, weights_dir: Path | None) -> Extractor | None:
        """The network of the instance features, ``name`` or the model's own; None where there are none.

        Raises:
            FsgenError: neither says which; its weights are absent; it gives another number of features.
        """
        return None

    def _draw(self, g: Generator, n: int, rng: torch.Generator, label: int | None) -> Inputs:
        return g.draw(n, rng)

    def inputs(
        self, g: Generator, seeds: Sequence[int], device: torch.device | str, label: int | None = None
    ) -> Inputs:
        """The inputs of ``seeds``, each drawn on the CPU by a generator of its own: a seed names one image,
        whatever the batch and the device."""
        draw = self.prior(g, label)
        parts = [draw(1, random.generator(seed, "picture")).parts() for seed in seeds]
        return Inputs(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}).to(device)

    @torch.no_grad()
    def draw_images(self, g: Generator, n: int, purpose: str) -> Tensor:
        """Draw n images [n, C, H, W] with the generator ``g``, on the CPU; ``purpose`` names the latents."""
        device = next(g.parameters()).device
        rng, draw = random.generator(0, purpose), self.prior(g)
        counts = (min(32, n - i) for i in range(0, n, 32))
        return torch.cat([g(draw(count, rng).to(device)).cpu() for count in counts])

    def check_label(self, label: str | int | None) -> int | None:
        """The number of a class given by number or name.

        Raises:
            FsgenError: there is no such class.
        """
        if label is None:
            return None
        raise FsgenError(
            "this model has no classes", code=Code.INCOMPATIBLE, where="--class", hint="leave --class out"
        )

    # ---- training ------------------------------------------------------------------------------------

    def labels(self, shots: ImageSet) -> list[int] | None:
        """The class of each image, if sub-folders with the names of the model's classes hold them all."""
        return None

    def check_images(self, shots: ImageSet) -> None:
        """Refuse images that the model cannot be trained on."""

    def training_inputs(self, shots: ImageSet, request: TrainingRequest) -> TrainingInputs:
        """Inputs for training on ``shots``."""
        return TrainingInputs(
            self.model, self.prior, lambda g: self.inputs(g, range(PREVIEW), request.device),
            lambda g: self.model.extra,
        )  # fmt: skip

    def conditioned_on(self, shots: ImageSet, name: str, request: TrainingRequest) -> TrainingInputs:
        """Take ``shots``, called ``name``, as the new condition, without training.

        Raises:
            FsgenError: the model has no such condition.
        """
        raise FsgenError(
            f"{self.title} is conditioned neither on images nor on their features",
            code=Code.INCOMPATIBLE, where=self.title, hint="use a method that trains it",
        )  # fmt: skip


class ClassConditioning(Conditioning):
    """Labels: the model's own class where it stands for one, else any."""

    def _draw(self, g: Generator, n: int, rng: torch.Generator, label: int | None) -> Inputs:
        inputs = super()._draw(g, n, rng, label)
        label = drawn_class(self.model) if label is None else label
        if label is None or inputs.y is None:
            return inputs
        number = torch.tensor([label], device=inputs.y.device)
        return replace(inputs, y=torch.zeros_like(inputs.y).index_fill(1, number, 1.0))

    def check_label(self, label: str | int | None) -> int | None:
        if label is None:
            return None
        names, n = names_of(self.model), self.model.spec.get("c_dim", 0)
        if not n:
            return super().check_label(label)
        if str(label) in names:
            return names.index(str(label))
        if str(label).isdecimal() and int(label) < n:
            return int(label)
        raise FsgenError(
            f"there is no class '{label}' in this model", code=Code.UNKNOWN_NAME, where="--class",
            hint=suggest(str(label), names) if self.model.about.get("classes") else f"0 to {n - 1}",
        )  # fmt: skip

    def labels(self, shots: ImageSet) -> list[int] | None:
        classes = names_of(self.model) if drawn_class(self.model) is None else []
        folders = folders_of(shots)
        if not classes or not set(folders) <= set(classes):
            return None
        return [classes.index(str(name)) for name in folders]


class InstanceConditioning(ClassConditioning):
    """The features of an image and, where the model has classes, labels as well."""

    def _draw(self, g: Generator, n: int, rng: torch.Generator, label: int | None) -> Inputs:
        conditions = self.model.extra.get("conditions")
        if conditions is None:
            raise FsgenError(
                f"{self.title} draws from the features of an image, and holds none",
                code=Code.INCOMPATIBLE, where=self.title,
                hint="fsgen adapt IMAGES --source MODEL --method instances",
            )  # fmt: skip
        inputs = super()._draw(g, n, rng, label)
        rows = torch.randint(len(conditions), (n,), generator=rng, device=rng.device)
        return replace(inputs, h=conditions.to(rng.device)[rows])

    def training_inputs(self, shots: ImageSet, request: TrainingRequest) -> TrainingInputs:
        assert request.extractor is not None
        features = instances.features_of(request.extractor, shots.pixels, request.progress)
        flipped = None
        if request.mirror:
            flipped = instances.features_of(request.extractor, shots.pixels.flip(3), request.progress)
        k = instances.neighbours_for(len(shots), request.neighbours) if len(shots) > 1 else 1
        found = instances.InstanceSet.of(features, k, self.labels(shots), flipped)
        after = InstanceConditioning(self._storing(found.stored(request.seed), request))
        return TrainingInputs(
            after.model, found.drawing, lambda g: after.inputs(g, range(PREVIEW), request.device),
            lambda g: after.model.extra,
        )  # fmt: skip

    def conditioned_on(self, shots: ImageSet, name: str, request: TrainingRequest) -> TrainingInputs:
        return self.training_inputs(shots, replace(request, mirror=False))

    def extractor(self, name: str, device: torch.device | str, weights_dir: Path | None) -> Extractor | None:
        name = name or self.model.about.get("features", "")
        if not name:
            known = ", ".join(feature_networks.INSTANCE_NAMES)
            raise FsgenError(
                f"{self.title} does not say which features it draws from",
                code=Code.INCOMPATIBLE, where="--features", hint=f"--features: {known}",
            )  # fmt: skip
        extractor = feature_networks.build_instance_extractor(name, device=device, weights_dir=weights_dir)
        if extractor.dim != self.model.spec["h_dim"]:
            raise FsgenError(
                f"'{name}' gives {extractor.dim} features, and {self.title} draws from "
                f"{self.model.spec['h_dim']}",
                code=Code.INCOMPATIBLE, where="--features", hint="give the features it was trained with",
            )  # fmt: skip
        return extractor

    def _storing(self, conditions: Tensor, request: TrainingRequest) -> Model:
        about = {**self.model.about, "features": request.features or self.model.about["features"]}
        return replace(self.model, about=about, extra={"conditions": conditions})


class TranslationConditioning(ClassConditioning):
    """Contents from images, and a class code: seed s names the content s, counted round and round."""

    draws_alone = False

    def inputs(
        self, g: Generator, seeds: Sequence[int], device: torch.device | str, label: int | None = None
    ) -> Inputs:
        """Contents of ``seeds`` with the code of ``label``, or each with that of a random class."""
        contents, codes = self.model.extra.get("contents"), self.model.extra.get("conditions")
        if contents is None:
            raise FsgenError(
                f"{self.title} translates images, and was given none",
                code=Code.INCOMPATIBLE, where="--content", hint="--content PICTURES",
            )  # fmt: skip
        if codes is None:
            raise FsgenError(
                f"{self.title} redraws images as a class, and holds no class code",
                code=Code.INCOMPATIBLE, where=self.title,
                hint="fsgen adapt IMAGES --source MODEL --method classcode",
            )  # fmt: skip
        if label is None:
            rows = [int(torch.randint(len(codes), [], generator=random.generator(s, "class"))) for s in seeds]
        else:
            rows = [label] * len(seeds)
        shown = contents[[seed % len(contents) for seed in seeds]].float() / 127.5 - 1
        return Inputs(content=shown, h=codes[rows]).to(device)

    def check_images(self, shots: ImageSet) -> None:
        translation.ClassImages.of(shots, self.labels(shots), self.model)

    def training_inputs(self, shots: ImageSet, request: TrainingRequest) -> TrainingInputs:
        classes = translation.ClassImages.of(shots, self.labels(shots), self.model)
        return TrainingInputs(
            self.model, classes.drawing,
            preview=lambda g: classes.drawing(g)(PREVIEW, random.generator(request.seed, "shown")),
            stored=lambda g: {"conditions": classes.codes(g)},
        )  # fmt: skip

    def conditioned_on(self, shots: ImageSet, name: str, request: TrainingRequest) -> TrainingInputs:
        code = translation.code_of(self.model.generator(), shots.floats())
        about = {**self.model.about, "classes": [name]}
        model = replace(self.model, about=about, extra={"conditions": code})
        shown = TranslationConditioning(
            replace(model, extra={**model.extra, "contents": shots.pixels[:PREVIEW]})
        )
        return TrainingInputs(
            model,
            self.prior,
            lambda g: shown.inputs(g, range(PREVIEW), request.device),
            lambda g: model.extra,
        )


def prepared(model: Model, inputs: Inputs) -> Inputs:
    """Change ``inputs`` as the methods that ``model`` was made with do, by the tensors they stored in it."""
    for name in dict.fromkeys(key.split(".")[0] for key in model.extra if "." in key):
        method = registry.method(name)
        assert issubclass(method, Method)
        inputs = method.prepare_inputs(own_part(model.extra, name), inputs)
    return inputs


def conditioning_of(model: Model) -> Conditioning:
    """The conditioning of ``model``."""
    if Trait.TRANSLATION in model.family.traits:
        return TranslationConditioning(model)
    if model.spec.get("h_dim"):
        return InstanceConditioning(model)
    return ClassConditioning(model) if model.spec.get("c_dim") else Conditioning(model)
