"""``fsgen eval``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fsgen.cli import common, terminal_tables

if TYPE_CHECKING:
    from fsgen.evaluation.result import Evaluation


def evaluate(
    path: Annotated[str, typer.Argument(help="A run folder, a file, a name; or a folder or zip of images.")],
    real: Annotated[
        Path, typer.Option(help="Real images of the target: a folder or zip, the more the better.")
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for report.json and report.html. (default: a run's own folder)"),
    ] = None,
    shots: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The training images. (default: those the run records)"),
    ] = None,
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The source it came from. (default: the one the run records)"),
    ] = None,
    content: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="With --protocol funit: what is translated, a sub-folder for each class."),
    ] = None,
    protocol: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="As a paper measures: cdc, adam, wedit, lfs, crdi, diffaugment, funit."),
    ] = None,
    fid: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="clean, legacy_pytorch, legacy_tensorflow or torchvision. (default: clean)"),
    ] = None,
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Some of those of fsgen info metrics. (default: all that can be computed here)"),
    ] = None,
    samples: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="How many pictures. (default: 1000 of a model, all images of a folder; funit: 100)"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many sets of pictures to take the mean over.")] = 1,
    truncation: Annotated[float, typer.Option(help="1: as trained; below: nearer to the mean.")] = 1.0,
    fit: Annotated[str, typer.Option(help="How other images become square: crop or pad.")] = "crop",
    fail_if: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Exit with 1 beyond a bound, as in 'near_copies>0.05'; may be repeated."),
    ] = None,
    study: Annotated[
        bool, typer.Option("--study", help="Also write study.html: which picture is real? Ten rounds.")
    ] = False,
    weights_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder with the weight files of Inception, AlexNet and the others."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch weight files that are absent (fsgen pull metrics).")
    ] = False,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    dry_run: common.DryRun = False,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Measure a model, or images made by anything, against real images.

    [dim]fsgen eval runs/sketches --real sketches.zip[/dim]
    [dim]fsgen eval runs/animals --protocol funit --real unseen/ --content seen/[/dim]
    """
    common.setup(debug)
    from fsgen.evaluation import gate, report
    from fsgen.evaluation.evaluate import evaluate as run

    bounds = gate.parse(fail_if or [])
    folder = report.folder(path, out, study=study)
    with common.watching() as callbacks:
        found = run(
            path, real=real, shots=shots, source=source, content=content, protocol=protocol, fid=fid,
            samples=samples, metrics=common.listed(metrics),
            needed=[bound.metric for bound in bounds], seeds=seeds, seed=seed, truncation=truncation, fit=fit,
            weights_dir=weights_dir, download=download, device=device, batch=batch, dry_run=dry_run,
            callbacks=callbacks,
        )  # fmt: skip
    if dry_run:
        common.show_config(found, as_json)
        return
    files = [] if folder is None else report.write(found, folder, study=study)
    if as_json:
        common.emit(found.plain())
    else:
        show(found, files)
    gate.check(bounds, found.metrics)


def show(found: Evaluation, files: list[Path]) -> None:
    """The table, what nobody should overlook, and where the pages are."""
    out = common.stdout()
    out.print(
        terminal_tables.evaluated(found.rows)
        if found.content is None
        else terminal_tables.translated(found.rows)
    )
    for name, judge in found.settings.get("classifiers", {}).items():
        out.print(
            f"the classifier ({name}) tells {judge['classes']} classes apart: {judge['accuracy']:.1%} of "
            f"{judge['held_out']:,} pictures it was not trained on, {judge['chance']:.1%} by chance",
            soft_wrap=True,
        )
    for flag in found.flags:
        out.print(f"[bold]{common.escape(flag['text'])}[/bold]", soft_wrap=True)
    for file in files:
        out.print(f"{file.name}: {common.path_text(file)}", soft_wrap=True)
