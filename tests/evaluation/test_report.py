"""What an evaluation leaves behind: report.json, report.html, study.html, and the comparison of several."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from refusals import refused
from tiny import draw_images

from fsgen.errors import Code
from fsgen.evaluation import discriminator_judge as discriminators
from fsgen.evaluation.compare import compare
from fsgen.evaluation.evaluate import evaluate
from fsgen.evaluation.report import page_contents, report_folder, write_evaluation
from fsgen.io import report_json
from fsgen.training.adapt import adapt, resume


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(discriminators, "SAMPLES", 40)


@pytest.fixture(scope="module")
def real_images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("many"), 32, seed=9)


@pytest.fixture
def run(tiny, drawings, tmp_path):
    ewc = {"ewc": {"samples": 4, "lambda": "5"}}
    return adapt(
        drawings, out=tmp_path / "run", source=tiny, method="ewc", options=ewc, steps=2, device="cpu"
    )


def test_a_runs_report_keeps_what_the_run_was_and_adds_what_it_was_found_to_be(run, real_images):
    before = json.loads((run / "report.json").read_text())
    found = evaluate(run, real=real_images, samples=12)
    assert report_folder(run, None, study=False) == run
    assert [path.name for path in write_evaluation(found, run)] == ["report.json", "report.html"]
    after = json.loads((run / "report.json").read_text())
    assert after["run"] == before["run"] and after["schema"] == before["schema"] == "fsgen-report/1"
    assert after["evaluation"] == json.loads(json.dumps(found.plain()))
    page = (run / "report.html").read_text()
    assert "near copies" in page and "Fisher" in page and len(page) < 3e6
    again = evaluate(run, real=real_images, samples=12, seed=5)
    write_evaluation(again, run)
    assert json.loads((run / "report.json").read_text())["evaluation"]["settings"]["seed"] == 5


def test_the_page_of_a_run_has_scores_of_its_own_weights_only(run, real_images, real_plots):
    def text():
        return (run / "report.html").read_text(encoding="utf-8")

    told = json.loads((run / "report.json").read_text())["run"]
    hashes = (told["model"]["hash"], told["source"]["hash"])
    charts = ("Losses", "EWC penalty", "Rate of change")
    for part in (*hashes, *charts, "grid of samples", "training image 5", "Not evaluated yet: fsgen eval"):
        assert part in text(), part
    write_evaluation(evaluate(run, real=real_images, samples=12), run)
    assert "near copies" in text() and "Not evaluated" not in text()
    resume(run, steps=3)
    assert "near copies" not in text() and "Not evaluated yet" in text()
    assert json.loads((run / "report.json").read_text())["run"]["model"]["hash"] in text()


def test_every_part_of_a_report_is_documented(run, real_images):
    write_evaluation(evaluate(run, real=real_images, samples=12), run)
    report = json.loads((run / "report.json").read_text())
    free = {"method", "recipe", "rate_of_change", "left_out", "weights", "metrics"}  # keyed by other names

    def keys(value, under=""):
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield key
            yield from () if key in free else keys(inner, key)
        for inner in value if isinstance(value, list) else ():
            yield from keys(inner, under)

    for key in set(keys(report)):
        assert re.search(rf"\b{key}\b", report_json.__doc__), key


def test_a_report_elsewhere_takes_the_run_along(run, real_images, tmp_path):
    folder = report_folder(run, tmp_path / "deep" / "report", study=False)
    write_evaluation(evaluate(run, real=real_images, samples=12), folder)
    report = report_json.read_report(tmp_path / "deep" / "report")
    assert report["run"]["steps"] == 2 and report["evaluation"]["path"] == str(run)
    assert "evaluation" not in report_json.read_report(run)


def test_a_page_shows_what_was_seen(run, real_images):
    found = evaluate(run, real=real_images, samples=12)
    shown = page_contents(found, json.loads((run / "report.json").read_text()), None)
    assert len(shown.samples) == 12 and len(shown.shots) == 5 and len(shown.real_images) == 20
    assert len(shown.pairs[0]) == len(shown.pairs[1]) == 12
    distances = [one.distance for one in shown.neighbours]
    assert distances == sorted(distances) and len(distances) == 12
    assert [distance for _, distance in sorted(found.near_copy["nearest"], key=lambda one: one[1])] == (
        pytest.approx(distances, abs=1e-5)
    )
    assert {one.seed for one in shown.neighbours} == set(range(12))
    assert all(one.copy is (one.distance < found.near_copy["threshold"]) for one in shown.neighbours)
    assert shown.fisher.keys() == shown.change.keys() and not shown.clusters


def test_a_study_is_ten_rounds_of_real_or_generated(run, real_images, tmp_path):
    written = write_evaluation(evaluate(run, real=real_images, samples=12), tmp_path, study=True)
    assert written[-1].name == "study.html" and "data:image" in written[-1].read_text()


def test_places_that_cannot_be_are_refused(tiny, tmp_path):
    assert report_folder(tiny, None, study=False) is None
    with refused(Code.USAGE, "--study", "--out"):
        report_folder(tiny, None, study=True)
    with refused(Code.USAGE, "--out", "a.json"):
        report_folder(tiny, tmp_path / "a.json", study=False)
    (tmp_path / "file").touch()
    with refused(Code.UNWRITABLE, tmp_path / "file"):
        report_folder(tiny, tmp_path / "file", study=False)


@pytest.mark.parametrize(
    ("content", "code"),
    [("{", Code.DAMAGED), ('{"schema": "other/1"}', Code.UNSUPPORTED), ("[]", Code.UNSUPPORTED)],
)
def test_a_report_that_is_none_of_ours_is_not_overwritten(run, real_images, content, code):
    (run / "report.json").write_text(content)
    with refused(code, run / "report.json", "delete"):
        write_evaluation(evaluate(run, real=real_images, samples=4), run)
    assert (run / "report.json").read_text() == content


# ---- several -------------------------------------------------------------------------------------------


def test_runs_are_compared_as_eval_left_them_or_alike_now(run, tiny, real_images, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    with refused(Code.NOT_FOUND, run, f"fsgen eval {run}", "--real"):
        compare([run, other])
    for path, seed in ((run, 0), (other, 1)):
        write_evaluation(evaluate(path, real=real_images, samples=12, seed=seed), path)
    left = compare([run, other], device="cpu")
    assert [report["title"] for report in left.reports] == [str(run), str(other)]
    assert [report["evaluation"]["settings"]["seed"] for report in left.reports] == [0, 1]
    assert all(len(shown.samples) == 8 and len(shown.pairs[0]) == 8 for shown in left.contents)

    now = compare([run, tiny, real_images], real=real_images, samples=12, device="cpu")
    assert [report["evaluation"]["settings"]["samples"] for report in now.reports] == [12, 12, 12]
    assert [("run" in report) for report in now.reports] == [True, False, False]
    table, page = now.write(tmp_path / "compared")
    assert json.loads(table.read_text())["schema"] == "fsgen-comparison/1"
    assert str(run) in page.read_text()


def test_one_is_no_comparison(run):
    with refused(Code.TOO_FEW, run):
        compare([run])
