"""The ``fsgen`` program: its commands, and errors turned into a message and an exit code."""

from __future__ import annotations

import errno
import json
import sys
from typing import Annotated

import typer
from rich.markup import escape

import fsgen
from fsgen.cli import adapt, common, compare, eval, fisher, flags, info, pull, sample, train
from fsgen.errors import Code, FsgenError

app = typer.Typer(
    help="Adapt a pretrained image generator to a few images.",
    no_args_is_help=True,
    # Typer's own --help and completion options import pydantic, which doubles the time of every --help.
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
    """Adapt a pretrained image generator to the domain of a few images; evaluate and sample the result."""


def main() -> None:
    """Run the command line. Exit codes: 0, 1 failure, 2 refused input or usage, 130 interrupted."""
    try:
        # With --json, Typer raises its usage errors, so that they are written as JSON like all others.
        sys.exit(app(standalone_mode=not _as_json()) or 0)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if "--debug" in sys.argv or "-v" in sys.argv:
            raise
        refusal = error if isinstance(error, FsgenError) else _explain(error)
        _print_error(refusal)
        sys.exit(refusal.exit_code)


def _as_json() -> bool:
    return "--json" in sys.argv


def _explain(error: Exception) -> FsgenError:
    """Turn an exception of Typer or of the system into an error for the user."""
    if format_message := getattr(error, "format_message", None):  # of a usage error of Typer
        param = getattr(error, "param", None)
        option = getattr(error, "option_name", param and param.opts[0])
        return FsgenError(format_message(), where=option or "")
    if getattr(error, "errno", None) == errno.ENOSPC:
        return FsgenError(
            f"the disk is full ({error})", code=Code.SYSTEM, hint="free some space and try again"
        )
    hint = "this is an error in fsgen: --debug shows where"
    return FsgenError(f"{type(error).__name__}: {error}", code=Code.INTERNAL, hint=hint)


def _print_error(error: FsgenError) -> None:
    """Write an error to stderr: for people, or with --json as one line of JSON."""
    if _as_json():
        fields = {
            "code": error.code.value,
            "message": error.message,
            "where": error.where,
            "hint": error.hint,
        }
        print(json.dumps({"error": fields}), file=sys.stderr)
        return
    console = common.stderr()
    console.print(f"[red]error:[/red] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        console.print(f"[cyan]hint:[/cyan] {escape(error.hint)}", soft_wrap=True)
