"""The page of many runs: one table, the same latents through all of them, and what each cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.pages import score_tables
from fsgen.pages.contents import Exhibits
from fsgen.pages.embedded_images import Album, Thumb
from fsgen.pages.html import listed, page, part, plain
from fsgen.pages.report_page import curves
from fsgen.pages.score_tables import Row

COLUMNS = 8  # latents shown
NOTHING = Row("", "subject", None, {}, {})  # measured of a run


@dataclass(frozen=True)
class Strip:
    """Pictures of one model, a latent each."""

    name: str
    thumbs: list[Thumb]
    origin: bool = False  # the source, not a run
    loose: bool = False  # pictures of no latents


def render(reports: list[dict[str, Any]], exhibits: list[Exhibits]) -> str:
    """The HTML of runs in the order given: reports of schema ``fsgen-report/1`` and what goes with each.

    Raises:
        FsgenError: none or not as many exhibits as reports; the pictures do not fit on a page of 3 MB.
    """
    if not reports or len(reports) != len(exhibits):
        raise FsgenError(
            f"{len(reports)} reports and {len(exhibits)} exhibits make no comparison",
            hint="give one of each for every run",
        )
    runs = _named(reports)
    found = [score_tables.rows(report) for report in reports]
    subjects = [rows[0] if rows else NOTHING for rows in found]
    others, unlike = _others(runs, found), differences(reports)
    measured = score_tables.names([*subjects, *(row for _, row in others)])
    evaluations = [part(report, "evaluation") for report in reports]
    album = Album()
    content = {
        "title": ", ".join(runs) if len(runs) <= 3 else f"{len(runs)} runs",
        "unlike": [(what, list(zip(runs, values, strict=True))) for what, values in unlike],
        "flags": [(run, flag) for run, evaluation in zip(runs, evaluations, strict=True)
                  for flag in listed(evaluation, "flags") if isinstance(flag, dict)],
        "measures": [score_tables.measure(name) for name in measured],
        "subjects": list(zip(runs, subjects, map(score_tables.cost, reports), strict=True)),
        "others": others,
        "marks": {} if unlike else {name: marks(name, subjects) for name in measured},
        "protocol": part(evaluations[0], "protocol"),
        "strips": _strips(runs, reports, exhibits, album),
        "curves": curves([(run, shown.history) for run, shown in zip(runs, exhibits, strict=True)]),
        "warnings": _warnings(runs, evaluations),
    }  # fmt: skip
    album.settle()
    return page("comparison.html", **content)


def differences(reports: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What keeps figures of ``reports`` from being held against one another: (what, its value in each)."""
    told = {
        "real images": lambda e: part(e, "real").get("digest") or part(e, "real").get("path"),
        "contents": lambda e: part(e, "content").get("digest"),
        "number of samples": lambda e: part(e, "settings").get("samples"),
        "protocol": lambda e: part(e, "protocol").get("name"),
        "truncation": lambda e: part(e, "settings").get("truncation"),
        "resolution": lambda e: part(e, "settings").get("resolution"),
        "fit": lambda e: part(e, "settings").get("fit"),
        "test of near copies": lambda e: part(e, "near_copy").get("space"),
    }
    found = []
    for what, read in told.items():
        values = [_recorded(read(part(report, "evaluation"))) for report in reports]
        if len(set(values)) > 1:
            found.append((what, values))
    weights = [part(report, "evaluation", "settings", "weights") for report in reports]
    for name in sorted(
        {name for each in weights for name in each}
    ):  # one may do without: its figures are absent
        values = [_recorded(part(each, name).get("sha256")) for each in weights]
        if len({value for value, each in zip(values, weights, strict=True) if name in each}) > 1:
            found.append((f"weights of {name}", values))
    return found


def marks(name: str, rows: Sequence[Row]) -> dict[int, str]:
    """Which of ``rows`` lead in a metric, by index: ``best``, or ``level`` where intervals overlap.

    Empty where fewer than two rows have the metric, or where it has no better end.
    """
    better = score_tables.measure(name).better
    values = {index: row.figures[name].value for index, row in enumerate(rows) if name in row.figures}
    if len(values) < 2 or not better:
        return {}
    top = min(values.values()) if better == "lower" else max(values.values())
    best = [index for index, value in values.items() if value == top]
    if len(best) == len(values):
        return {}
    marked = dict.fromkeys(best, "best")
    reach = [rows[index].bounds[name] for index in best if name in rows[index].bounds]
    for index in values.keys() - marked.keys():
        bounds = rows[index].bounds.get(name)
        if bounds and any(bounds[0] <= high and low <= bounds[1] for low, high in reach):
            marked[index] = "level"
    return marked


def _named(reports: Sequence[dict[str, Any]]) -> list[str]:
    """The runs' names, numbered where several have the same."""
    names = [score_tables.title(report) for report in reports]
    count, seen = Counter(names), Counter[str]()
    for index, name in enumerate(names):
        if count[name] > 1:
            seen[name] += 1
            names[index] = f"{name} ({seen[name]})"
    return names


def _others(runs: Sequence[str], rows: Sequence[list[Row]]) -> list[tuple[str, Row]]:
    """Rows of sources and reals, each once; named after their runs where they are not the same for all."""
    found: list[tuple[str, Row]] = []
    for run, (_, *rest) in zip(runs, (each or [NOTHING] for each in rows), strict=True):
        found += [(run, row) for row in rest if row not in [other for _, other in found]]
    count = Counter(row.name for _, row in found)
    named = [(f"{row.name} of {run}" if count[row.name] > 1 else row.name, row) for run, row in found]
    return sorted(named, key=lambda pair: pair[1].kind == "real")


def _warnings(runs: Sequence[str], evaluations: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each warning once, and whose it is."""
    found: dict[str, list[str]] = {}
    for run, evaluation in zip(runs, evaluations, strict=True):
        for line in dict.fromkeys(map(str, listed(evaluation, "warnings"))):
            found.setdefault(line, []).append(run)
    return list(found.items())


def _strips(
    runs: Sequence[str], reports: Sequence[dict[str, Any]], exhibits: Sequence[Exhibits], album: Album
) -> list[Strip]:
    """One strip a run, below that of its source, which is shown once where several runs share it.

    A run without pairs shows samples: a model's come from the same seeds, a folder's from anywhere.
    """
    strips: list[Strip] = []
    shown: Tensor | None = None
    for name, report, exhibit in zip(runs, reports, exhibits, strict=True):
        if exhibit.pairs is None:
            if exhibit.samples is not None:
                images = part(report, "evaluation", "what").get("kind") == "images"
                called = f"{name}, images of no latents" if images else name
                strips.append(Strip(called, album.all(exhibit.samples, 192, COLUMNS), loose=images))
            continue
        source, adapted = exhibit.pairs
        if shown is None or not (shown.shape == source.shape and torch.equal(shown, source)):
            origin = part(report, "evaluation", "source") or part(report, "run", "source")
            called = origin.get("title") or origin.get("name") or "source"
            strips.append(Strip(f"{called}, the source", album.all(source, 192, COLUMNS), origin=True))
            shown = source
        strips.append(Strip(name, album.all(adapted, 192, COLUMNS)))
    return strips


def _recorded(value: Any) -> str:
    return "not recorded" if value is None else plain(value)
