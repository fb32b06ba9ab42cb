"""``fsgen compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fsgen.cli import common, terminal_tables


def compare(
    paths: Annotated[list[str], typer.Argument(help="Runs, models, or folders of images; two or more.")],
    real: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Evaluate all now, alike, against these. (default: as fsgen eval left them)"),
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="Folder for comparison.html and comparison.json.")  # noqa: UP045
    ] = None,
    protocol: Annotated[
        Optional[str], typer.Option(help="With --real: as a paper measures.")  # noqa: UP045
    ] = None,
    metrics: Annotated[
        Optional[str], typer.Option(help="With --real: some of fsgen info metrics.")  # noqa: UP045
    ] = None,
    samples: Annotated[
        Optional[int], typer.Option(help="With --real: how many pictures of each.")  # noqa: UP045
    ] = None,
    source: Annotated[
        Optional[str], typer.Option(help="With --real: the source, where none is recorded.")  # noqa: UP045
    ] = None,
    shots: Annotated[
        Optional[Path], typer.Option(help="With --real: the training images, where none are recorded.")  # noqa: UP045
    ] = None,
    weights_dir: Annotated[
        Optional[Path], typer.Option(help="With --real: a folder with weight files.")  # noqa: UP045
    ] = None,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Put runs side by side: figures, cost, pictures from the same latents.

    [dim]fsgen compare runs/ewc runs/finetune --real sketches.zip --out compared[/dim]
    """
    common.setup(debug)
    from fsgen.evaluation.compare import compare as run

    options: dict[str, Any] = {}
    if real is not None:
        options = {
            "real": real, "protocol": protocol, "samples": samples, "source": source, "shots": shots,
            "metrics": common.listed(metrics),
            "weights_dir": weights_dir, "seed": seed,
        }  # fmt: skip
    with common.watching() as callbacks:
        found = run(paths, device=device, callbacks=callbacks, **options)
    files = [] if out is None else found.write(out)
    if as_json:
        common.emit(found.plain())
        return
    screen = common.stdout()
    screen.print(terminal_tables.compared(found.reports))
    for file in files:
        screen.print(f"{file.name}: {common.path_text(file)}", soft_wrap=True)
