"""``fsgen train``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fsgen.cli import common, flags
from fsgen.cli.adapt import interruptible, only_resume, show_result
from fsgen.errors import FsgenError


@flags.with_method_options
def train(
    ctx: typer.Context,
    images: Annotated[
        Optional[Path], typer.Argument(help="A folder or a zip.", show_default=False)  # noqa: UP045
    ] = None,
    out: common.Out = None,
    family: Annotated[str, typer.Option(help="What to train (fsgen info).")] = "stylegan2",
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 64,
    grey: Annotated[bool, typer.Option("--grey", help="One channel instead of three.")] = False,
    classes: Annotated[bool, typer.Option("--classes", help="Sub-folders are classes.")] = False,
    width: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Channels, in the family's own measure. (default: as published)"),
    ] = None,
    features: Annotated[
        str, typer.Option(help="Draw after images, by their features: bundled, swav, resnet50, timm:NAME.")
    ] = "",
    weights_dir: common.WeightsDir = None,
    neighbours: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Reals of each of those images. (default: 50; 5 below 10,000 images)"),
    ] = None,
    method: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What may help: diffaugment, or none. (default: the family's own)"),
    ] = None,
    steps: Annotated[Optional[int], typer.Option(help="Generator steps. (default: 10000)")] = None,  # noqa: UP045
    batch: common.Batch = None,
    lr: common.Rate = None,
    fit: common.Fit = "crop",
    mirror: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--mirror/--no-mirror", help="Also show the images flipped. (default: the family's)"),
    ] = None,
    sample_every: common.SampleEvery = 500,
    save_every: common.SaveEvery = 500,
    resume: common.Resume = None,
    force: common.Force = False,
    dry_run: common.DryRun = False,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
    **method_flags: Any,
) -> None:
    """Train a generator of IMAGES from scratch; the run is a source for adapt.

    [dim]fsgen train ./hundred_sketches --family fastgan --size 64 --out runs/source[/dim]
    """
    common.setup(debug)
    from fsgen.training import train as engine
    from fsgen.training.adapt import resume as go_on

    with interruptible() as stop, common.watching(stop) as callbacks:
        if resume is not None:
            only_resume(ctx)
            run = go_on(resume, steps=steps, callbacks=callbacks)
        else:
            if images is None or out is None:
                raise FsgenError("IMAGES and --out are needed", hint="fsgen train ./images --out runs/source")
            run = engine.train(
                images, out=out, family=family, size=size, channels=1 if grey else 3, classes=classes,
                width=width, features=features, weights_dir=weights_dir, neighbours=neighbours, method=method,
                options=flags.by_method(method_flags), recipe={"batch": batch, "lr": lr},
                steps=engine.STEPS if steps is None else steps, seed=seed, device=device, fit=fit,
                mirror=mirror, sample_every=sample_every, save_every=save_every, force=force,
                dry_run=dry_run, callbacks=callbacks,
            )  # fmt: skip
    if dry_run:
        common.show_config(run, as_json)
    else:
        show_result(run, as_json)
