"""From an evaluation to the files people read: report.json, report.html, study.html."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fsgen.atomic import atomic
from fsgen.errors import FsgenError
from fsgen.evaluation.accumulators import thumbnails
from fsgen.evaluation.result import Evaluation
from fsgen.evaluation.scores import Seen
from fsgen.io import report_json
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import RunFolder
from fsgen.models import fisher_cache
from fsgen.models import model as models
from fsgen.pages import report_page as page
from fsgen.pages import study_page as game
from fsgen.pages.contents import Cluster, Exhibits, Neighbour
from fsgen.sampling import sampler as pictures

GRID = 48  # samples on a page
PAIRS = 16
GALLERY = 12  # nearest neighbours
MEMBERS = 6  # pictures of a cluster
ROUNDS = 10  # of the study (Li et al. 2020)


def folder(path: str | Path, out: Path | None, *, study: bool) -> Path | None:
    """Where the report of ``path`` goes: ``out``, else the run's own folder, else nowhere.

    Raises:
        FsgenError: it cannot be written to, or a study was asked for and has no place.
    """
    if out is None and RunFolder.at(path):
        out = Path(path)
    if out is None and study:
        raise FsgenError("--study writes a page: say where", hint="--out FOLDER")
    if out is not None and out.suffix.lower() in (".json", ".html"):
        raise FsgenError(f"--out is a folder for report.json and report.html, not {out.name}")
    return None if out is None else make_folder(out)


def write(found: Evaluation, folder: Path, *, study: bool = False) -> list[Path]:
    """Write report.json, report.html and, if asked for, study.html; what was written.

    Raises:
        FsgenError: full disk, unwritable folder, or a report there that is none of ours.
    """
    written = [folder / report_json.NAME, folder / "report.html"]
    run = RunFolder.at(found.path)
    parts = {"title": found.path, "evaluation": found.plain()}
    if run is not None and folder != run.path:
        parts |= {"run": (report_json.read_report(run.path) or {}).get("run")}
    report = report_json.update(folder, parts)
    _write(written[1], page.render(report, exhibits(found, report, run)))
    if study:
        written.append(folder / "study.html")
        _write(written[2], _study(found))
    return written


def exhibits(found: Evaluation, report: dict[str, Any], run: RunFolder | None) -> Exhibits:
    """The pictures and curves of a report."""
    subject, source, real = (found.seen.get(kind) for kind in ("subject", "source", "real"))
    album = subject.album.value
    pairs = None
    if source is not None and found.what["kind"] == "model":
        pairs = (source.album.value[:PAIRS], album[:PAIRS])
    ran = report.get("run") or {}
    translations = None
    if found.content is not None:
        parts = (found.seen[kind].album.value[:PAIRS] for kind in ("content", "shot", "subject"))
        translations = tuple(parts)
    return Exhibits(
        samples=album[:GRID],
        shots=None if found.training is None else thumbnails(found.training.pixels[:20]),
        real_images=real.album.value[:20],
        pairs=pairs,
        translations=translations,
        neighbours=_neighbours(found, subject),
        clusters=_clusters(found, subject),
        history=[] if run is None else run.history(),
        fisher=_fisher(found, ran),
        change=ran.get("rate_of_change") or {},
    )


def _neighbours(found: Evaluation, subject: Seen) -> list[Neighbour]:
    """The samples that come nearest to a training image, nearest first."""
    if found.near_copy is None:
        return []
    album, shots = subject.album.value, found.training.pixels
    distances = subject.judged.distances[: len(album)]
    seed = found.settings["seed"] if found.what["kind"] == "model" else None
    return [
        Neighbour(
            sample=album[row], shot=thumbnails(shots[subject.judged.shots[row]][None])[0],
            distance=distances[row].item(), copy=distances[row].item() < found.near_copy["threshold"],
            seed=None if seed is None else seed + int(row),
        )
        for row in distances.argsort()[:GALLERY]
    ]  # fmt: skip


def _clusters(found: Evaluation, subject: Seen) -> list[Cluster]:
    """The samples by the training image they are most like."""
    if subject.groups is None:
        return []
    album, clusters = subject.album.value, subject.groups.clusters
    sizes, values = clusters.sizes, clusters.values
    return [
        Cluster(
            shot=thumbnails(found.training.pixels[k][None])[0],
            members=album[[row for row in rows if row < len(album)][:MEMBERS]],
            size=int(sizes[k]), value=None if math.isnan(values[k]) else float(values[k]),
        )
        for k, rows in enumerate(clusters.members)
    ]  # fmt: skip


def _fisher(found: Evaluation, ran: dict[str, Any]) -> dict[str, float]:
    """Mean Fisher per layer that the run used, where it is still in the cache: it takes long to estimate."""
    options = ran.get("method", {}).get("ewc")
    if not options:
        return {}
    try:
        source = pictures.source_of(models.load(found.path))
    except FsgenError:
        return {}
    kept = fisher_cache.cached(source, samples=options["samples"], proxy=options["proxy"], seed=ran["seed"])
    return {} if kept is None else kept.by_layer()


def _study(found: Evaluation) -> str:
    generated, real_images = (found.seen[kind].album.value for kind in ("subject", "real"))
    return game.render(real_images, generated, title=found.path, rounds=ROUNDS, seed=found.settings["seed"])


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
