"""``fsgen eval --protocol funit`` as it is typed."""

from __future__ import annotations

import json

import pytest
from colours import draw_classes
from test_eval_command import refused
from tiny import make_source

from fsgen.evaluation.funit import classifiers
from fsgen.features import classifier


@pytest.fixture(autouse=True)
def _small_judges(monkeypatch):
    monkeypatch.setattr(classifiers, "STEPS", 5)
    monkeypatch.setattr(classifier, "WIDTH", 4)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Arguments for an untrained model, two classes it saw and two it did not."""
    folder = tmp_path_factory.mktemp("asked")
    seen = draw_classes(folder / "seen", ["red", "lime"], 4)
    unseen = draw_classes(folder / "unseen", ["blue", "pink"], 7, first=5)
    model = make_source(folder / "model.safetensors", name="funit")
    return ["eval", model, "--protocol", "funit", "--real", unseen, "--content", seen, "--samples", 3]


def test_a_line_for_each_number_of_shots_and_chance_beside_them(cli, asked, tmp_path):
    shown = cli(*asked, "--out", "there")
    assert shown.code == 0, shown.err
    head, *below = shown.out.splitlines()
    lines = [line for line in below if not line.startswith(" ")]  # others are intervals
    assert [line.split("  ")[0] for line in lines[:4]] == ["K = 1", "contents", "real", "chance"]
    assert "top-1 (unseen)" in head and "50.0%" in lines[3] and "IS (all)" in head
    assert "classifier (all) of 4 classes" in shown.out and "chance 25.0%" in shown.out
    assert "K = 5, 10, 15, 20 left out" in shown.err and "left out: dipd, mfid" in shown.err
    report = json.loads((tmp_path / "there" / "report.json").read_text())["evaluation"]
    assert report["protocol"]["name"] == "funit" and (tmp_path / "there" / "report.html").is_file()
    assert json.loads(cli(*asked, "--json").out)["rows"] == report["rows"]


def test_a_gate_is_on_the_figures_at_the_most_shots(cli, asked):
    failed = cli(*asked, "--fail-if", "top1_unseen<101%, is_all<=0.5")
    assert failed.code == 1 and "top1_unseen is" in failed.err
    assert "is_all" not in failed.err
    assert cli(*asked, "--fail-if", "top1_unseen<0").code == 0
    refused(cli(*asked, "--fail-if", "fid>5", "--json"), "incompatible", "fid", "funit")
    refused(cli(*asked, "--fail-if", "mfid>5", "--json"), "missing-weights", "inception-2015-12-05.pt")


def test_a_dry_run_says_what_would_be(cli, asked):
    shown = cli(*asked, "--dry-run")
    assert shown.code == 0 and 'protocol = "funit"' in shown.out and "samples = 3" in shown.out
    assert "shots = [\n    1,\n]" in shown.out and 'metrics = [\n    "top1_all"' in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--fid", "clen"], "unknown-name", "'clen'"),
        (["--seeds", 3], "usage", "--seeds"),
        (["--metrics", "top1"], "unknown-name", "'top1'"),
        (["--source", "peeps64"], "usage", "--source"),
    ],
)
def test_wrong_things_are_refused(cli, asked, arguments, code, named):
    refused(cli(*asked, *arguments, "--json"), code, named)
