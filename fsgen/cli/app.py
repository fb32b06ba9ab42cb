"""The ``fsgen`` program: its commands, and errors turned into a message and an exit code."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer
from rich.markup import escape

import fsgen
from fsgen.cli import adapt, common, compare, eval, fisher, flags, info, pull, sample, train
from fsgen.errors import FsgenError

app = typer.Typer(
    help="Adapt a pretrained image generator to a handful of pictures.",
    no_args_is_help=True,
    # Typer's own --help and completion options here would make every command import pydantic, which takes as
    # long as all the rest of --help.
    add_help_option=False,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("pull")(pull.pull)
app.command("fisher")(fisher.fisher)
app.command("adapt", cls=flags.AdaptCommand)(adapt.adapt)
app.command("train", cls=flags.MethodCommand)(train.train)
app.command("sample")(sample.sample)
app.command("eval")(eval.evaluate)
app.command("compare")(compare.compare)
app.command("info")(info.info)


def _version(value: bool) -> None:
    if value:
        print(fsgen.__version__)
        raise typer.Exit


def _help(ctx: typer.Context, value: bool) -> None:
    if value:
        typer.echo(ctx.get_help(), color=ctx.color)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--help", "-h", callback=_help, is_eager=True, help="Show this message and exit.")
    ] = False,
) -> None:
    """Ten pictures and a pretrained generator in; a generator of that kind of picture out."""


def main() -> None:
    """Run the command line. Exit codes: 0, 1 failure, 2 refused input or usage, 130 interrupted."""
    try:
        app()
    except FsgenError as error:
        if _debugging():
            raise
        _complain(error.message, error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if _debugging():
            raise
        if getattr(error, "errno", None) == errno.ENOSPC:
            _complain(f"the disk is full ({error})", "free some space and try again")
        else:
            _complain(f"{type(error).__name__}: {error}", "this is a fault of fsgen's: --debug shows where")
        sys.exit(1)


def _debugging() -> bool:
    return "--debug" in sys.argv or "-v" in sys.argv


def _complain(message: str, hint: str) -> None:
    console = common.stderr()
    console.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    if hint:
        console.print(f"[cyan]hint:[/cyan] {escape(hint)}", soft_wrap=True)
