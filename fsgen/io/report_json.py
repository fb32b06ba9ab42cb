"""report.json: one file for what a run was (``run``) and what it was found to be (``evaluation``).

The schema, ``fsgen-report/1``; parts that do not apply are null or absent, a new meaning is a new number:

    schema, fsgen, date, title    the schema's name; fsgen's version; ISO 8601; what is reported on
    run                           of an adapted model
      model                       file, hash (SHA-256 of the tensors); null where there are pictures instead
      pictures                    of a run that ends in pictures: folder, count, target (name of its image)
      source                      name, hash, licence
      images                      count and digest (SHA-256 over the sorted SHA-256s of the files)
      method                      options of each method as they came out, by name
      steps, seed, recipe         training settings
      ended_by_itself             whether --stop auto ended it before its last step
      trained_parameters          of the generator
      cost                        seconds, peak_rss_mb (10^6 bytes), device, threads
      rate_of_change              layer -> mean |change| / mean |weight|
      grid                        the last grid of samples, relative to the run
    evaluation
      path                        what was asked for
      what                        kind ("model" or "images"); title, hash, licence or count, digest, skipped
      real, content, shots        path (not of shots), count, digest, skipped
      source                      title, hash
      protocol                    name, title, choices (what, value, source of each)
      settings                    samples, seeds, seed, truncation, resolution, fit, device, weights
                                  (file -> sha256, space); of translations: shots (each K), classes (seen,
                                  unseen), classifiers (all, unseen: classes, accuracy, held_out, chance)
      near_copy                   space, discriminator, threshold, percentile, source_samples, compared,
                                  nearest (of each sample: number of the training image, distance)
      clusters                    of intra-LPIPS: sizes, values, deviation over them
      rows                        name, kind ("subject", "source", "real"; "content", "chance"), n, metrics
                                  (name -> value, low, high: a 95 % interval)
      flags                       name, value, text: what nobody should overlook
      left_out                    metric -> why, remedy
      warnings, seconds
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import fsgen
from fsgen.atomic import atomic
from fsgen.errors import FsgenError

NAME = "report.json"
SCHEMA = "fsgen-report/1"


def update(folder: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Write ``parts`` into the report of ``folder``, atomically; what it held under other names stays."""
    report = {
        "schema": SCHEMA, "fsgen": fsgen.__version__, "date": date.today().isoformat(), "title": folder.name,
        **(read_report(folder) or {}), **parts,
    }  # fmt: skip
    with atomic(folder / NAME) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def read_report(folder: Path) -> dict[str, Any] | None:
    """The parts of the report in ``folder``: ``run``, ``evaluation``; None where there is no report.

    Raises:
        FsgenError: it is damaged, or of another schema.
    """
    path = folder / NAME
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise FsgenError(f"{path} is damaged", hint="delete it and evaluate again") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise FsgenError(f"{path} is no report of this fsgen", hint="delete it and evaluate again")
    return {name: report[name] for name in ("run", "evaluation") if name in report}
