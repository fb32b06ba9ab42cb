"""The page of one report: samples, scores, training curves, configuration and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from torch import Tensor

from fsgen.pages import charts, score_tables
from fsgen.pages.contents import Cluster, Neighbour, PageContents
from fsgen.pages.embedded_images import EmbeddedImage, EmbeddedImages
from fsgen.pages.html import (
    flatten,
    format_duration,
    format_memory,
    is_number,
    render_template,
    sublist,
    subtree,
)

SAMPLES, SHOTS, REALS, PAIRS, NEIGHBOURS, CLUSTERS, MEMBERS = 48, 24, 24, 16, 24, 12, 8  # shown at most
GRID = 1536  # px: longest side of the run's grid of samples
_NOT_TERMS = ("step", "d", "g", "seconds", "time")  # of a line of log.jsonl; others have a chart of their own
_TERMS = {
    "distance": "energy distance of samples to the images",
    "ewc": "EWC penalty",
    "r1": "R1 penalty",
    "path": "path length penalty",
}


@dataclass(frozen=True)
class ProvenanceLine:
    """One line of the provenance."""

    what: str
    name: str
    licence: str
    hash: str


def render(report: dict[str, Any], contents: PageContents) -> str:
    """Render a report of schema ``fsgen-report/1``, HTML; absent parts are left out.

    A report without the part ``evaluation`` gives the page of a run that was trained and not evaluated.

    Raises:
        FsgenError: the images do not fit on a page of 3 MB.
    """
    evaluation, run = subtree(report, "evaluation"), subtree(report, "run")
    images, found = EmbeddedImages(), score_tables.score_rows(report)
    measured = score_tables.metric_names(found)
    left_out = subtree(evaluation, "left_out")
    content = {
        "title": score_tables.report_title(report),
        "about": _about(report),
        "date": report.get("date"),
        "summary": score_tables.summarise(report),
        "flags": [flag for flag in sublist(evaluation, "flags") if isinstance(flag, dict)],
        "rows": found,
        "measures": [score_tables.describe_metric(name) for name in measured],
        "terms": [score_tables.describe_metric(name) for name in dict.fromkeys([*measured, *left_out])],
        "protocol": subtree(evaluation, "protocol"),
        "near_copy": subtree(evaluation, "near_copy"),
        "curves": training_curves([("", contents.history)]),
        "layers": _layer_charts(contents),
        "configuration": _configuration(run, evaluation),
        "provenance": _provenance(run, evaluation),
        "warnings": sublist(evaluation, "warnings"),
        "left_out": _left_out(left_out),
        **_embed(contents, images),
    }
    images.encode()
    return render_template("report.html", **content)


def training_curves(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Markup]:
    """Charts of what runs logged: the losses, then each further term, one line a run.

    Args:
        runs: (name, lines of log.jsonl) of each run; a single run needs no name.
    """
    logged = dict.fromkeys(key for _, history in runs for line in history for key in line)
    terms = [key for key in logged if key not in _NOT_TERMS]
    if len(runs) == 1:
        history = runs[0][1]
        losses = {"discriminator": _points(history, "d"), "generator": _points(history, "g")}
        drawn = [charts.line_chart(losses, title="Losses", x="step", y="loss")]
    else:
        drawn = [
            charts.line_chart(
                {name: _points(history, key) for name, history in runs}, title=title, x="step", y="loss"
            )
            for key, title in (("d", "Discriminator loss"), ("g", "Generator loss"))
        ]
    for key in sorted(terms, key=lambda key: (key != "ewc", key)):
        series = {name: _points(history, key) for name, history in runs}
        title = _TERMS.get(key, key)
        log = charts.spans_decades([value for points in series.values() for _, value in points])
        drawn.append(charts.line_chart(series, title=title, x="step", y=title, log=log))
    return [chart for chart in drawn if chart]


def _about(report: dict[str, Any]) -> str:
    """``peeps64 adapted with ewc, 1,000 samples against 5,000 real images``."""
    evaluation = subtree(report, "evaluation")
    title = subtree(evaluation, "what").get("title")
    samples = subtree(evaluation, "settings").get("samples")
    real_images = subtree(evaluation, "real").get("count")
    counts = [f"{samples:,} samples"] if is_number(samples) else []
    counts += [f"{real_images:,} real images"] if is_number(real_images) else []
    return ", ".join(filter(None, [title and str(title), " against ".join(counts)]))


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (line["step"], line[key])
        for line in history
        if is_number(line.get("step")) and is_number(line.get(key))
    ]


def _layer_charts(contents: PageContents) -> list[Markup]:
    """Fisher information and rate of change, layer by layer."""
    drawn = []
    for values, title, x in (
        (contents.fisher, "Fisher information", "mean Fisher"),
        (contents.change, "Rate of change", "mean |change| / mean |weight|"),
    ):
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        log = charts.spans_decades([value for value in numbers.values() if value > 0])
        drawn.append(charts.bar_chart(numbers, title=title, x=x, log=log))
    return [chart for chart in drawn if chart]


# ---- images --------------------------------------------------------------------------------------------


def _embed(contents: PageContents, images: EmbeddedImages) -> dict[str, Any]:
    pairs: list[tuple[EmbeddedImage, EmbeddedImage]] = []
    if contents.pairs is not None:
        source, adapted = (images.add_all(part, 256, PAIRS) for part in contents.pairs)
        pairs = list(zip(source, adapted, strict=True))
    translations = [images.add_all(part, 192, PAIRS) for part in contents.translations or ()]
    return {
        "samples": _group(contents.samples, images, SAMPLES),
        "grid": None if contents.grid is None else images.add(contents.grid, GRID),
        "shots": _group(contents.shots, images, SHOTS),
        "real_images": _group(contents.real_images, images, REALS),
        "pairs": pairs,
        "translations": list(zip(*translations, strict=True)),
        "neighbours": [_neighbour(found, images) for found in contents.neighbours[:NEIGHBOURS]],
        "copies": sum(found.copy for found in contents.neighbours[:NEIGHBOURS]),
        "clusters": [_cluster(found, images) for found in contents.clusters[:CLUSTERS]],
        "all_clusters": len(contents.clusters),
    }


def _group(group: Tensor | None, images: EmbeddedImages, most: int) -> dict[str, Any]:
    """The first ``most`` images, and ``48 of 1,000`` or their number."""
    embedded = images.add_all(group, 256, most)
    n = 0 if group is None else len(group)
    return {"images": embedded, "count": f"{len(embedded)} of {n:,}" if len(embedded) < n else str(n)}


def _neighbour(found: Neighbour, images: EmbeddedImages) -> dict[str, Any]:
    return {
        "sample": images.add(found.sample, 192),
        "shot": images.add(found.shot, 192),
        "distance": charts.short_number(found.distance) if is_number(found.distance) else "?",
        "is_copy": found.copy,
        "seed": found.seed,
    }


def _cluster(found: Cluster, images: EmbeddedImages) -> dict[str, Any]:
    return {
        "shot": images.add(found.shot, 128),
        "members": images.add_all(found.members, 128, MEMBERS),
        "size": found.size,
        "value": score_tables.format_score("intra_lpips", found.value) if is_number(found.value) else None,
    }


# ---- text ----------------------------------------------------------------------------------------------


def _configuration(
    run: dict[str, Any], evaluation: dict[str, Any]
) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Headed lists of name and value, without those in the provenance."""
    elsewhere = {"model", "source", "images", "cost", "method"}
    training = {name: value for name, value in run.items() if name not in elsewhere}
    settings = {name: value for name, value in subtree(evaluation, "settings").items() if name != "weights"}
    settings["time"] = format_duration(evaluation.get("seconds"))
    spent = subtree(run, "cost")
    cost = {name: value for name, value in spent.items() if name not in ("seconds", "peak_rss_mb")}
    cost |= {
        "time": format_duration(spent.get("seconds")),
        "peak memory": format_memory(spent.get("peak_rss_mb")),
    }
    headed = (
        ("Method", flatten(subtree(run, "method"))), ("Training", flatten(training)),
        ("Cost", flatten(cost)), ("Evaluation", flatten(settings)),
        ("Near copies", flatten(subtree(evaluation, "near_copy"))),
    )  # fmt: skip
    return [(head, pairs) for head, pairs in headed if pairs]


def _left_out(left_out: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Metrics left out for the same reason, the reason, and the remedy."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name in left_out:
        reason = subtree(left_out, name)
        key = (str(reason.get("why") or "no reason recorded"), str(reason.get("remedy") or ""))
        grouped.setdefault(key, []).append(score_tables.describe_metric(name).title)
    return [(", ".join(names), why, remedy) for (why, remedy), names in grouped.items()]


def _provenance(run: dict[str, Any], evaluation: dict[str, Any]) -> list[ProvenanceLine]:
    what, real, content, shots = (subtree(evaluation, key) for key in ("what", "real", "content", "shots"))
    source = subtree(run, "source") or subtree(evaluation, "source")
    weights = subtree(evaluation, "settings", "weights")
    entries = [
        ("model" if what.get("kind") != "images" else "images", what or subtree(run, "model")),
        ("source", source),
        ("training images", shots or subtree(run, "images")),
        ("real images", real),
        ("contents", content),
        *((f"weights: {name}", subtree(weights, name)) for name in weights),
    ]
    return [_provenance_line(name, entry) for name, entry in entries if entry]


def _provenance_line(what: str, entry: dict[str, Any]) -> ProvenanceLine:
    named = next((str(entry[key]) for key in ("title", "name", "path", "file") if entry.get(key)), "")
    count = f"{entry['count']:,} images" if is_number(entry.get("count")) else ""
    skipped = f"{entry['skipped']} skipped" if entry.get("skipped") else ""
    found = next((str(entry[key]) for key in ("hash", "digest", "sha256") if entry.get(key)), "")
    return ProvenanceLine(
        what, ", ".join(filter(None, [named, count, skipped])), str(entry.get("licence") or ""), found
    )
