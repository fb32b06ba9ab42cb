"""Write the files of an evaluation: report.json, report.html, study.html."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fsgen.atomic import write_text
from fsgen.errors import FsgenError
from fsgen.evaluation.accumulators import Collected, required, thumbnails
from fsgen.evaluation.result import Evaluation
from fsgen.io import report_json
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import RunFolder
from fsgen.models import fisher_cache
from fsgen.models import model as models
from fsgen.pages import report_page, study_page
from fsgen.pages.contents import Cluster, Neighbour, PageContents
from fsgen.sampling import sampler

GRID = 48  # samples on a page
PAIRS = 16
GALLERY = 12  # nearest neighbours
MEMBERS = 6  # samples of a cluster
ROUNDS = 10  # of the study (Li et al. 2020)


def report_folder(path: str | Path, out: Path | None, *, study: bool) -> Path | None:
    """Choose the folder for the report of ``path``: ``out``, else the run's own, else None.

    Raises:
        FsgenError: it cannot be written to, or a study was requested without a folder.
    """
    if out is None and RunFolder.at(path):
        out = Path(path)
    if out is None and study:
        raise FsgenError("--study needs a folder to write to", where="--study", hint="--out FOLDER")
    if out is not None and out.suffix.lower() in (".json", ".html"):
        raise FsgenError(f"--out must be a folder, not {out.name}", where="--out",
                         hint="it receives report.json and report.html")  # fmt: skip
    return None if out is None else make_folder(out)


def write_evaluation(found: Evaluation, folder: Path, *, study: bool = False) -> list[Path]:
    """Write report.json, report.html and, if requested, study.html; return their paths.

    Raises:
        FsgenError: full disk, unwritable folder, or a report.json there that is not fsgen's.
    """
    written = [folder / report_json.NAME, folder / "report.html"]
    run = RunFolder.at(found.path)
    parts: dict[str, Any] = {"title": found.path, "evaluation": found.plain()}
    if run is not None and folder != run.path:
        parts |= {"run": (report_json.read_report(run.path) or {}).get("run")}
    report = report_json.update(folder, parts)
    write_text(written[1], report_page.render(report, page_contents(found, report, run)))
    if study:
        written.append(folder / "study.html")
        real_images, generated = (found.collected[kind].thumbnails.value for kind in ("real", "subject"))
        write_text(written[2], study_page.render(real_images, generated, title=found.path, rounds=ROUNDS,
                                             seed=found.settings["seed"]))  # fmt: skip
    return written


def page_contents(found: Evaluation, report: dict[str, Any], run: RunFolder | None) -> PageContents:
    """Collect the images and curves of a report page."""
    images = {kind: collected.thumbnails.value for kind, collected in found.collected.items()}
    pairs = translations = None
    if "source" in images and found.what["kind"] == "model":
        pairs = (images["source"][:PAIRS], images["subject"][:PAIRS])
    if found.content is not None:
        translations = (images["content"][:PAIRS], images["shot"][:PAIRS], images["subject"][:PAIRS])
    ran = report.get("run") or {}
    return PageContents(
        samples=images["subject"][:GRID],
        shots=None if found.training is None else thumbnails(found.training.pixels[:20]),
        real_images=images["real"][:20],
        pairs=pairs,
        translations=translations,
        neighbours=_neighbours(found, found.collected["subject"]),
        clusters=_clusters(found, found.collected["subject"]),
        history=[] if run is None else run.history(),
        fisher=_fisher(found, ran),
        change=ran.get("rate_of_change") or {},
    )


def _neighbours(found: Evaluation, subject: Collected) -> list[Neighbour]:
    """The samples nearest to a training image, nearest first."""
    if found.near_copy is None:
        return []
    samples, shots = subject.thumbnails.value, required(found.training).pixels
    judged = required(subject.discriminator)
    distances = judged.distances[: len(samples)]
    seed = found.settings["seed"] if found.what["kind"] == "model" else None
    return [
        Neighbour(
            sample=samples[row], shot=thumbnails(shots[judged.shots[row]][None])[0],
            distance=distances[row].item(), copy=distances[row].item() < found.near_copy["threshold"],
            seed=None if seed is None else seed + int(row),
        )
        for row in distances.argsort()[:GALLERY]
    ]  # fmt: skip


def _clusters(found: Evaluation, subject: Collected) -> list[Cluster]:
    """The samples grouped by the training image nearest in LPIPS."""
    if subject.clusters is None:
        return []
    samples, clusters = subject.thumbnails.value, subject.clusters.clusters
    shots, sizes, values = required(found.training).pixels, clusters.sizes, clusters.values
    return [
        Cluster(
            shot=thumbnails(shots[k][None])[0],
            members=samples[[row for row in rows if row < len(samples)][:MEMBERS]],
            size=int(sizes[k]), value=None if math.isnan(values[k]) else float(values[k]),
        )
        for k, rows in enumerate(clusters.members)
    ]  # fmt: skip


def _fisher(found: Evaluation, ran: dict[str, Any]) -> dict[str, float]:
    """Mean Fisher per layer from the cache, if the run used EWC; a new estimate would take long."""
    options = ran.get("method", {}).get("ewc")
    if not options:
        return {}
    try:
        source = sampler.source_of(models.load_model(found.path))
    except FsgenError:
        return {}
    kept = fisher_cache.cached(source, samples=options["samples"], proxy=options["proxy"], seed=ran["seed"])
    return {} if kept is None else kept.by_layer()
