"""``fsgen adapt``: adapt a source generator to a few images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsgen import config as configs
from fsgen import device as devices
from fsgen.callbacks import Callbacks
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.features import weight_files
from fsgen.interfaces import Method, Technique, TrainingFree
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import RunFolder
from fsgen.methods.stack import Stack, check_fits, parse_methods
from fsgen.models import model as models
from fsgen.sampling.conditioning import conditioning_of
from fsgen.training import early_stopping, trainer, training_free_run
from fsgen.training.job import TrainingJob
from fsgen.training.method_context import vgg16
from fsgen.training.run_options import AdaptOptions, RunConfig, takes
from fsgen.training.start import (
    absolute,
    check_outside,
    check_resumable,
    full_config,
    read_shots,
    resolve_recipe,
    source_of_run,
    starting_model,
)
from fsgen.training_free.style_transfer import StyleTransfer


@takes(AdaptOptions)
def adapt(
    images: str | Path,
    *,
    out: str | Path,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    force: bool = False,
    dry_run: bool = False,
    callbacks: Callbacks | None = None,
    **values: Any,
) -> Path | PlainDict:
    """Adapt a source generator to ``images`` and write everything to the run folder ``out``.

    Args:
        images: a folder (recursive), a zip, or one image; 1 to thousands.
        out: the run folder; new or empty, or a run to be replaced with ``force``.
        options: by method, options that differ from its defaults: ``{"ewc": {"lambda": 500}}``.
        recipe: fields of the family's training recipe to change: ``{"batch": 8, "lr": 0.001}``.
        force: replace a run in ``out``.
        dry_run: check everything, change nothing, return the resolved configuration.
        callbacks: messages, progress, interruption.
        OPTIONS

    Returns:
        The run folder; with ``dry_run`` the resolved configuration as plain values.

    Raises:
        FsgenError: refused input (exit code 2), or a failure such as a full disk (1).
        Interrupted: ``callbacks.stop`` returned True; the state is saved.
    """
    callbacks = callbacks or Callbacks()
    asked: AdaptOptions = AdaptOptions.of(values)
    found = models.load_model(asked.source)
    technique = technique_of(asked.method or "", options or {})
    _check(technique, found)
    if asked.mirror and isinstance(technique, Stack) and not technique.adversarial:
        raise FsgenError(
            f"{technique.name} rebuilds each image as it is",
            code=Code.INCOMPATIBLE, where="--mirror", hint="leave --mirror out",
        )  # fmt: skip
    model = starting_model(found, asked.new_class, technique)
    device = devices.pick(asked.device)
    weights_dir = weight_files.user_dir(asked.weights_dir)
    if isinstance(technique, StyleTransfer):
        vgg16(weights_dir)  # better refused now than after the images are read
    extractor = conditioning_of(model).extractor(asked.features, device, weights_dir)
    folder = RunFolder.plan(Path(out), force=force)
    check_outside(folder.path, images, models.find(asked.source))
    shots = read_shots(model, images, asked.fit, callbacks)
    changes = asked.recipe | {key: value for key, value in (recipe or {}).items() if value is not None}
    if isinstance(technique, Stack):
        conditioning_of(model).check_images(shots)
        usual = technique.recipe(found.family, model.spec, len(shots))
        if asked.stop == "auto":
            early_stopping.check_supported(model, shots)
            usual |= early_stopping.RECIPE
        changes = usual | changes
    elif asked.stop == "auto":
        raise FsgenError(
            f"{technique.name} trains nothing, so there is nothing to stop",
            code=Code.INCOMPATIBLE, where="--stop", hint="leave --stop out",
        )  # fmt: skip
    trained = resolve_recipe(model, changes)
    config = RunConfig.of(
        asked, images=str(Path(images).resolve()), images_digest=shots.digest, source=absolute(asked.source),
        source_hash=found.hash, weights_dir=str(weights_dir or ""), method=technique.name,
        steps=asked.steps if isinstance(technique, Stack) else 0, device=str(device),
        mirror=bool(asked.mirror),
    )  # fmt: skip
    if dry_run:
        return full_config(config, trained, technique)
    make_folder(folder.path)  # better refused now than after the preparations
    methods = technique if isinstance(technique, Stack) else Stack()
    job = TrainingJob(config, found, model, shots, methods, trained, folder, callbacks, extractor)
    return _run(technique, job)


def resume(run: str | Path, *, steps: int | None = None, callbacks: Callbacks | None = None) -> Path:
    """Resume an interrupted or killed run, of ``adapt`` or ``train``, as if it had not been interrupted.

    Args:
        run: its folder.
        steps: total number of steps, instead of the configured one.
        callbacks: messages, progress, interruption.

    Raises:
        FsgenError: no run there, its images or its source have changed, or it is beyond ``steps`` already.
    """
    callbacks = callbacks or Callbacks()
    folder = RunFolder.open(Path(run))
    stored = folder.config()
    config = configs.options(
        RunConfig, stored.get("run", {}), where=f"[run] in {folder.path / 'config.toml'}"
    )
    check_resumable(folder, steps)
    config = dataclasses.replace(config, steps=config.steps if steps is None else steps)
    if config.weights_dir and not Path(config.weights_dir).is_dir():
        raise FsgenError(
            f"the folder {config.weights_dir}, from which this run has its weight files, is gone",
            code=Code.NOT_FOUND, where=config.weights_dir, hint="restore it, or start a new run",
        )  # fmt: skip
    source = source_of_run(config)
    # An untrained model is replaced by the saved state; its hash may depend on the number of threads.
    if config.fresh is None and source.hash != config.source_hash:
        raise FsgenError(
            f"the source {config.source} is not the one this run was begun with",
            code=Code.CHANGED, where=config.source, hint="restore it, or start a new run",
        )  # fmt: skip
    shots = read_shots(source, config.images, config.fit, callbacks)
    if shots.digest != config.images_digest:
        raise FsgenError(
            f"the images in {config.images} are not those this run was begun with",
            code=Code.CHANGED, where=config.images, hint="restore them, or start a new run",
        )  # fmt: skip
    technique: Stack | TrainingFree = Stack()
    if config.method:
        technique = technique_of(config.method, stored.get("method", {}))
    if steps and not isinstance(technique, Stack):
        raise FsgenError(
            f"{technique.name} trains nothing, so it has no steps", code=Code.INCOMPATIBLE, where="--steps"
        )
    model = starting_model(source, config.new_class, technique)
    recipe = resolve_recipe(model, stored.get("recipe", {}))
    device = devices.pick(config.device)
    extractor = conditioning_of(model).extractor(config.features, device, config.weights_path)
    if steps is not None:
        folder.write_config(full_config(config, recipe, technique))
    methods = technique if isinstance(technique, Stack) else Stack()
    job = TrainingJob(
        config, source, model, shots, methods, recipe, folder, callbacks, extractor, resumed=True
    )  # fmt: skip
    return _run(technique, job)


def technique_of(names: str, options: Mapping[str, Mapping[str, Any]]) -> Stack | TrainingFree:
    """The stack of methods, or the one training-free technique, called ``names``."""
    found: list[Technique] = parse_methods(names, options)
    free = [each for each in found if isinstance(each, TrainingFree)]
    if free and len(found) > 1:
        raise FsgenError(
            f"{free[0].name} trains nothing, so it goes with no other method",
            code=Code.INCOMPATIBLE, where="--method",
        )  # fmt: skip
    return free[0] if free else Stack([each for each in found if isinstance(each, Method)])


def _check(technique: Stack | TrainingFree, source: models.Model) -> None:
    if isinstance(technique, Stack):
        technique.check(source.family)
    else:
        check_fits(technique, source.family)


def _run(technique: Stack | TrainingFree, job: TrainingJob) -> Path:
    if isinstance(technique, Stack):
        return trainer.run(job)
    return training_free_run.run(job, technique)
