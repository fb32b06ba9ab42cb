"""The common part of all commands: options, messages on stderr, data on stdout, progress."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fsgen.callbacks import Callbacks
    from fsgen.config import PlainDict

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel="Common")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.", rich_help_panel="Common")]
Json = Annotated[
    bool,
    typer.Option("--json", help="JSON on stdout; errors as JSON on stderr.", rich_help_panel="Common"),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", "-v", help="Log more; show a traceback on failure.", rich_help_panel="Common"),
]
WeightsDir = Annotated[Path | None, typer.Option(help="A folder with the weight files of feature networks.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the resolved options, do nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Accept the terms without a question.")]

QUIET_LINE = 10.0  # seconds between progress lines where there is no terminal


def stderr() -> Console:
    """The console for messages."""
    return Console(stderr=True, highlight=False, emoji=False)


def stdout() -> Console:
    """The console for results in readable form."""
    return Console(highlight=False, emoji=False)


def say(line: str) -> None:
    """Print a message line; its text is not interpreted as markup."""
    stderr().print(escape(line), soft_wrap=True)


def emit(value: object) -> None:
    """Print ``value`` as JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def listed(text: str | None) -> list[str] | None:
    """Split ``"fid, kid"`` at commas; None stays None."""
    return None if text is None else [part.strip() for part in text.split(",")]


def show_config(config: PlainDict, as_json: bool) -> None:
    """Print the resolved options of a dry run, as TOML or JSON."""
    from fsgen.config import to_toml

    if as_json:
        emit(config)
    else:
        print(to_toml(config), end="")


def setup(debug: bool) -> None:
    """Set the libraries' logging to errors only, or to everything."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, stream=sys.stderr, force=True)


def path_text(path: Path | str) -> str:
    """Quote a path for the shell and escape it for rich markup."""
    import shlex

    return escape(shlex.quote(str(path)))


@contextmanager
def terminal_callbacks(stop: Callable[[], bool] = lambda: False) -> Iterator[Callbacks]:
    """Callbacks that show progress bars on a terminal and lines elsewhere."""
    from fsgen.callbacks import Callbacks

    if not stderr().is_terminal:
        lines = _Lines()
        yield Callbacks(say, lines.progress, lines.step, stop)
        return
    with _bars() as bars:
        shown = _Bars(bars)
        yield Callbacks(
            lambda line: bars.console.print(escape(line), soft_wrap=True), shown.progress, shown.step, stop
        )


def _bars() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
        console=stderr(),
        transient=True,
    )


class _Bars:
    """Progress on a terminal: one bar per task."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def progress(self, task: str, done: int, total: int) -> None:
        self._update(task, done, total, "")

    def step(self, step: int, steps: int, losses: Mapping[str, float], speed: float) -> None:
        self._update("training", step, steps, format_losses(losses, speed))

    def _update(self, task: str, done: int, total: int, text: str) -> None:
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, total=total or None, losses="")
        self.bars.update(self.tasks[task], completed=done, total=total or None, losses=text)
        if total and done >= total:
            self.bars.update(self.tasks[task], visible=False)


class _Lines:
    """Progress without a terminal: a line every ten seconds, and the last step."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def progress(self, task: str, done: int, total: int) -> None:
        self._print(f"{task} {done}/{total}" if total else f"{task} {done}", last=False)

    def step(self, step: int, steps: int, losses: Mapping[str, float], speed: float) -> None:
        self._print(f"step {step}/{steps}  {format_losses(losses, speed)}", last=step == steps)

    def _print(self, line: str, *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self.last >= QUIET_LINE:
            self.last = now
            say(line)


def format_losses(losses: Mapping[str, float], speed: float) -> str:
    """``D 0.71  G 1.93  ewc 4.02  31 images/s``"""
    names = {"d": "D", "g": "G"}
    parts = [f"{names.get(name, name)} {value:.3g}" for name, value in losses.items()]
    return "  ".join([*parts, f"{speed:.1f} images/s"])
