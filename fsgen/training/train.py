"""``fsgen train``: a source from scratch, through the same loop as everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsgen import device as devices
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.data.files import find_images
from fsgen.data.images import ImageSet, folders_of
from fsgen.errors import FsgenError
from fsgen.features import feature_networks, weight_files
from fsgen.interfaces import Family
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import Run
from fsgen.methods.stack import Stack
from fsgen.sampling import instances
from fsgen.training.settings import Settings
from fsgen.training.trainer import (
    Job,
    check_times,
    config_of,
    go,
    keep_apart,
    read_shots,
    resolved,
    source_of,
)

STEPS = 10_000


def train(
    images: str | Path,
    *,
    out: str | Path,
    family: str = "stylegan2",
    size: int = 64,
    channels: int = 3,
    classes: bool = False,
    width: int | None = None,
    architecture: Mapping[str, Any] | None = None,
    features: str = "",
    weights_dir: str | Path | None = None,
    neighbours: int | None = None,
    method: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    fit: str = "crop",
    mirror: bool | None = None,
    sample_every: int = 500,
    save_every: int = 500,
    force: bool = False,
    dry_run: bool = False,
    callbacks: Callbacks | None = None,
) -> Path | dict[str, Any]:
    """Train a generator of ``images`` from nothing and leave everything in the run folder ``out``.

    Args:
        images: a folder (recursive) or a zip; with ``classes`` its sub-folders are the classes.
        out: the run folder; must be new or empty, or hold a run to be replaced with ``force``.
        family: its name.
        size: px a side, one of the family's.
        channels: 3, or 1 for grey.
        classes: condition on the sub-folder an image lies in.
        width: channels, in the family's own measure; default: as published.
        architecture: what else differs from the published architecture, as in the family's spec:
            ``{"sle": False}``.
        features: the network whose features of an image it is to draw after (IC-GAN): bundled, swav,
            resnet50, timm:NAME; default: none.
        neighbours: images near an instance that are its reals; default: 50, and 5 below 10,000 images.
        method: what may help without a source, such as ``"diffaugment"``, or ``"none"``; default: what the
            family was published with.
        mirror: show each image also flipped; default: as the family was published.
        options, recipe, steps, seed, device, fit, weights_dir: as for ``adapt``.
        sample_every, save_every, force, dry_run, watch: as for ``adapt``.

    Returns:
        The run folder, a source for ``adapt``; the resolved configuration with ``dry_run``.

    Raises:
        FsgenError: refused input (code 2), a failure such as a full disk (1).
        Interrupted: ``watch.stop`` returned True; the state is saved.
    """
    callbacks = callbacks or Callbacks()
    check_times(steps, sample_every, save_every, fit)
    given = {name: dict(values) for name, values in (options or {}).items()}
    kind = registry.family(family)
    methods = _helps(kind, method, given)
    run, target = Run.plan(Path(out), force=force), devices.pick(device)
    keep_apart(run.path, images)
    names = _classes(images) if classes else []
    where = weight_files.user_dir(weights_dir)
    extractor = None
    if features:
        extractor = feature_networks.build_instance_extractor(features, device=target, weights_dir=where)
    settings = Settings(
        images=str(Path(images).resolve()), source="", method=methods.name, steps=steps, seed=seed,
        fresh={"family": family, "size": size, "channels": channels, "classes": names, "width": width,
               "h_dim": extractor.dim if extractor else 0, "architecture": dict(architecture or {})},
        features=features, weights_dir=str(where or ""), neighbours=neighbours, device=str(target), fit=fit,
        mirror=kind.mirrors if mirror is None else mirror, sample_every=sample_every, save_every=save_every,
    )  # fmt: skip
    model = source_of(settings)
    trained = resolved(model, recipe or {})
    shots = read_shots(model, images, fit, callbacks)
    _check_classes(shots, names)
    if features:
        instances.neighbours_for(len(shots), neighbours)
    settings = settings.seen(shots.digest, model.hash)
    config = config_of(settings, trained, methods)
    if dry_run:
        return config
    make_folder(run.path)
    return go(Job(settings, model, model, shots, methods, trained, run, callbacks, extractor))


def _helps(kind: type[Family], method: str | None, options: dict[str, dict[str, Any]]) -> Stack:
    """The methods asked for or, where none are, those of the published training."""
    if method is None and not options:
        method, options = ",".join(kind.helps), {name: dict(values) for name, values in kind.helps.items()}
    if method == "none" or not (method or options):
        return Stack()
    methods = Stack.parse(method or "", options)
    methods.check(kind(), scratch=True)
    return methods


def _classes(images: str | Path) -> list[str]:
    """Names of the sub-folders, sorted.

    Raises:
        FsgenError: images outside of them, fewer than two, or one without images.
    """
    items = find_images(images)
    loose = [item.name for item in items if "/" not in item.name]
    names = sorted({item.name.split("/")[0] for item in items} - set(loose))
    if loose or len(names) < 2:
        why = f"{loose[0]} lies in none" if loose else f"{images} has one alone, {names[0]}"
        hint = "two sub-folders or more, one a class"
        raise FsgenError(f"--classes takes sub-folders as classes, and {why}", hint=hint)
    if Path(images).is_dir():
        folders = (path.name for path in Path(images).iterdir() if path.is_dir())
        if empty := sorted(name for name in folders if name not in names and not name.startswith(".")):
            raise FsgenError(f"the class folder {Path(images) / empty[0]} holds no image")
    return names


def _check_classes(shots: ImageSet, names: list[str]) -> None:
    there = set(folders_of(shots))
    if names and (empty := [name for name in names if name not in there]):
        raise FsgenError(f"no image of the class '{empty[0]}' can be read")
