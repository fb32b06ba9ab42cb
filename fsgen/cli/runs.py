"""The common part of ``fsgen adapt`` and ``fsgen train``: start, replay or resume a run, show its result."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from fsgen.cli import common, flags
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.training.run_options import RunOptions

REQUIRED = "[red](required, except with --resume or --config)[/red]"
ADAPT_IMAGES = f"A folder, a zip or one image. {REQUIRED}"
TRAIN_IMAGES = f"A folder or a zip. {REQUIRED}"

Out = Annotated[
    Path | None, typer.Option(help="The run folder to create. [red](required, except with --resume)[/red]")
]
Config = Annotated[
    Path | None, typer.Option(help="Repeat the run of this config.toml; flags override its values.")
]
Resume = Annotated[Path | None, typer.Option(help="Resume the run in this folder.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a run in --out.")]


SHAPING = ("method", "source", "family", "stop", "new_class")  # options that the training recipe depends on


class Request(NamedTuple):
    """The arguments of a run besides its options."""

    images: Path | None
    out: Path | None
    config: Path | None
    resume: Path | None
    force: bool
    dry_run: bool
    as_json: bool


def execute(
    ctx: typer.Context,
    run: Callable[..., Path | PlainDict],
    kind: type[RunOptions],
    request: Request,
    given: PlainDict,
) -> None:
    """Start, replay or resume a run, and show its result."""
    with interruptible() as stop, common.terminal_callbacks(stop) as callbacks:
        if request.resume is not None:
            from fsgen.training.adapt import resume

            _refuse_ignored(ctx)
            result: Path | PlainDict = resume(request.resume, steps=given["steps"], callbacks=callbacks)
        else:
            values, options = flags.run_values(given), flags.by_method(given)
            arguments = {"options": options, **values}
            if request.config is not None:
                arguments = _from_config(request.config, kind, values, options)
            images = arguments.pop("images", None)
            if request.images is not None:
                images = request.images
            if not images or request.out is None:
                raise FsgenError(
                    "IMAGES and --out are required", where="--out" if images else "IMAGES",
                    hint=f"fsgen {ctx.command.name} ./ten_images --out runs/first",
                )  # fmt: skip
            result = run(
                images, out=request.out, force=request.force, dry_run=request.dry_run, callbacks=callbacks,
                **arguments,
            )  # fmt: skip
    if isinstance(result, dict):
        common.show_config(result, request.as_json)
    else:
        show_result(result, request.as_json)


def _from_config(
    path: Path, kind: type[RunOptions], values: PlainDict, options: dict[str, PlainDict]
) -> PlainDict:
    """The arguments that repeat the run of a config.toml, overridden by flags.

    Raises:
        FsgenError: not a configuration of this command, an unknown table or key.
    """
    from fsgen import config as configs
    from fsgen.training.run_options import RunConfig

    stored = configs.read_toml(path)
    if "run" not in stored:
        raise FsgenError(f"{path} has no table [run]", code=Code.DAMAGED, where=path)
    config = configs.options(RunConfig, stored.pop("run", {}), where=f"[run] in {path}")
    methods, recipe = (_table(path, stored.pop(name, {}), name) for name in ("method", "recipe"))
    if stray := [*stored, *(f"method.{name}" for name in methods if name not in config.method.split(","))]:
        raise FsgenError(f"{path} has an unknown table [{stray[0]}]", code=Code.UNKNOWN_NAME, where=stray[0])
    verb = "adapt" if config.fresh is None else "train"
    if (kind.__name__ == "TrainOptions") != (verb == "train"):
        raise FsgenError(
            f"{path} is the configuration of fsgen {verb}",
            code=Code.INCOMPATIBLE, where=path, hint=f"fsgen {verb} --config {path} --out RUN",
        )  # fmt: skip
    try:
        saved = config.to_options(kind)
    except KeyError as missing:
        message = f"[run.fresh] in {path} has no {missing}"
        raise FsgenError(message, code=Code.DAMAGED, where=path) from None
    if changed := [name for name in SHAPING if name in values and values[name] != saved.get(name)]:
        flag = f"--{changed[0].replace('_', '-')}"
        common.say(f"{flag} differs from {path}: its training recipe is left out")
        recipe = {}
    arguments = saved | values
    chosen = str(arguments["method"]).split(",")
    for name, table in methods.items():
        if name in chosen:
            options[name] = _table(path, table, f"method.{name}") | options.get(name, {})
    arguments |= {
        "images": config.images, "options": options,
        "recipe": {name: value for name, value in recipe.items() if name not in values},
    }  # fmt: skip
    if config.fresh is not None:
        arguments["architecture"] = config.fresh["architecture"]
    return arguments


def _table(path: Path, value: object, name: str) -> PlainDict:
    """``value`` if it is a table."""
    if not isinstance(value, dict):
        raise FsgenError(f"{name} in {path} is not a table of options", code=Code.DAMAGED, where=name)
    return value


def _refuse_ignored(ctx: typer.Context) -> None:
    """Refuse flags that --resume would ignore: a run keeps its options, except for its length."""
    given = [
        p for p in ctx.command.params if str(ctx.get_parameter_source(p.name or "")).endswith("COMMANDLINE")
    ]
    allowed = ("resume", "steps", "as_json", "debug")
    if other := next((p.opts[0] for p in given if p.name not in allowed), None):
        raise FsgenError(
            f"--resume keeps the options of the run and does not take {other}",
            where=other, hint=f"fsgen {ctx.command.name} --resume RUN, with --steps to train for longer",
        )  # fmt: skip


def show_result(run: Path, as_json: bool) -> None:
    """Print the run's report as JSON, or its files and the next commands."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    if as_json:
        common.emit({"path": str(run), **report})
        return
    where, out = common.path_text(run), common.stdout()
    seconds, grid = report["run"]["cost"]["seconds"], common.path_text(run / report["run"]["grid"])
    if redrawn := report["run"].get("pictures"):
        folder = common.path_text(run / redrawn["folder"])
        out.print(f"{redrawn['count']} images redrawn in {seconds:.0f} s: {folder}", soft_wrap=True)
        out.print(f"  grid:     {grid}", soft_wrap=True)
        out.print(f"  evaluate: fsgen eval {folder} --real IMAGES", soft_wrap=True)
        return
    done = "trained" if report["run"]["source"] is None else "adapted"
    out.print(f"{done} in {seconds:.0f} s: {where}", soft_wrap=True)
    out.print(f"  grid:   {grid}", soft_wrap=True)
    if (run / "report.html").is_file():
        out.print(f"  report: {common.path_text(run / 'report.html')}", soft_wrap=True)
    out.print(f"  sample: fsgen sample {where} --grid 8x8 --out grid.png", soft_wrap=True)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C finish the step and save the state; the second interrupts at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        common.say("finishing this step and saving; Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
