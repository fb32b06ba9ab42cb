"""Compare several runs: one table, and one page with samples of the same latents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import fsgen
from fsgen.atomic import write_text
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, FsgenError
from fsgen.evaluation import image_sets
from fsgen.evaluation.accumulators import thumbnails
from fsgen.evaluation.evaluate import evaluate
from fsgen.evaluation.report import page_contents
from fsgen.evaluation.result import Evaluation
from fsgen.io import report_json
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import RunFolder
from fsgen.pages import comparison_page
from fsgen.pages.contents import PageContents
from fsgen.sampling import sampler

SCHEMA = "fsgen-comparison/1"
NAME = "comparison"
COLUMNS = 8  # samples of the same seeds, one row a run


@dataclass(frozen=True)
class Comparison:
    """Reports side by side."""

    reports: list[dict[str, Any]]
    contents: list[PageContents]

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        return {
            "schema": SCHEMA, "fsgen": fsgen.__version__, "date": date.today().isoformat(),
            "reports": self.reports,
        }  # fmt: skip

    def write(self, folder: Path) -> list[Path]:
        """Write comparison.json and comparison.html; return their paths."""
        texts = {
            make_folder(folder) / f"{NAME}.json": json.dumps(self.plain(), indent=2) + "\n",
            folder / f"{NAME}.html": comparison_page.render(self.reports, self.contents),
        }
        for path, text in texts.items():
            write_text(path, text)
        return list(texts)


def compare(
    paths: Sequence[str | Path],
    *,
    real: str | Path | None = None,
    device: str = "auto",
    dry_run: bool = False,
    callbacks: Callbacks | None = None,
    **options: Any,
) -> Comparison | dict[str, Any]:
    """Put evaluations side by side.

    Args:
        paths: runs, models or folders of images.
        real: evaluate all of them now against these real images; None: use the reports of ``fsgen eval``.
        device: auto, cpu, cuda or mps.
        dry_run: check everything, compute nothing, return the resolved options of each path.
        callbacks: for messages and progress.
        options: of ``evaluate``; they need ``real``.

    Raises:
        FsgenError: fewer than two paths; without ``real``: options, or a path not evaluated yet.
    """
    callbacks = callbacks or Callbacks()
    if len(paths) < 2:
        raise FsgenError(f"cannot compare {len(paths)} path: give at least 2", code=Code.TOO_FEW,
                         where=" ".join(map(str, paths)), hint="fsgen compare runs/a runs/b")  # fmt: skip
    if real is None and options:
        flag = f"--{next(iter(options)).replace('_', '-')}"
        raise FsgenError(f"{flag} has no effect without --real", where=flag,
                         hint="add --real DIR to evaluate all of them now")  # fmt: skip
    if dry_run:
        plans = {str(path): _plan(path, real, device, callbacks, options) for path in paths}
        return {"real": real and str(real), "runs": plans}
    if real is None:
        found = [_stored(path, device) for path in paths]
    else:
        found = [_evaluated(path, real, device, callbacks, options) for path in paths]
    return Comparison([report for report, _ in found], [contents for _, contents in found])


def _plan(
    path: str | Path, real: str | Path | None, device: str, callbacks: Callbacks, options: dict[str, Any]
) -> dict[str, Any]:
    """The resolved options of a new evaluation, or those of the stored one."""
    if real is None:
        evaluation = _read(Path(path))["evaluation"]
        return {**evaluation["settings"], "metrics": list(evaluation["rows"][0]["metrics"]),
                "protocol": evaluation["protocol"]["name"]}  # fmt: skip
    plan = evaluate(path, real=real, device=device, dry_run=True, callbacks=callbacks, **options)
    assert isinstance(plan, dict)
    return plan


def _evaluated(
    path: str | Path, real: str | Path, device: str, callbacks: Callbacks, options: dict[str, Any]
) -> tuple[dict[str, Any], PageContents]:
    """Evaluate ``path`` now."""
    callbacks.say(f"evaluating {path}")
    found = evaluate(path, real=real, device=device, callbacks=callbacks, **options)
    assert isinstance(found, Evaluation)
    run = RunFolder.at(path)
    report = {"title": str(path), "evaluation": found.plain()}
    kept = {} if run is None else report_json.read_report(run.path) or {}
    report |= {"run": kept["run"]} if "run" in kept else {}
    return report, page_contents(found, report, run)


def _read(path: Path) -> dict[str, Any]:
    """The report that ``fsgen eval`` wrote in the folder ``path``."""
    report = report_json.read_report(path) if path.is_dir() else None
    if not report or "evaluation" not in report:
        raise FsgenError(
            f"{path} was not evaluated yet", code=Code.NOT_FOUND, where=path,
            hint=f"fsgen eval {path} --real DIR, or evaluate all of them here with --real DIR",
        )  # fmt: skip
    return report


def _stored(path: str | Path, device: str) -> tuple[dict[str, Any], PageContents]:
    """The report in the folder ``path``, with new samples of the model."""
    report = {**_read(Path(path)), "title": str(path)}
    run = RunFolder.at(path)
    history = [] if run is None else run.history()
    subject = report["evaluation"]["path"]
    if image_sets.is_images(subject):
        return report, PageContents()
    loaded = sampler.load(subject, device=device)
    if not loaded.conditioning.draws_alone:  # it needs contents
        return report, PageContents(history=history)
    samples = thumbnails(loaded.sample(COLUMNS))
    pairs = None
    if loaded.model.about.get("source"):
        source = sampler.ready(sampler.source_of(loaded.model), device)
        pairs = (thumbnails(source.sample(COLUMNS)), samples)
    return report, PageContents(samples=samples, pairs=pairs, history=history)
