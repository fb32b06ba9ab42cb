"""From the rows of a report to tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsgen.measures import MEASURES, Measure, format_value
from fsgen.pages.html import is_number, listed, part

DISTANCES = (
    "fid",
    "kid",
    "clip_fid",
    "fd_dinov2",
)  # to the reals, in the order in which they speak for a run
VARIETY = ("intra_lpips", "lpips", "diversity")


@dataclass(frozen=True)
class Figure:
    """One value and its interval, for people."""

    value: float
    text: str
    interval: str  # ``58.0 to 64.1``, or empty


@dataclass(frozen=True)
class Row:
    """What was measured of one set of images."""

    name: str
    kind: str  # subject, source or real
    n: int | None
    figures: dict[str, Figure]
    bounds: dict[str, tuple[float, float]]  # of the figures that have an interval


def rows(report: dict[str, Any]) -> list[Row]:
    """The rows of a report; the first is what was evaluated."""
    return [_row(row) for row in listed(part(report, "evaluation"), "rows") if isinstance(row, dict)]


def of_kind(kind: str, found: list[Row]) -> Row | None:
    """The first row of that kind."""
    return next((row for row in found if row.kind == kind), None)


def names(found: list[Row]) -> list[str]:
    """The metrics of any of the rows: those known first, in the order of ``MEASURES``."""
    there = dict.fromkeys(name for row in found for name in row.figures)
    return [name for name in MEASURES if name in there] + [name for name in there if name not in MEASURES]


def measure(name: str) -> Measure:
    """What is known of a metric; a report of a later fsgen may have others."""
    return MEASURES.get(name) or Measure(name, name, "number", "", "", "unknown to this version of fsgen")


def text(name: str, value: float) -> str:
    """``value`` as people read it."""
    return format_value(name, value) if name in MEASURES else f"{value:.3g}"


def title(report: dict[str, Any]) -> str:
    """What the report is called."""
    evaluation = part(report, "evaluation")
    named = report.get("title") or evaluation.get("path") or part(evaluation, "what").get("title")
    return str(named or "unnamed")


def verdict(report: dict[str, Any]) -> str:
    """One sentence of figures: how far from the reals, how varied, how many repeat a training image."""
    found = rows(report)
    if not found or not found[0].figures:
        return "Nothing was measured."
    subject, source, real = found[0], of_kind("source", found[1:]), of_kind("real", found[1:])
    said = []
    for candidates, other, whose in ((DISTANCES, source, "the source's"), (VARIETY, real, "the reals'")):
        name = next((name for name in candidates if name in subject.figures), None)
        if name is not None:
            said.append(_said(name, subject, other, whose))
    copies = subject.figures.get("near_copies")
    if copies is not None:
        share = copies.text if copies.value > 0 else "none"
        said.append(f"{share} of the samples repeat{'' if copies.value else 's'} a training image")
    if not said:
        name = names([subject])[0]
        chance = of_kind("chance", found[1:])
        said = [
            _said(name, subject, chance, "chance") if chance else _said(name, subject, source, "the source's")
        ]
    sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}."


def cost(report: dict[str, Any]) -> dict[str, float]:
    """Seconds, peak memory in MB, trained parameters and steps of the run, as far as they are known."""
    run = part(report, "run")
    spent = part(run, "cost")
    known = {
        "seconds": spent.get("seconds"), "memory": spent.get("peak_rss_mb"),
        "parameters": run.get("trained_parameters"), "steps": run.get("steps"),
    }  # fmt: skip
    return {name: value for name, value in known.items() if is_number(value)}


def _row(row: dict[str, Any]) -> Row:
    figures: dict[str, Figure] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for name, entry in part(row, "metrics").items():
        entry = entry if isinstance(entry, dict) else {"value": entry}
        value, low, high = (entry.get(key) for key in ("value", "low", "high"))
        if not is_number(value):
            continue
        interval = ""
        if is_number(low) and is_number(high):
            bounds[name] = (low, high)
            interval = f"{text(name, low)} to {text(name, high)}"
        figures[name] = Figure(value, text(name, value), interval)
    n = row.get("n")
    return Row(
        str(row.get("name") or "unnamed"), str(row.get("kind")), n if is_number(n) else None, figures, bounds
    )


def _said(name: str, subject: Row, other: Row | None, whose: str) -> str:
    """``FID is 61.2 (58.0 to 64.1), the source's 112.0``."""
    figure = subject.figures[name]
    between = f" ({figure.interval})" if figure.interval else ""
    beside = other.figures.get(name) if other is not None else None
    against = f", {whose} {beside.text}" if beside is not None else ""
    return f"{measure(name).title} is {figure.text}{between}{against}"
