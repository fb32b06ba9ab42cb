"""The page of several runs: one table, samples of the same latents, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.pages import score_tables
from fsgen.pages.contents import PageContents
from fsgen.pages.embedded_images import EmbeddedImage, EmbeddedImages
from fsgen.pages.html import format_plain, render_template, sublist, subtree
from fsgen.pages.report_page import training_curves
from fsgen.pages.score_tables import ScoreRow

COLUMNS = 8  # latents shown
NO_SCORES = ScoreRow("", "subject", None, {}, {})  # of a run that was not evaluated


@dataclass(frozen=True)
class Strip:
    """Samples of one model, one latent each."""

    name: str
    images: list[EmbeddedImage]
    is_source: bool = False
    unpaired: bool = False  # image files, which have no latents


def render(reports: list[dict[str, Any]], contents: list[PageContents]) -> str:
    """Render runs in the order given, HTML: reports of schema ``fsgen-report/1`` and their images.

    Raises:
        FsgenError: no reports, or not as many contents; the images do not fit on a page of 3 MB.
    """
    if not reports or len(reports) != len(contents):
        raise FsgenError(f"{len(reports)} reports need as many contents, got {len(contents)}",
                         where=len(contents), hint="give one of each for every run")  # fmt: skip
    runs = _distinct_names(reports)
    found = [score_tables.score_rows(report) for report in reports]
    subjects = [rows[0] if rows else NO_SCORES for rows in found]
    others, unlike = _other_rows(runs, found), differences(reports)
    measured = score_tables.metric_names([*subjects, *(row for _, row in others)])
    evaluations = [subtree(report, "evaluation") for report in reports]
    images = EmbeddedImages()
    content = {
        "title": ", ".join(runs) if len(runs) <= 3 else f"{len(runs)} runs",
        "unlike": [(what, list(zip(runs, values, strict=True))) for what, values in unlike],
        "flags": [(run, flag) for run, evaluation in zip(runs, evaluations, strict=True)
                  for flag in sublist(evaluation, "flags") if isinstance(flag, dict)],
        "measures": [score_tables.describe_metric(name) for name in measured],
        "subjects": list(zip(runs, subjects, map(score_tables.run_cost, reports), strict=True)),
        "others": others,
        "ranks": {} if unlike else {name: best_rows(name, subjects) for name in measured},
        "protocol": subtree(evaluations[0], "protocol"),
        "strips": _strips(runs, reports, contents, images),
        "curves": training_curves([(run, one.history) for run, one in zip(runs, contents, strict=True)]),
        "warnings": _warnings(runs, evaluations),
    }  # fmt: skip
    images.encode()
    return render_template("comparison.html", **content)


def differences(reports: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Settings that differ and make scores incomparable: (setting, its value in each report)."""
    settings = {
        "real images": lambda e: subtree(e, "real").get("digest") or subtree(e, "real").get("path"),
        "contents": lambda e: subtree(e, "content").get("digest"),
        "number of samples": lambda e: subtree(e, "settings").get("samples"),
        "protocol": lambda e: subtree(e, "protocol").get("name"),
        "truncation": lambda e: subtree(e, "settings").get("truncation"),
        "resolution": lambda e: subtree(e, "settings").get("resolution"),
        "fit": lambda e: subtree(e, "settings").get("fit"),
        "test of near copies": lambda e: subtree(e, "near_copy").get("space"),
    }
    found = []
    for setting, read in settings.items():
        values = [_recorded(read(subtree(report, "evaluation"))) for report in reports]
        if len(set(values)) > 1:
            found.append((setting, values))
    weights = [subtree(report, "evaluation", "settings", "weights") for report in reports]
    for name in sorted({name for each in weights for name in each}):  # a report without it lacks those scores
        values = [_recorded(subtree(each, name).get("sha256")) for each in weights]
        if len({value for value, each in zip(values, weights, strict=True) if name in each}) > 1:
            found.append((f"weights of {name}", values))
    return found


def best_rows(name: str, rows: Sequence[ScoreRow]) -> dict[int, str]:
    """Leading rows of a metric by index: ``best``, or ``level`` if its interval overlaps the best one's.

    Empty if fewer than two rows have the metric, if all are equal, or if neither direction is better.
    """
    better = score_tables.describe_metric(name).better
    values = {index: row.scores[name].value for index, row in enumerate(rows) if name in row.scores}
    if len(values) < 2 or not better:
        return {}
    top = min(values.values()) if better == "lower" else max(values.values())
    best = [index for index, value in values.items() if value == top]
    if len(best) == len(values):
        return {}
    ranks = dict.fromkeys(best, "best")
    reach = [rows[index].bounds[name] for index in best if name in rows[index].bounds]
    for index in values.keys() - ranks.keys():
        bounds = rows[index].bounds.get(name)
        if bounds and any(bounds[0] <= high and low <= bounds[1] for low, high in reach):
            ranks[index] = "level"
    return ranks


def _distinct_names(reports: Sequence[dict[str, Any]]) -> list[str]:
    """The runs' names; equal ones are numbered."""
    names = [score_tables.report_title(report) for report in reports]
    count, used = Counter(names), Counter[str]()
    for index, name in enumerate(names):
        if count[name] > 1:
            used[name] += 1
            names[index] = f"{name} ({used[name]})"
    return names


def _other_rows(runs: Sequence[str], rows: Sequence[list[ScoreRow]]) -> list[tuple[str, ScoreRow]]:
    """Rows of sources and real images, without repetitions; named after their runs if they differ."""
    found: list[tuple[str, ScoreRow]] = []
    for run, (_, *rest) in zip(runs, (each or [NO_SCORES] for each in rows), strict=True):
        found += [(run, row) for row in rest if row not in [other for _, other in found]]
    count = Counter(row.name for _, row in found)
    named = [(f"{row.name} of {run}" if count[row.name] > 1 else row.name, row) for run, row in found]
    return sorted(named, key=lambda pair: pair[1].kind == "real")


def _warnings(runs: Sequence[str], evaluations: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each warning once, with the runs that have it."""
    found: dict[str, list[str]] = {}
    for run, evaluation in zip(runs, evaluations, strict=True):
        for line in dict.fromkeys(map(str, sublist(evaluation, "warnings"))):
            found.setdefault(line, []).append(run)
    return list(found.items())


def _strips(
    runs: Sequence[str], reports: Sequence[dict[str, Any]], contents: Sequence[PageContents],
    images: EmbeddedImages,
) -> list[Strip]:  # fmt: skip
    """One strip a run, below its source's, which is shown once for consecutive runs that share it.

    A run without pairs shows samples: a model's are of the same seeds, image files are unpaired.
    """
    strips: list[Strip] = []
    shown: Tensor | None = None
    for name, report, content in zip(runs, reports, contents, strict=True):
        if content.pairs is None:
            if content.samples is not None:
                files = subtree(report, "evaluation", "what").get("kind") == "images"
                title = f"{name}, images of no latents" if files else name
                embedded = images.add_all(content.samples, 192, COLUMNS)
                strips.append(Strip(title, embedded, unpaired=files))
            continue
        source, adapted = content.pairs
        if shown is None or not (shown.shape == source.shape and torch.equal(shown, source)):
            about = subtree(report, "evaluation", "source") or subtree(report, "run", "source")
            title = f"{about.get('title') or about.get('name') or 'source'}, the source"
            strips.append(Strip(title, images.add_all(source, 192, COLUMNS), is_source=True))
            shown = source
        strips.append(Strip(name, images.add_all(adapted, 192, COLUMNS)))
    return strips


def _recorded(value: object) -> str:
    return "not recorded" if value is None else format_plain(value)
