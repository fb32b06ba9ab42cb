"""Score tables for the terminal: one line a metric, one column a set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fsgen.cli import common
from fsgen.measures import MEASURES, format_value

if TYPE_CHECKING:
    from rich.table import Table


def evaluation(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The evaluated set, its source and the real images."""
    table = _table([row["name"] for row in rows])
    table.add_row("images", *(f"{row['n']:,}" for row in rows))
    for name in _known([row["metrics"] for row in rows]):
        table.add_row(MEASURES[name].title, *(cell(name, row["metrics"].get(name)) for row in rows))
    return table


def translations(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Translations from K shots: one line a K, one column a metric."""
    names = _known([row["metrics"] for row in rows])
    table = _table([MEASURES[name].title for name in names])
    for row in rows:
        table.add_row(row["name"], *(cell(name, row["metrics"].get(name), below=True) for name in names))
    return table


def comparison(reports: Sequence[Mapping[str, Any]]) -> Table:
    """Several reports, and the cost of each run."""
    table = _table([report["title"] for report in reports])
    rows = [report["evaluation"]["rows"][0] for report in reports]
    table.add_row("images", *(f"{row['n']:,}" for row in rows))
    for name in _known([row["metrics"] for row in rows]):
        table.add_row(MEASURES[name].title, *(cell(name, row["metrics"].get(name)) for row in rows))
    runs = [report.get("run") or {} for report in reports]
    for title, value in (
        ("steps", lambda run: f"{run['steps']:,}"),
        ("seconds", lambda run: f"{run['cost']['seconds']:,.0f}"),
        ("memory, MB", lambda run: f"{run['cost']['peak_rss_mb']:,}"),
        ("trained parameters", lambda run: f"{run['trained_parameters']:,}"),
    ):
        if any(runs):
            table.add_row(f"[dim]{title}[/dim]", *(value(run) if run else "[dim]-[/dim]" for run in runs))
    return table


def cell(name: str, score: Mapping[str, Any] | None, *, below: bool = False) -> str:
    """``61.2 (58.0-64.1)``, or with the interval ``below``."""
    if score is None:
        return "[dim]-[/dim]"
    text = format_value(name, score["value"])
    if score["low"] is None:
        return text
    low, high = (format_value(name, score[end]).rstrip("%") for end in ("low", "high"))
    return f"{text}\n[dim]{low}-{high}[/dim]" if below else f"{text} [dim]({low}-{high})[/dim]"


def _known(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in MEASURES if any(name in some for some in metrics)]


def _table(columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(common.escape(name), justify="right", overflow="fold")
    return table
