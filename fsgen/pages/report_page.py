"""The page of one evaluation: what was made, how good it is, how it was told, and where all came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fsgen.pages import charts, score_tables
from fsgen.pages.contents import Cluster, Exhibits, Neighbour
from fsgen.pages.embedded_images import Album, Thumb
from fsgen.pages.html import duration, flat, is_number, listed, memory, page, part

SAMPLES, SHOTS, REALS, PAIRS, NEIGHBOURS, CLUSTERS, MEMBERS = 48, 24, 24, 16, 24, 12, 8  # shown at most
_NOT_TERMS = ("step", "d", "g", "seconds", "time")  # of a line of log.jsonl: all else has a chart of its own
_TERMS = {
    "distance": "energy distance of samples to the images",
    "ewc": "EWC penalty",
    "r1": "R1 penalty",
    "path": "path length penalty",
}


@dataclass(frozen=True)
class Origin:
    """One line of the provenance."""

    what: str
    name: str
    licence: str
    hash: str


def render(report: dict[str, Any], exhibits: Exhibits) -> str:
    """The page, HTML, of a report of schema ``fsgen-report/1``; whatever is absent from it is left out.

    Raises:
        FsgenError: the pictures do not fit on a page of 3 MB.
    """
    evaluation, run = part(report, "evaluation"), part(report, "run")
    album, found = Album(), score_tables.rows(report)
    measured = score_tables.names(found)
    left_out = part(evaluation, "left_out")
    content = {
        "title": score_tables.title(report),
        "about": _about(report),
        "date": report.get("date"),
        "verdict": score_tables.verdict(report),
        "flags": [flag for flag in listed(evaluation, "flags") if isinstance(flag, dict)],
        "rows": found,
        "measures": [score_tables.measure(name) for name in measured],
        "terms": [score_tables.measure(name) for name in dict.fromkeys([*measured, *left_out])],
        "protocol": part(evaluation, "protocol"),
        "near_copy": part(evaluation, "near_copy"),
        "curves": curves([("", exhibits.history)]),
        "layers": _layers(exhibits),
        "configuration": _configuration(run, evaluation),
        "provenance": _provenance(run, evaluation),
        "warnings": listed(evaluation, "warnings"),
        "left_out": _left_out(left_out),
        **_pictures(exhibits, album),
    }
    album.settle()
    return page("report.html", **content)


def curves(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Markup]:
    """Charts of what runs logged: the losses, then each further term; lines are named after their runs.

    Args:
        runs: (name, lines of log.jsonl) of each run; a single run needs no name.
    """
    logged = dict.fromkeys(key for _, history in runs for line in history for key in line)
    terms = [key for key in logged if key not in _NOT_TERMS]
    if len(runs) == 1:
        history = runs[0][1]
        losses = {"discriminator": _points(history, "d"), "generator": _points(history, "g")}
        drawn = [charts.lines(losses, title="Losses", x="step", y="loss")]
    else:
        players = (("d", "Discriminator loss"), ("g", "Generator loss"))
        drawn = [
            charts.lines(
                {name: _points(history, key) for name, history in runs}, title=title, x="step", y="loss"
            )
            for key, title in players
        ]
    for key in sorted(terms, key=lambda key: (key != "ewc", key)):
        series = {name: _points(history, key) for name, history in runs}
        title = _TERMS.get(key, key)
        log = charts.spread([value for points in series.values() for _, value in points])
        drawn.append(charts.lines(series, title=title, x="step", y=title, log=log))
    return [chart for chart in drawn if chart]


def shown_of(shown: int, n: int) -> str:
    """``48 of 1,000``, or how many there are if all are shown."""
    return f"{shown} of {n:,}" if shown < n else str(n)


def _about(report: dict[str, Any]) -> str:
    """``peeps64 adapted with ewc, 1,000 samples against 5,000 reals``."""
    evaluation = part(report, "evaluation")
    said = part(evaluation, "what").get("title")
    samples, real_images = part(evaluation, "settings").get("samples"), part(evaluation, "real").get("count")
    counts = [f"{samples:,} samples"] if is_number(samples) else []
    counts += [f"{real_images:,} real images"] if is_number(real_images) else []
    return ", ".join(filter(None, [said and str(said), " against ".join(counts)]))


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (line["step"], line[key])
        for line in history
        if is_number(line.get("step")) and is_number(line.get(key))
    ]


def _layers(exhibits: Exhibits) -> list[Markup]:
    """Fisher and rate of change, layer by layer."""
    told = (
        (exhibits.fisher, "Fisher information", "mean Fisher"),
        (exhibits.change, "Rate of change", "mean |change| / mean |weight|"),
    )
    drawn = []
    for values, title, x in told:
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        log = charts.spread([value for value in numbers.values() if value > 0])
        drawn.append(charts.bars(numbers, title=title, x=x, log=log))
    return [chart for chart in drawn if chart]


# ---- pictures ------------------------------------------------------------------------------------------


def _pictures(exhibits: Exhibits, album: Album) -> dict[str, Any]:
    pairs: list[tuple[Thumb, Thumb]] = []
    if exhibits.pairs is not None:
        source, adapted = (album.all(images, 256, PAIRS) for images in exhibits.pairs)
        pairs = list(zip(source, adapted, strict=True))
    several = exhibits.translations or ()
    translations = [album.all(images, 192, PAIRS) for images in several]
    return {
        "samples": _group(exhibits.samples, album, SAMPLES),
        "shots": _group(exhibits.shots, album, SHOTS),
        "reals": _group(exhibits.real_images, album, REALS),
        "pairs": pairs,
        "translations": list(zip(*translations, strict=True)),
        "neighbours": [_neighbour(found, album) for found in exhibits.neighbours[:NEIGHBOURS]],
        "copies": sum(found.copy for found in exhibits.neighbours[:NEIGHBOURS]),
        "clusters": [_cluster(found, album) for found in exhibits.clusters[:CLUSTERS]],
        "clusters_in_all": len(exhibits.clusters),
    }


def _group(images: Any, album: Album, most: int) -> dict[str, Any]:
    thumbs = album.all(images, 256, most)
    return {"thumbs": thumbs, "count": shown_of(len(thumbs), 0 if images is None else len(images))}


def _neighbour(found: Neighbour, album: Album) -> dict[str, Any]:
    return {
        "sample": album.add(found.sample, 192),
        "shot": album.add(found.shot, 192),
        "distance": charts.number(found.distance) if is_number(found.distance) else "?",
        "is_copy": found.copy,
        "seed": found.seed,
    }


def _cluster(found: Cluster, album: Album) -> dict[str, Any]:
    return {
        "shot": album.add(found.shot, 128),
        "members": album.all(found.members, 128, MEMBERS),
        "size": found.size,
        "value": score_tables.text("intra_lpips", found.value) if is_number(found.value) else None,
    }


# ---- words ---------------------------------------------------------------------------------------------


def _configuration(
    run: dict[str, Any], evaluation: dict[str, Any]
) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Headed lists of name and value; what the provenance says is left to it."""
    elsewhere = {"model", "source", "images", "cost", "method"}
    training = {name: value for name, value in run.items() if name not in elsewhere}
    settings = {name: value for name, value in part(evaluation, "settings").items() if name != "weights"}
    settings["time"] = duration(evaluation.get("seconds"))
    spent = part(run, "cost")
    cost = {name: value for name, value in spent.items() if name not in ("seconds", "peak_rss_mb")}
    cost |= {"time": duration(spent.get("seconds")), "peak memory": memory(spent.get("peak_rss_mb"))}
    headed = (
        ("Method", flat(part(run, "method"))), ("Training", flat(training)),
        ("Cost", flat(cost)), ("Evaluation", flat(settings)),
        ("Near copies", flat(part(evaluation, "near_copy"))),
    )  # fmt: skip
    return [(head, pairs) for head, pairs in headed if pairs]


def _left_out(left_out: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Metrics that are absent for one reason, why, and what to do."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name in left_out:
        reason = part(left_out, name)
        said = (str(reason.get("why") or "not said why"), str(reason.get("remedy") or ""))
        grouped.setdefault(said, []).append(score_tables.measure(name).title)
    return [(", ".join(names), why, remedy) for (why, remedy), names in grouped.items()]


def _provenance(run: dict[str, Any], evaluation: dict[str, Any]) -> list[Origin]:
    what, real, content, shots = (part(evaluation, key) for key in ("what", "real", "content", "shots"))
    source = part(run, "source") or part(evaluation, "source")
    weights = part(evaluation, "settings", "weights")
    told = [
        ("model" if what.get("kind") != "images" else "images", what or part(run, "model")),
        ("source", source),
        ("training images", shots or part(run, "images")),
        ("real images", real),
        ("contents", content),
        *((f"weights: {name}", part(weights, name)) for name in weights),
    ]
    return [_origin(name, entry) for name, entry in told if entry]


def _origin(what: str, entry: dict[str, Any]) -> Origin:
    named = next((str(entry[key]) for key in ("title", "name", "path", "file") if entry.get(key)), "")
    count = f"{entry['count']:,} images" if is_number(entry.get("count")) else ""
    skipped = f"{entry['skipped']} skipped" if entry.get("skipped") else ""
    found = next((str(entry[key]) for key in ("hash", "digest", "sha256") if entry.get(key)), "")
    return Origin(
        what, ", ".join(filter(None, [named, count, skipped])), str(entry.get("licence") or ""), found
    )
