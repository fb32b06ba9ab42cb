"""``fsgen pull``"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fsgen.cli import common, info

if TYPE_CHECKING:
    from fsgen.io.catalog import Entry


def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="A catalogue name, a file, an https URL, hf://owner/repo/file, or a Google Drive id."
        ),
    ],
    name: Annotated[Optional[str], typer.Option(help="What to call it.")] = None,  # noqa: UP045
    yes: common.Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a source of that name.")] = False,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Fetch a published generator and convert it, executing nothing in it.

    [dim]fsgen pull ffhq-256[/dim]  (fsgen info lists the catalogue)
    """
    common.setup(debug)
    from fsgen.engine import pull as engine

    def consent(entry: Entry) -> bool:
        common.say(f"{entry.name}: {entry.licence}. {entry.terms}.")
        return yes or (sys.stdin.isatty() and typer.confirm("Do you accept these terms?", err=True))

    with common.watching() as watch:
        pulled = engine.pull(source, name=name, consent=consent, force=force, watch=watch)
    for note in pulled.notes:
        common.say(f"note: {note}")
    info.show(pulled.model, str(pulled.path), as_json)
