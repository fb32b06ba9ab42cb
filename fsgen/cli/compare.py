"""``fsgen compare``"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fsgen.cli import common, terminal_tables
from fsgen.cli.eval import evaluate

NOT_SHARED = {"path", "real", "out", "fail_if", "study"}  # of ``fsgen eval``: its own


def with_eval_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command``, which takes ``**options``, the options of ``fsgen eval``; None if not given."""
    own = inspect.signature(command, eval_str=True).parameters
    shared = inspect.signature(evaluate, eval_str=True).parameters
    parameters = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters += [p.replace(default=None) for name, p in shared.items() if name not in {*NOT_SHARED, *own}]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


@with_eval_options
def compare(
    paths: Annotated[list[str], typer.Argument(help="Runs, models, or folders of images; two or more.")],
    real: Annotated[
        Path | None,
        typer.Option(help="Evaluate all now against these. (default: use the reports of fsgen eval)"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.html and comparison.json.")] = None,
    dry_run: common.DryRun = False,
    device: common.Device = "auto",
    as_json: common.Json = False,
    debug: common.Debug = False,
    **options: Any,
) -> None:
    """Put runs side by side: scores, cost, samples of the same latents.

    [dim]fsgen compare runs/ewc runs/finetune --real sketches.zip --out compared[/dim]
    """
    common.setup(debug)
    from fsgen.evaluation.compare import compare as run

    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if "metrics" in given:
        given["metrics"] = common.listed(given["metrics"])
    with common.terminal_callbacks() as callbacks:
        found = run(paths, real=real, device=device, dry_run=dry_run, callbacks=callbacks, **given)
    if isinstance(found, dict):
        common.show_config(found, as_json)
        return
    files = [] if out is None else found.write(out)
    if as_json:
        common.emit(found.plain())
        return
    screen = common.stdout()
    screen.print(terminal_tables.comparison(found.reports))
    for file in files:
        screen.print(f"{file.name}: {common.path_text(file)}", soft_wrap=True)
