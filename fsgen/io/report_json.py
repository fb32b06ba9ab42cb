"""report.json: the record of a run (``run``) and the results of its evaluation (``evaluation``).

Schema ``fsgen-report/1``; parts that do not apply are null or absent; a changed meaning gets a new number:

    schema, fsgen, date, title    name of the schema; version of fsgen; ISO 8601; name of the run or model
    run                           of an adapted model
      model                       file, hash (SHA-256 of the tensors); null for a run that made pictures
      pictures                    of a run that made pictures: folder, count, target (file name)
      source                      name, hash, licence
      images                      count and digest (SHA-256 over the sorted SHA-256s of the files)
      method                      resolved options of each method, by name
      steps, seed, recipe         training settings
      ended_by_itself             true if --stop auto ended it before its last step
      trained_parameters          number in the generator
      cost                        seconds, peak_rss_mb (10^6 bytes), device, threads
      rate_of_change              layer -> mean |change| / mean |weight|
      grid                        last grid of samples, relative to the run
    evaluation
      path                        model, run or images as given
      what                        kind ("model" or "images"); title, hash, licence or count, digest, skipped
      real, content, shots        path (not of shots), count, digest, skipped
      source                      title, hash
      protocol                    name, title, choices (what, value, source of each)
      settings                    samples, seeds, seed, truncation, resolution, fit, device, weights
                                  (file -> sha256, space); of translations: shots (each K), classes (seen,
                                  unseen), classifiers (all, unseen: classes, accuracy, held_out, chance)
      near_copy                   space, discriminator, threshold, percentile, source_samples, compared,
                                  nearest (for each sample: index of the training image, distance)
      clusters                    of intra-LPIPS: sizes, values, deviation over them
      rows                        name, kind ("subject", "source", "real"; "content", "chance"), n, metrics
                                  (name -> value, low, high: a 95 % interval)
      flags                       name, value, text: warnings about the result
      left_out                    metric -> why, remedy
      warnings, seconds
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import fsgen
from fsgen.atomic import write_text
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError

NAME = "report.json"
SCHEMA = "fsgen-report/1"


def update(folder: Path, parts: PlainDict) -> PlainDict:
    """Write ``parts`` into the report of ``folder`` atomically, keeping other parts; return the report."""
    report = {
        "schema": SCHEMA, "fsgen": fsgen.__version__, "date": date.today().isoformat(), "title": folder.name,
        **(read_report(folder) or {}), **parts,
    }  # fmt: skip
    write_text(folder / NAME, json.dumps(report, indent=2) + "\n")
    return report


def read_report(folder: Path) -> PlainDict | None:
    """Read the parts ``run`` and ``evaluation`` of the report in ``folder``; None if there is no report.

    Raises:
        FsgenError: damaged, or of another schema.
    """
    path = folder / NAME
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        hint = "delete it and evaluate again"
        raise FsgenError(f"{path} is damaged", code=Code.DAMAGED, where=path, hint=hint) from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        message, hint = f"{path} is not a report of this fsgen", "delete it and evaluate again"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=path, hint=hint)
    return {name: report[name] for name in ("run", "evaluation") if name in report}
