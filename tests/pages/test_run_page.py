"""The page of a finished run that was not evaluated, from the files of its folder."""

from __future__ import annotations

import json

import numpy as np
from page_material import LAYERS, Page, images, report
from PIL import Image
from test_pages import decoded

from fsgen.io.run_folder import RunFolder
from fsgen.pages.run_page import write_run_page


def folder(path, lines=8):
    """A run's folder with a log and a grid, and its report."""
    run = RunFolder(path)
    run.samples.mkdir(parents=True)
    grid = images(1, 48)[0].permute(1, 2, 0).numpy()
    Image.fromarray(grid).save(run.samples / "grid.png")
    log = [{"step": step, "d": 1.4, "g": 0.7, "ewc": 1.0 / step} for step in range(1, lines + 1)]
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    told = report()
    told["run"] |= {"grid": "samples/grid.png", "rate_of_change": dict.fromkeys(LAYERS, 0.02)}
    return run, told, grid


def test_a_run_shows_its_grid_log_layers_and_provenance(tmp_path):
    run, told, grid = folder(tmp_path / "run")
    path = write_run_page(run, told, fisher=dict.fromkeys(LAYERS, 1e-3))
    assert path == tmp_path / "run" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    (shown,) = page.images
    assert np.array_equal(decoded(shown["src"]), grid)
    titles = ("Losses", "EWC penalty", "Fisher information", "Rate of change")
    assert all(title in page.text for title in titles) and len(page.charts) == len(titles)
    for said in ("peeps64", "CC0-1.0", "b" * 64, "ewc.lambda 967", "1 min 49 s", "fsgen eval"):
        assert said in page.text, said
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_an_evaluation_of_earlier_weights_is_not_shown(tmp_path):
    run, told, _ = folder(tmp_path / "run")
    page = Page(write_run_page(run, told).read_text(encoding="utf-8"))
    assert "near copies" not in page.text and "61.2" not in page.text


def test_a_run_without_log_and_grid_has_a_page(tmp_path):
    run = RunFolder(tmp_path)
    page = Page(write_run_page(run, {"title": "bare", "run": {"steps": 0}}).read_text(encoding="utf-8"))
    assert "bare" in page.text and not page.images and not page.charts
