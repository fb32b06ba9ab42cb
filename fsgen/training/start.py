"""The start of a run: its source, its starting model, its recipe and images, and the checks before step 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsgen import config as configs
from fsgen.callbacks import Callbacks
from fsgen.config import PlainDict
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Technique
from fsgen.io.run_folder import RunFolder
from fsgen.methods.stack import Stack, plain_options
from fsgen.models import model as models
from fsgen.models.classes import with_class
from fsgen.models.model import Model
from fsgen.training.run_options import RunConfig


def source_of_run(config: RunConfig) -> Model:
    """The source of a run, or the untrained model it starts from."""
    if config.fresh is None:
        return models.load_model(config.source)
    shape: PlainDict = {"width": None} | config.fresh  # a TOML file has no None
    return models.fresh(**shape, features=config.features, seed=config.seed)


def starting_model(source: Model, new_class: str, technique: Stack | Technique[Any]) -> Model:
    """The model an adaptation starts from: ``source``, with one class more if asked for.

    Raises:
        FsgenError: there can be no new class, the methods would train nothing, or undo their own work.
    """
    title = source.about.get("title", "this source")
    for name in technique.name.split(","):
        if any(key.startswith(f"{name}.") for key in source.extra):
            raise FsgenError(
                f"{title} stores tensors of {name}, and a second run of it would lose them",
                code=Code.INCOMPATIBLE, where=name, hint="start from its source, or use another method",
            )  # fmt: skip
    model = with_class(source, new_class) if new_class else source
    model = dataclasses.replace(model, from_average=technique.starts == "g_ema")
    if isinstance(technique, Stack) and not _trains_anything(technique, model):
        raise FsgenError(
            f"{technique.name} would train nothing of {title}",
            code=Code.INCOMPATIBLE, where=technique.name, hint="embedding takes a source with classes",
        )  # fmt: skip
    return model


def _trains_anything(methods: Stack, model: Model) -> bool:
    """Tell whether G has a trained parameter, of the source or added by a method."""
    if any(method.adds_parameters for method in methods.methods):
        return True
    return any(methods.trains_parameter(model.family, model.spec, "g", name)
               for name in model.networks[model.start])  # fmt: skip


def resolve_recipe(model: Model, changes: Mapping[str, Any]) -> Any:
    """The family's recipe with ``changes``.

    Raises:
        FsgenError: an unknown field, a value out of range.
    """
    published = model.family.recipe(model.spec)
    known = {key: value for key, value in changes.items() if value is not None}
    values = dataclasses.asdict(published) | known
    recipe = configs.options(type(published), values, where=f"the recipe of {model.family.name}")
    for name, value, fits in (("batch", recipe.batch, recipe.batch >= 1), ("lr", recipe.lr, recipe.lr > 0)):
        if not (fits and value < math.inf):
            raise FsgenError(
                "--batch is at least 1 and --lr is above 0", code=Code.OUT_OF_RANGE, where=f"--{name}"
            )
    return recipe


def read_shots(model: Model, images: str | Path, fit: Any, callbacks: Callbacks) -> ImageSet:
    """The images of a run at the model's resolution and channels."""
    spec = model.spec
    return load_images(images, spec["resolution"], fit=fit, channels=spec["channels"], say=callbacks.say)


def full_config(config: RunConfig, recipe: Any, technique: Stack | Technique[Any]) -> PlainDict:
    """config.toml as plain values: run, recipe, method."""
    if isinstance(technique, Stack):
        options = technique.options()
    else:
        options = {technique.name: plain_options(technique)}
    return {"run": dataclasses.asdict(config), "recipe": dataclasses.asdict(recipe), "method": options}


def absolute(source: str | Path) -> str:
    """A path that survives a change of the working directory; a name stays a name."""
    is_path = models.find(str(source)).is_relative_to(source)
    return str(Path(source).resolve()) if is_path else str(source)


def check_outside(out: Path, *inputs: str | Path) -> None:
    """Refuse a run folder that holds what the run is made from: an earlier run in it is removed."""
    for path in inputs:
        if Path(path).resolve().is_relative_to(out.resolve()):
            raise FsgenError(
                f"{path} lies inside the run folder {out}",
                code=Code.INCOMPATIBLE, where="--out", hint="choose another --out",
            )  # fmt: skip


def check_resumable(run: RunFolder, steps: int | None) -> None:
    """Refuse to resume a run without a state, or to fewer steps than it has done."""
    done = run.step
    if done is None and run.model.exists() and run.config()["run"].get("steps"):  # without steps: no state
        raise FsgenError(
            f"the run in {run.path} is done and its state/ is gone, so it cannot be resumed",
            code=Code.NOT_FOUND, where=run.path,
        )  # fmt: skip
    if steps is not None and steps < max(1, done or 0):
        raise FsgenError(
            f"the run in {run.path} has done {done or 0} steps, more than --steps {steps}",
            code=Code.OUT_OF_RANGE, where="--steps",
        )  # fmt: skip
