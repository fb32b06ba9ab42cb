"""``fsgen compare``: many runs in one table and on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import fsgen
from fsgen.atomic import atomic
from fsgen.callbacks import Callbacks
from fsgen.errors import FsgenError
from fsgen.evaluation import image_sets
from fsgen.evaluation import report as exhibiting
from fsgen.evaluation.accumulators import thumbnails
from fsgen.evaluation.evaluate import evaluate
from fsgen.io import report_json
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import RunFolder
from fsgen.pages import comparison_page as page
from fsgen.pages.contents import Exhibits
from fsgen.sampling import sampler as pictures

SCHEMA = "fsgen-comparison/1"
NAME = "comparison"
COLUMNS = 8  # pictures of the same seeds, a row for each run


@dataclass(frozen=True)
class Comparison:
    """Reports side by side."""

    reports: list[dict[str, Any]]
    exhibits: list[Exhibits]

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        return {
            "schema": SCHEMA, "fsgen": fsgen.__version__, "date": date.today().isoformat(),
            "reports": self.reports,
        }  # fmt: skip

    def write(self, folder: Path) -> list[Path]:
        """Write comparison.json and comparison.html; what was written."""
        texts = {
            make_folder(folder) / f"{NAME}.json": json.dumps(self.plain(), indent=2) + "\n",
            folder / f"{NAME}.html": page.render(self.reports, self.exhibits),
        }
        for path, text in texts.items():
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return list(texts)


def compare(
    paths: Sequence[str | Path],
    *,
    real: str | Path | None = None,
    device: str = "auto",
    callbacks: Callbacks | None = None,
    **options: Any,
) -> Comparison:
    """Put evaluations side by side.

    Args:
        paths: runs, models or folders of images.
        real: evaluate all of them now, alike, against these; None: as ``fsgen eval`` left them.
        device: auto, cpu, cuda or mps.
        watch: callbacks.
        options: of ``evaluate``, with ``real``.

    Raises:
        FsgenError: fewer than two paths; one that was not evaluated yet, without ``real``.
    """
    callbacks = callbacks or Callbacks()
    if len(paths) < 2:
        raise FsgenError("two are the least that can be compared", hint="fsgen compare runs/a runs/b")
    if real is None:
        found = [_left(Path(path), device) for path in paths]
    else:
        found = [_now(path, real, device, callbacks, options) for path in paths]
    return Comparison([report for report, _ in found], [shown for _, shown in found])


def _now(
    path: str | Path, real: str | Path, device: str, callbacks: Callbacks, options: dict[str, Any]
) -> tuple[dict[str, Any], Exhibits]:
    callbacks.say(f"evaluating {path}")
    found = evaluate(path, real=real, device=device, callbacks=callbacks, **options)
    run = RunFolder.at(path)
    report = {"title": str(path), "evaluation": found.plain(), **_ran(run)}
    return report, exhibiting.exhibits(found, report, run)


def _left(path: Path, device: str) -> tuple[dict[str, Any], Exhibits]:
    """What ``fsgen eval`` left in the folder ``path``, with pictures of the model made anew."""
    report = report_json.read_report(path) if path.is_dir() else None
    if not report or "evaluation" not in report:
        raise FsgenError(
            f"{path} was not evaluated yet",
            hint=f"fsgen eval {path} --real DIR, or evaluate all of them here with --real DIR",
        )
    report["title"] = str(path)
    run = RunFolder.at(path)
    subject = report["evaluation"]["path"]
    if image_sets.is_images(subject):
        return report, Exhibits()
    loaded = pictures.load(subject, device=device)
    if not loaded.conditioning.draws_alone:
        return report, Exhibits(history=[] if run is None else run.history())
    samples = thumbnails(loaded.sample(COLUMNS))
    pairs = None
    if loaded.model.about.get("source"):
        source = pictures.ready(pictures.source_of(loaded.model), device)
        pairs = (thumbnails(source.sample(COLUMNS)), samples)
    return report, Exhibits(samples=samples, pairs=pairs, history=[] if run is None else run.history())


def _ran(run: RunFolder | None) -> dict[str, Any]:
    kept = {} if run is None else report_json.read_report(run.path) or {}
    return {"run": kept["run"]} if "run" in kept else {}
