"""``fsgen eval``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
        Path | None,
        typer.Option(help="Folder for report.json and report.html. (default: a run's own folder)"),
    ] = None,
    shots: Annotated[
        Path | None, typer.Option(help="The training images. (default: those the run records)")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The source model. (default: the one the run records)")
    ] = None,
    content: Annotated[
        Path | None,
        typer.Option(help="With --protocol funit: images to translate, one sub-folder per class."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="A paper's protocol: cdc, adam, wedit, lfs, crdi, diffaugment, funit."),
    ] = None,
    fid: Annotated[
        str | None,
        typer.Option(help="clean, legacy_pytorch, legacy_tensorflow or torchvision. (default: clean)"),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics of fsgen info metrics, separated by commas. (default: all possible here)"),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Number of samples. (default: 1000 of a model, all images of a folder; funit: 100)"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of sets of samples; scores are means over them.")] = 1,
    truncation: Annotated[float, typer.Option(help="1: as trained; below: nearer to the mean.")] = 1.0,
    fit: Annotated[str, typer.Option(help="How images become square: crop or pad.")] = "crop",
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help="Exit with 1 if a score is beyond a bound: 'near_copies>0.05'; may be repeated."),
    ] = None,
    study: Annotated[
        bool, typer.Option("--study", help="Also write study.html: ten rounds of real or generated.")
    ] = False,
    weights_dir: Annotated[
        Path | None, typer.Option(help="A folder with the weight files of Inception, AlexNet and others.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch absent weight files (as fsgen pull metrics).")
    ] = False,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    dry_run: common.DryRun = False,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Measure a model or a set of images against real images.

    [dim]fsgen eval runs/sketches --real sketches.zip[/dim]
    [dim]fsgen eval runs/animals --protocol funit --real unseen/ --content seen/[/dim]
    """
    common.setup(debug)
    from fsgen.evaluation import gate, report
    from fsgen.evaluation.evaluate import evaluate as run

    bounds = gate.parse_bounds(fail_if or [])
    folder = report.report_folder(path, out, study=study)
    with common.terminal_callbacks() as callbacks:
        found = run(
            path, real=real, shots=shots, source=source, content=content, protocol=protocol, fid=fid,
            samples=samples, metrics=common.listed(metrics),
            needed=[bound.metric for bound in bounds], seeds=seeds, seed=seed, truncation=truncation, fit=fit,
            weights_dir=weights_dir, download=download, device=device, batch=batch, dry_run=dry_run,
            callbacks=callbacks,
        )  # fmt: skip
    if isinstance(found, dict):
        common.show_config(found, as_json)
        return
    files = [] if folder is None else report.write_evaluation(found, folder, study=study)
    if as_json:
        common.emit(found.plain())
    else:
        show(found, files)
    gate.check_bounds(bounds, found.metrics)


def show(found: Evaluation, files: list[Path]) -> None:
    """Print the table, the flags and the paths of the pages."""
    out = common.stdout()
    table = terminal_tables.evaluation if found.content is None else terminal_tables.translations
    out.print(table(found.rows))
    for name, judge in found.settings.get("classifiers", {}).items():
        out.print(
            f"accuracy of the classifier ({name}) of {judge['classes']} classes: {judge['accuracy']:.1%} of "
            f"{judge['held_out']:,} held-out images, chance {judge['chance']:.1%}",
            soft_wrap=True,
        )
    for flag in found.flags:
        out.print(f"[bold]{common.escape(flag['text'])}[/bold]", soft_wrap=True)
    for file in files:
        out.print(f"{file.name}: {common.path_text(file)}", soft_wrap=True)
