"""``fsgen eval`` and ``fsgen compare`` as they are typed."""

from __future__ import annotations

import json

import pytest
from tiny import draw_images

from fsgen.evaluation import discriminator_judge as discriminators


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(discriminators, "SAMPLES", 40)


@pytest.fixture(scope="module")
def real_images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("many"), 32, seed=9)


@pytest.fixture
def run(cli, tiny, drawings):
    done = cli(
        "adapt", drawings, "--out", "run", "--source", tiny, "--method", "finetune", "--steps", 1,
        "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    return "run"


def test_a_table_a_report_and_their_places(cli, run, real_images, tmp_path):
    shown = cli("eval", run, "--real", real_images, "--samples", 20)
    assert shown.code == 0, shown.err
    for part in ("near copies", "leakage", "correspondence", "diversity", "source", "real", "(", "-"):
        assert part in shown.out
    assert "report.html: run/report.html" in shown.out and (tmp_path / "run" / "report.html").is_file()
    assert "left out: fid, kid" in shown.err and "fsgen pull metrics" in shown.err
    assert cli("adapt", "--resume", run, "--steps", 2).code == 0  # a report is in nobody's way


def test_json_is_the_evaluation(cli, run, real_images, tmp_path):
    shown = cli("eval", run, "--real", real_images, "--samples", 20, "--json", "--out", "there")
    printed = json.loads(shown.out)
    assert printed == json.loads((tmp_path / "there" / "report.json").read_text())["evaluation"]
    assert printed["rows"][0]["metrics"]["diversity"]["low"] is not None
    assert [row["kind"] for row in printed["rows"]] == ["subject", "source", "real"]


def test_a_gate_fails_with_1_after_the_report_is_written(cli, run, real_images, tmp_path):
    passed = cli("eval", run, "--real", real_images, "--samples", 20, "--fail-if", "near_copies>0.5")
    assert passed.code == 0, passed.err
    failed = cli("eval", run, "--real", real_images, "--samples", 20, "--fail-if", "diversity<99, leakage>=0")
    assert failed.code == 1 and "the evaluation fails: diversity is" in failed.err
    assert "leakage is" in failed.err and (tmp_path / "run" / "report.json").is_file()
    for bound, words in (
        ("copies>1", "no metric 'copies'"),
        ("fid>3", "not on this machine"),
        ("x", "is not a"),
    ):
        refused = cli("eval", run, "--real", real_images, "--fail-if", bound)
        assert refused.code == 2 and words in refused.err, refused.err


def test_a_dry_run_says_what_would_be(cli, run, real_images, tmp_path):
    shown = cli("eval", run, "--real", real_images, "--dry-run", "--protocol", "default")
    assert shown.code == 0 and "samples = 1000" in shown.out and 'protocol = "default"' in shown.out
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "cdcc"], "no protocol 'cdcc'"),
        (["--protocol", "cdc", "--samples", 5], "fixes --samples"),
        (["--metrics", "fidd"], "no metric 'fidd'"),
        (["--metrics", "clip_fid"], "vit_base_patch32"),
        (["--study", "--out", "a.html"], "is a folder"),
        (["--seeds", 0], "--seeds is at least 1"),
        (["--real", "absent"], "there is no file or folder"),
    ],
)
def test_wrong_things_are_refused_in_one_sentence(cli, tiny, real_images, arguments, words):
    real = [] if "--real" in arguments else ["--real", real_images]
    refused = cli("eval", tiny, *real, *arguments)
    assert refused.code == 2 and words in refused.err and "Traceback" not in refused.err


def test_compare_prints_a_table_and_writes_a_page(cli, run, tiny, real_images, tmp_path):
    shown = cli(
        "compare", run, tiny, "--real", real_images, "--samples", 20, "--out", "compared", "--source", tiny
    )
    assert shown.code == 0, shown.err
    for part in ("near copies", "diversity", "steps", "trained parameters", "comparison.html: compared"):
        assert part in shown.out
    assert (tmp_path / "compared" / "comparison.html").is_file()
    listed = cli("compare", run, tiny, "--real", real_images, "--samples", 20, "--json", "--source", tiny)
    assert len(json.loads(listed.out)["reports"]) == 2
    assert cli("compare", run, tiny).code == 2


def test_metrics_and_their_networks_are_listed(cli):
    shown = cli("info", "metrics")
    assert "correspondence" in shown.out and "inception-2015-12-05.pt" in shown.out
    listed = json.loads(cli("info", "metrics", "--json").out)
    assert {"fid", "near_copies"} <= {metric["name"] for metric in listed["metrics"]}
    assert {"inception", "dinov2"} <= {network["name"] for network in listed["networks"]}
