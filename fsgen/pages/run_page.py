"""Write report.html for a run that was trained and not evaluated yet, from the files in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fsgen.atomic import write_text
from fsgen.io.run_folder import RunFolder
from fsgen.pages import report_page
from fsgen.pages.contents import PageContents

NAME = "report.html"


def write_run_page(run: RunFolder, report: dict[str, Any], fisher: dict[str, float] | None = None) -> Path:
    """Write the page of a finished run: its last grid, log, layers, configuration and provenance.

    Args:
        run: the folder, with ``log.jsonl`` and the grid that the report names.
        report: of schema ``fsgen-report/1``; ``evaluation`` in it is of earlier weights and ignored.
        fisher: layer -> mean Fisher, first to last, if the run estimated one.

    Raises:
        FsgenError: full disk or unwritable folder.
    """
    part = report.get("run") or {}
    grid = None
    if name := part.get("grid"):
        with Image.open(run.path / name) as image:
            grid = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    contents = PageContents(
        history=run.history(), fisher=fisher or {}, change=part.get("rate_of_change") or {}, grid=grid
    )
    path = run.path / NAME
    without = {key: value for key, value in report.items() if key != "evaluation"}
    write_text(path, report_page.render(without, contents))
    return path
