"""``fsgen eval``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fsgen.cli import common

if TYPE_CHECKING:
    from fsgen.evaluation.evaluate import Report

HEADS = {
    "fid": "FID",
    "kid": "KID x 1000",
    "lpips": "LPIPS diversity",
    "near_copies": "near copies",
    "diversity": "diversity",
}


def evaluate(
    path: Annotated[str, typer.Argument(help="A run folder, a file, a name; or a folder or zip of images.")],
    real: Annotated[
        Path, typer.Option(help="Real images of the target: a folder or zip, the more the better.")
    ],
    shots: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The training images. (default: those the run records)"),
    ] = None,
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The source it came from. (default: the one the run records)"),
    ] = None,
    samples: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="How many pictures. (default: 1000 of a model, all images of a folder)"),
    ] = None,
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help=f"Of {', '.join(HEADS)}. (default: all that can be computed here)"),
    ] = None,
    truncation: Annotated[float, typer.Option(help="1: as trained; below: nearer to the mean.")] = 1.0,
    fit: Annotated[str, typer.Option(help="How other images become square: crop or pad.")] = "crop",
    weights_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder with the weight files of Inception and AlexNet."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch weight files that are absent (91 and 233 MB).")
    ] = False,
    out: Annotated[Optional[Path], typer.Option(help="Write the figures to this file, as JSON.")] = None,  # noqa: UP045
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Measure a model, or images made by anything, against real images.

    [dim]fsgen eval runs/sketches --real sketches.zip[/dim]
    """
    common.setup(debug)
    from fsgen.evaluation import evaluate as engine

    with common.watching() as watch:
        report = engine.evaluate(
            path, real=real, shots=shots, source=source, samples=samples,
            metrics=None if metrics is None else [name.strip() for name in metrics.split(",")],
            seed=seed, truncation=truncation, fit=fit, weights_dir=weights_dir, download=download,
            device=device, batch=batch, watch=watch,
        )  # fmt: skip
    if out is not None:
        report.write(out)
    if as_json:
        common.emit(report.plain())
        return
    show(report)
    if out is not None:
        common.stdout().print(f"figures: {common.path_text(out)}", soft_wrap=True)


def show(report: Report) -> None:
    """One row for what was evaluated, its source and the reals; one column a metric."""
    from rich.table import Table

    columns = [name for name in HEADS if name in report.metrics]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("images", justify="right")
    for name in columns:
        table.add_column(HEADS[name], justify="right")
    for row in report.rows:
        cells = [_figure(name, row["metrics"].get(name)) for name in columns]
        table.add_row(common.escape(row["name"]), str(row["n"]), *cells)
    common.stdout().print(table)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "[dim]-[/dim]"
    if name == "near_copies":
        return f"{value:.1%}"
    return f"{value * 1000:.2f}" if name == "kid" else f"{value:.3g}" if value < 10 else f"{value:.1f}"
