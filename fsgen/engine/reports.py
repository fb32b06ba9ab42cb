"""report.json: one file for what a run was (``run``) and what it was found to be (``evaluation``)."""

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


def write(folder: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Write ``parts`` into the report of ``folder``, atomically; what it held under other names stays."""
    report = {
        "schema": SCHEMA, "fsgen": fsgen.__version__, "date": date.today().isoformat(), "title": folder.name,
        **(read(folder) or {}), **parts,
    }  # fmt: skip
    with atomic(folder / NAME) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def read(folder: Path) -> dict[str, Any] | None:
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
