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


def refused(result, code, *named):
    """With --json: exit code 2 and an error of this kind that names each of ``named``."""
    assert result.code == 2 and result.out == ""
    error = json.loads(result.err.splitlines()[-1])["error"]
    assert error["code"] == code, error
    for name in named:
        assert name in " ".join([error["message"], error["where"], error["hint"]]), error


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
    assert failed.code == 1 and "diversity is" in failed.err
    assert "leakage is" in failed.err and (tmp_path / "run" / "report.json").is_file()
    for bound, code, named in (
        ("copies>1", "unknown-name", "'copies'"),
        ("fid>3", "missing-weights", "inception-2015-12-05.pt"),
        ("x", "usage", "--fail-if"),
    ):
        refused(cli("eval", run, "--real", real_images, "--fail-if", bound, "--json"), code, named)


def test_a_dry_run_says_what_would_be(cli, run, real_images, tmp_path):
    page = (tmp_path / "run" / "report.html").read_bytes()
    shown = cli("eval", run, "--real", real_images, "--dry-run", "--protocol", "default")
    assert shown.code == 0 and "samples = 1000" in shown.out and 'protocol = "default"' in shown.out
    assert (tmp_path / "run" / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--protocol", "cdcc"], "unknown-name", ["'cdcc'", "'cdc'"]),
        (["--protocol", "cdc", "--samples", 5], "usage", ["cdc", "--samples"]),
        (["--metrics", "fidd"], "unknown-name", ["'fidd'", "'fid'"]),
        (["--metrics", "clip_fid"], "missing-weights", ["vit_base_patch32"]),
        (["--study", "--out", "a.html"], "usage", ["--out", "a.html"]),
        (["--study"], "usage", ["--study", "--out"]),
        (["--seeds", 0], "out-of-range", ["--seeds"]),
        (["--content", "x"], "usage", ["--content", "funit"]),
        (["--real", "absent"], "not-found", ["absent"]),
    ],
)
def test_wrong_things_are_refused(cli, tiny, real_images, arguments, code, named):
    real = [] if "--real" in arguments else ["--real", real_images]
    refused(cli("eval", tiny, *real, *arguments, "--json"), code, *named)
    shown = cli("eval", tiny, *real, *arguments)
    assert shown.code == 2 and "Traceback" not in shown.err and shown.err.startswith("error: ")


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


def test_compare_passes_on_the_options_of_eval(cli, run, tiny, real_images, monkeypatch):
    options = ["--fid", "torchvision", "--seeds", 2, "--truncation", 0.5, "--download", "--samples", 8,
               "--seed", 3, "--metrics", "diversity, leakage", "--batch", 4, "--fit", "pad", "--source", tiny,
    ]  # fmt: skip
    asked = []

    def evaluate(path, **options):
        asked.append((path, options))
        return {"samples": options.get("samples", 0)}

    monkeypatch.setattr("fsgen.evaluation.compare.evaluate", evaluate)
    shown = cli("compare", run, tiny, "--real", real_images, *options, "--dry-run", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out) == {
        "real": str(real_images), "runs": {run: {"samples": 8}, str(tiny): {"samples": 8}}
    }  # fmt: skip
    for _, given in asked:
        for name in ("callbacks", "real", "device", "dry_run"):
            given.pop(name)
        assert given == {
            "fid": "torchvision", "seeds": 2, "truncation": 0.5, "download": True, "samples": 8, "seed": 3,
            "metrics": ["diversity", "leakage"], "batch": 4, "fit": "pad", "source": str(tiny),
        }  # fmt: skip


def test_a_dry_run_of_compare_makes_nothing(cli, run, tiny, real_images, tmp_path):
    shown = cli(
        "compare", run, tiny, "--real", real_images, "--samples", 20, "--seeds", 2, "--dry-run", "--out", "c"
    )
    assert shown.code == 0 and shown.out.count("samples = 20") == shown.out.count("seeds = 2") == 2
    assert not (tmp_path / "c").exists()
    refused(cli("compare", run, tiny, "--dry-run", "--json"), "not-found", "run", "--real")
    assert cli("eval", run, "--real", real_images, "--samples", 20).code == 0
    shown = cli("compare", run, run, "--dry-run", "--json")
    assert json.loads(shown.out)["runs"]["run"]["samples"] == 20


@pytest.mark.parametrize(
    "option",
    ["--seeds 2", "--fid clean", "--truncation 1", "--download", "--seed 1", "--samples 9", "--protocol cdc",
     "--metrics fid", "--batch 2", "--fit pad", "--shots x", "--source x", "--content x", "--weights-dir x"],
)  # fmt: skip
def test_compare_refuses_options_without_effect(cli, option):
    flag = option.split()[0]
    refused(cli("compare", "a", "b", *option.split(), "--json"), "usage", flag, "--real")


def test_metrics_and_their_networks_are_listed(cli):
    shown = cli("info", "metrics")
    assert "correspondence" in shown.out and "inception-2015-12-05.pt" in shown.out
    listed = json.loads(cli("info", "metrics", "--json").out)
    assert {"fid", "near_copies"} <= {metric["name"] for metric in listed["metrics"]}
    assert {"inception", "dinov2"} <= {network["name"] for network in listed["networks"]}
