"""``fsgen adapt``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fsgen.cli import common, flags, runs
from fsgen.training.run_options import AdaptOptions


@flags.with_options(AdaptOptions)
def adapt(
    ctx: typer.Context,
    images: Annotated[Path | None, typer.Argument(metavar="IMAGES", help=runs.ADAPT_IMAGES)] = None,
    out: runs.Out = None,
    config: runs.Config = None,
    resume: runs.Resume = None,
    force: runs.Force = False,
    dry_run: common.DryRun = False,
    as_json: common.Json = False,
    debug: common.Debug = False,
    **given: Any,
) -> None:
    """Adapt a source generator to the domain of a few IMAGES.

    --help lists the options of the methods chosen with --method, --help-all those of all methods.

    [dim]fsgen adapt ./ten_sketches --out runs/sketches[/dim]
    """
    common.setup(debug)
    from fsgen.training.adapt import adapt as run

    request = runs.Request(images, out, config, resume, force, dry_run, as_json)
    runs.execute(ctx, run, AdaptOptions, request, given)
