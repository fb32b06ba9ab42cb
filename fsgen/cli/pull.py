"""``fsgen pull``"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli import common, info
from fsgen.errors import FsgenError

if TYPE_CHECKING:
    from fsgen.io.catalog import CatalogEntry


def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="A catalogue name, a file, a folder or an archive of a checkpoint's files, an https URL, "
            "hf://owner/repo/file, or a Google Drive id; or 'metrics', for the weights of the feature "
            "networks."
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(help="After 'metrics': only these (fsgen info metrics), or timm:NAME."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name to store it under. (default: from the source)")
    ] = None,
    yes: common.Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a source of the same name.")] = False,
    everything: Annotated[
        bool,
        typer.Option("--everything", help="With metrics: the weights of all feature networks."),
    ] = False,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Fetch a published generator and convert it without executing code in it.

    [dim]fsgen pull ffhq-256[/dim]  (fsgen info lists the catalogue)

    [dim]fsgen pull metrics[/dim]  the weights for fsgen eval

    [dim]fsgen pull metrics swav[/dim]  the weights of one network
    """
    common.setup(debug)
    of_sources = "--name" if name else "--force" if force else ""
    if source == "metrics":
        if of_sources:
            raise FsgenError(f"{of_sources} applies to sources, not to feature networks", where=of_sources)
        if names and everything:
            raise FsgenError(
                f"--everything includes {names[0]}", where="--everything", hint="leave one of them out"
            )
        _metrics(names or [], everything, as_json)
        return
    if names:
        raise FsgenError(
            f"one source at a time: {source} or {names[0]}", where=names[0], hint="pull them one by one"
        )
    if everything:
        raise FsgenError(f"--everything applies to feature networks, not to '{source}'", where="--everything")
    from fsgen.importers import pull as engine

    def consent(entry: CatalogEntry) -> bool:
        common.say(f"{entry.name}: {entry.licence}. {entry.terms}.")
        return yes or (sys.stdin.isatty() and typer.confirm("Do you accept these terms?", err=True))

    with common.terminal_callbacks() as callbacks:
        pulled = engine.pull(source, name=name, consent=consent, force=force, callbacks=callbacks)
    for note in pulled.notes:
        common.say(f"note: {note}")
    info.show(pulled.model, str(pulled.path), as_json)


def _metrics(names: list[str], everything: bool, as_json: bool) -> None:
    from fsgen.importers import pull as engine

    with common.terminal_callbacks() as callbacks:
        pulled = engine.pull_metrics(names, everything=everything, callbacks=callbacks)
    if as_json:
        common.emit([vars(one) for one in pulled])
        return
    for one in pulled:
        how = "fetched" if one.fetched else "already on this machine"
        common.say(f"{one.path.name}: {how}, {one.bytes / 1e6:.0f} MB, for {one.used_by}")
    for one in pulled:
        print(f"{one.sha256}  {one.path}")  # the format of sha256sum, for its -c
