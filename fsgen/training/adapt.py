"""``fsgen adapt``: pull a source generator to the domain of a few images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsgen import config as configs
from fsgen import device as devices
from fsgen.callbacks import Callbacks
from fsgen.errors import FsgenError
from fsgen.features import weight_files
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import Run
from fsgen.methods.stack import Stack
from fsgen.models import model as models
from fsgen.sampling import instances
from fsgen.training import early_stopping, style_transfer
from fsgen.training.data_source import check
from fsgen.training.method_context import vgg16
from fsgen.training.settings import STEPS, Settings
from fsgen.training.trainer import (
    Job,
    can_go_on,
    check_times,
    config_of,
    go,
    keep_apart,
    lasting,
    read_shots,
    resolved,
    source_of,
    start_of,
)


def adapt(
    images: str | Path,
    *,
    out: str | Path,
    source: str | Path = "peeps64",
    new_class: str = "",
    features: str = "",
    weights_dir: str | Path | None = None,
    method: str = "ewc",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    fit: str = "crop",
    mirror: bool = False,
    sample_every: int = 100,
    save_every: int = 100,
    stop: str = "steps",
    force: bool = False,
    dry_run: bool = False,
    callbacks: Callbacks | None = None,
) -> Path | dict[str, Any]:
    """Adapt ``source`` to ``images`` and leave everything in the run folder ``out``.

    Args:
        images: a folder (recursive), a zip, or one image; 1 to thousands.
        out: the run folder; must be new or empty, or hold a run to be replaced with ``force``.
        source: a run folder, a native file, or a name.
        new_class: the images are a class of this name that the conditional source does not have yet.
        features: of the images, for a source that draws after those of an image and does not say which.
        weights_dir: a folder to look into first for the weights of networks that look at images.
        method: one method or several joined by commas, as in ``"ewc,diffaugment"``.
        options: by method, what differs from its defaults: ``{"ewc": {"lambda": 500}}``.
        recipe: what differs from the family's training recipe: ``{"batch": 8, "lr": 0.001}``.
        steps: generator steps.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        fit: how a picture becomes square: ``crop`` or ``pad`` (white).
        mirror: also show flipped images, and draw after them; only for domains without a left and right.
        sample_every, save_every: steps between grids and between saved states.
        stop: ``steps``, or ``auto``: also when samples have come near enough to the images, told by these and
            the source alone; what such a run keeps is an average over more steps.
        force: replace a run that is in ``out``.
        dry_run: check everything, change nothing, return the resolved configuration.
        watch: callbacks.

    Returns:
        The run folder; the resolved configuration as plain values with ``dry_run``.

    Raises:
        FsgenError: refused input (code 2), a failure such as a full disk (1).
        Interrupted: ``watch.stop`` returned True; the state is saved.
    """
    callbacks = callbacks or Callbacks()
    check_times(steps, sample_every, save_every, fit, stop)
    found = models.load(source)
    methods = Stack.parse(method, {name: dict(values) for name, values in (options or {}).items()})
    methods.check(found.family)
    if mirror and not methods.adversarial:
        raise FsgenError(f"{methods.name} rebuilds each image as it is", hint="leave --mirror out")
    model = start_of(found, new_class, methods)
    target = devices.pick(device)
    where = weight_files.user_dir(weights_dir)
    if methods.redraws:
        vgg16(where)  # better refused now than after the images are read
    extractor = instances.extractor_of(model, features, target, where)  # refused before the images are read
    run = Run.plan(Path(out), force=force)
    keep_apart(run.path, images, models.find(str(source)))
    shots = read_shots(model, images, fit, callbacks)
    check(model, shots, methods)
    if stop == "auto":
        early_stopping.check(model, methods, shots)
    given = {key: value for key, value in (recipe or {}).items() if value is not None}
    usual = methods.recipe(found.family, model.spec, len(shots)) | (
        early_stopping.RECIPE if stop == "auto" else {}
    )
    trained = resolved(model, usual | given)
    settings = Settings(
        images=str(Path(images).resolve()), images_digest=shots.digest, source=lasting(source),
        source_hash=found.hash, new_class=new_class, features=features, weights_dir=str(where or ""),
        method=methods.name, steps=0 if methods.conditions else steps, seed=seed, device=str(target), fit=fit,
        mirror=mirror, sample_every=sample_every, save_every=save_every, stop=stop,
    )  # fmt: skip
    config = config_of(settings, trained, methods)
    if dry_run:
        return config
    make_folder(run.path)  # better refused now than after the preparations
    return _go(Job(settings, found, model, shots, methods, trained, run, callbacks, extractor))


def resume(run: str | Path, *, steps: int | None = None, callbacks: Callbacks | None = None) -> Path:
    """Go on with a run that was interrupted or killed, exactly as if it had not been.

    Args:
        run: its folder.
        steps: go on to this many steps in all, instead of those first asked for.

    Raises:
        FsgenError: no run there, its images or its source have changed, or it is beyond ``steps`` already.
    """
    callbacks = callbacks or Callbacks()
    folder = Run.open(Path(run))
    config = folder.config()
    settings = configs.options(Settings, config.get("run", {}), where=f"[run] in {folder.path}/config.toml")
    can_go_on(folder, steps)
    if steps is not None:
        settings = dataclasses.replace(settings, steps=steps)
    if settings.weights_dir and not Path(settings.weights_dir).is_dir():
        raise FsgenError(
            f"the folder {settings.weights_dir}, which this run has its weight files from, is gone",
            hint="restore it, or start a new run",
        )
    source = source_of(settings)
    if settings.fresh is None and source.hash != settings.source_hash:
        raise FsgenError(
            f"the source {settings.source} is not the one this run was begun with",
            hint="restore it, or start a new run",
        )
    shots = read_shots(source, settings.images, settings.fit, callbacks)
    if shots.digest != settings.images_digest:
        raise FsgenError(
            f"the images in {settings.images} are not those this run was begun with",
            hint="restore them, or start a new run",
        )
    methods = Stack.parse(settings.method, config.get("method", {})) if settings.method else Stack()
    if methods.conditions and steps:
        raise FsgenError(f"{methods.name} trains nothing, so there are no steps to go on with")
    model = start_of(source, settings.new_class, methods)
    recipe = resolved(model, config.get("recipe", {}))
    extractor = instances.extractor_of(
        model, settings.features, devices.pick(settings.device), weight_files.user_dir(settings.weights_dir)
    )
    if steps is not None:
        folder.write_config(config_of(settings, recipe, methods))
    return _go(
        Job(settings, source, model, shots, methods, recipe, folder, callbacks, extractor, resumed=True)
    )


def _go(job: Job) -> Path:
    return style_transfer.go(job) if job.methods.redraws else go(job)
