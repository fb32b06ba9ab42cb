"""``fsgen train``: train a source from scratch, through the same loop as everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsgen import device as devices
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.config import PlainDict
from fsgen.data.files import find_images
from fsgen.data.images import ImageSet, folders_of
from fsgen.errors import Code, FsgenError
from fsgen.features import feature_networks, weight_files
from fsgen.interfaces import Family
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import RunFolder
from fsgen.methods.stack import Stack
from fsgen.sampling.instances import neighbours_for
from fsgen.training import trainer
from fsgen.training.adapt import technique_of
from fsgen.training.job import TrainingJob
from fsgen.training.run_options import RunConfig, TrainOptions, takes
from fsgen.training.start import check_outside, full_config, read_shots, resolve_recipe, source_of_run


@takes(TrainOptions)
def train(
    images: str | Path,
    *,
    out: str | Path,
    architecture: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    force: bool = False,
    dry_run: bool = False,
    callbacks: Callbacks | None = None,
    **values: Any,
) -> Path | PlainDict:
    """Train a generator of ``images`` from scratch and write everything to the run folder ``out``.

    Args:
        images: a folder (recursive) or a zip; with ``classes`` its sub-folders are the classes.
        out: the run folder; new or empty, or a run to be replaced with ``force``.
        architecture: fields of the family's spec that differ from the published ones: ``{"sle": False}``.
        options: by method, options that differ from its defaults.
        recipe: fields of the family's training recipe to change: ``{"batch": 8, "lr": 0.001}``.
        force: replace a run in ``out``.
        dry_run: check everything, change nothing, return the resolved configuration.
        callbacks: messages, progress, interruption.
        OPTIONS

    Returns:
        The run folder, a source for ``adapt``; with ``dry_run`` the resolved configuration.

    Raises:
        FsgenError: refused input (exit code 2), or a failure such as a full disk (1).
        Interrupted: ``callbacks.stop`` returned True; the state is saved.
    """
    callbacks = callbacks or Callbacks()
    asked: TrainOptions = TrainOptions.of(values)
    family = registry.family(asked.family)
    methods = _methods(family, asked.method, options or {})
    folder, device = RunFolder.plan(Path(out), force=force), devices.pick(asked.device)
    check_outside(folder.path, images)
    names = _class_names(images) if asked.classes else []
    weights_dir = weight_files.user_dir(asked.weights_dir)
    extractor = None
    if asked.features:
        extractor = feature_networks.build_instance_extractor(
            asked.features, device=device, weights_dir=weights_dir
        )
    config = RunConfig.of(
        asked, images=str(Path(images).resolve()), source="", method=methods.name,
        fresh={"family": asked.family, "size": asked.size, "channels": 1 if asked.grey else 3,
               "classes": names, "width": asked.width, "h_dim": extractor.dim if extractor else 0,
               "architecture": dict(architecture or {})},
        weights_dir=str(weights_dir or ""), device=str(device),
        mirror=family.mirrors if asked.mirror is None else asked.mirror,
    )  # fmt: skip
    model = source_of_run(config)
    trained = resolve_recipe(model, asked.recipe | dict(recipe or {}))
    shots = read_shots(model, images, asked.fit, callbacks)
    _check_classes(shots, names)
    if asked.features:
        neighbours_for(len(shots), asked.neighbours)
    config = RunConfig.of(config, images_digest=shots.digest, source_hash=model.hash)
    if dry_run:
        return full_config(config, trained, methods)
    make_folder(folder.path)
    return trainer.run(
        TrainingJob(config, model, model, shots, methods, trained, folder, callbacks, extractor)
    )


def _methods(family: type[Family], names: str | None, options: Mapping[str, Mapping[str, Any]]) -> Stack:
    """The requested methods or, if there are none, those of the family's published training."""
    if names is None and not options:
        names, options = ",".join(family.training_methods), family.training_methods
    if names == "none" or not (names or options):
        return Stack()
    methods = technique_of(names or "", options)
    if not isinstance(methods, Stack):
        raise FsgenError(
            f"{methods.name} needs a source to start from",
            code=Code.INCOMPATIBLE, where=methods.name, hint="fsgen adapt --source NAME",
        )  # fmt: skip
    methods.check(family(), scratch=True)
    return methods


def _class_names(images: str | Path) -> list[str]:
    """Names of the sub-folders, sorted.

    Raises:
        FsgenError: images outside of them, fewer than two, or one without images.
    """
    items = find_images(images)
    outside = [item.name for item in items if "/" not in item.name]
    names = sorted({item.name.split("/")[0] for item in items} - set(outside))
    if outside or len(names) < 2:
        why = f"{outside[0]} is in none" if outside else f"{images} has only {names[0]}"
        raise FsgenError(
            f"--classes takes sub-folders as classes, and {why}",
            code=Code.INCOMPATIBLE, where=images, hint="two sub-folders or more, one a class",
        )  # fmt: skip
    if Path(images).is_dir():
        folders = (path.name for path in Path(images).iterdir() if path.is_dir())
        if empty := sorted(name for name in folders if name not in names and not name.startswith(".")):
            raise FsgenError(
                f"the class folder {Path(images) / empty[0]} has no images",
                code=Code.TOO_FEW, where=Path(images) / empty[0],
            )  # fmt: skip
    return names


def _check_classes(shots: ImageSet, names: list[str]) -> None:
    there = set(folders_of(shots))
    if names and (empty := [name for name in names if name not in there]):
        raise FsgenError(f"no image of the class '{empty[0]}' can be read", code=Code.TOO_FEW, where=empty[0])
