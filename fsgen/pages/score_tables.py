"""Turn the rows of a report into tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsgen.measures import MEASURES, Measure, format_value
from fsgen.pages.html import is_number, sublist, subtree

DISTANCES = ("fid", "kid", "clip_fid", "fd_dinov2")  # to the real images, the preferred one first
VARIETY = ("intra_lpips", "lpips", "diversity")


@dataclass(frozen=True)
class Score:
    """One value with its interval, as text."""

    value: float
    text: str
    interval: str  # ``58.0 to 64.1``, or empty


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one set of images."""

    name: str
    kind: str  # subject, source or real
    n: int | None
    scores: dict[str, Score]
    bounds: dict[str, tuple[float, float]]  # of the scores that have an interval


def score_rows(report: dict[str, Any]) -> list[ScoreRow]:
    """The rows of a report; the first is of the evaluated set."""
    rows = sublist(subtree(report, "evaluation"), "rows")
    return [_row(row) for row in rows if isinstance(row, dict)]


def metric_names(found: list[ScoreRow]) -> list[str]:
    """The metrics of any row: known ones first, in the order of ``MEASURES``."""
    names = dict.fromkeys(name for row in found for name in row.scores)
    return [name for name in MEASURES if name in names] + [name for name in names if name not in MEASURES]


def describe_metric(name: str) -> Measure:
    """The entry of ``MEASURES``; a stub for metrics of a later fsgen."""
    return MEASURES.get(name) or Measure(name, name, "number", "", "", "unknown to this version of fsgen")


def format_score(name: str, value: float) -> str:
    """``value`` in the style of its metric."""
    return format_value(name, value) if name in MEASURES else f"{value:.3g}"


def report_title(report: dict[str, Any]) -> str:
    """The title of a report, else the path or the model's title."""
    evaluation = subtree(report, "evaluation")
    named = report.get("title") or evaluation.get("path") or subtree(evaluation, "what").get("title")
    return str(named or "unnamed")


def summarise(report: dict[str, Any]) -> str:
    """One sentence: distance to the real images, variety, share of near copies."""
    found = score_rows(report)
    if not found or not found[0].scores:
        untested = report.get("run") and "evaluation" not in report
        return "Not evaluated yet: fsgen eval adds scores." if untested else "Nothing was measured."
    subject, source, real = found[0], _first("source", found), _first("real", found)
    said = []
    for candidates, other, whose in (
        (DISTANCES, source, "the source's"), (VARIETY, real, "the real images'"),
    ):  # fmt: skip
        name = next((name for name in candidates if name in subject.scores), None)
        if name is not None:
            said.append(_phrase(name, subject, other, whose))
    copies = subject.scores.get("near_copies")
    if copies is not None:
        share = copies.text if copies.value > 0 else "none"
        said.append(f"{share} of the samples repeat{'' if copies.value else 's'} a training image")
    if not said:
        name, chance = metric_names([subject])[0], _first("chance", found)
        said = [_phrase(name, subject, chance or source, "chance" if chance else "the source's")]
    sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}."


def run_cost(report: dict[str, Any]) -> dict[str, float]:
    """Seconds, peak memory in MB, trained parameters and steps of the run, those that are recorded."""
    run = subtree(report, "run")
    spent = subtree(run, "cost")
    known = {
        "seconds": spent.get("seconds"), "memory": spent.get("peak_rss_mb"),
        "parameters": run.get("trained_parameters"), "steps": run.get("steps"),
    }  # fmt: skip
    return {name: value for name, value in known.items() if is_number(value)}


def _first(kind: str, found: list[ScoreRow]) -> ScoreRow | None:
    """The first row of that kind besides the evaluated set's."""
    return next((row for row in found[1:] if row.kind == kind), None)


def _row(row: dict[str, Any]) -> ScoreRow:
    scores: dict[str, Score] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for name, entry in subtree(row, "metrics").items():
        entry = entry if isinstance(entry, dict) else {"value": entry}
        value, low, high = entry.get("value"), entry.get("low"), entry.get("high")
        if not is_number(value):
            continue
        interval = ""
        if is_number(low) and is_number(high):
            bounds[name] = (low, high)
            interval = f"{format_score(name, low)} to {format_score(name, high)}"
        scores[name] = Score(value, format_score(name, value), interval)
    n = row.get("n")
    return ScoreRow(
        str(row.get("name") or "unnamed"), str(row.get("kind")), n if isinstance(n, int) else None, scores,
        bounds,
    )  # fmt: skip


def _phrase(name: str, subject: ScoreRow, other: ScoreRow | None, whose: str) -> str:
    """``FID is 61.2 (58.0 to 64.1), the source's 112.0``."""
    score = subject.scores[name]
    between = f" ({score.interval})" if score.interval else ""
    beside = other.scores.get(name) if other is not None else None
    against = f", {whose} {beside.text}" if beside is not None else ""
    return f"{describe_metric(name).title} is {score.text}{between}{against}"
