"""``fsgen train``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fsgen.cli import common, flags, runs
from fsgen.training.run_options import TrainOptions


@flags.with_options(TrainOptions, scratch=True)
def train(
    ctx: typer.Context,
    images: Annotated[Path | None, typer.Argument(metavar="IMAGES", help=runs.TRAIN_IMAGES)] = None,
    out: runs.Out = None,
    config: runs.Config = None,
    resume: runs.Resume = None,
    force: runs.Force = False,
    dry_run: common.DryRun = False,
    as_json: common.Json = False,
    debug: common.Debug = False,
    **given: Any,
) -> None:
    """Train a generator of IMAGES from scratch; the run is a source for adapt.

    --help lists the options of the methods chosen with --method, --help-all those of all methods.

    [dim]fsgen train ./hundred_sketches --family fastgan --size 64 --out runs/source[/dim]
    """
    common.setup(debug)
    from fsgen.training.train import train as run

    request = runs.Request(images, out, config, resume, force, dry_run, as_json)
    runs.execute(ctx, run, TrainOptions, request, given)
