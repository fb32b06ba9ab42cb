"""The packages in docs/ADDING_A_METHOD.md and ADDING_A_FAMILY.md, extracted, installed and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import draw_images, make_source

DOCS = Path(__file__).parents[1] / "docs"


def extracted(page: str, folder: Path) -> Path:
    """Write each fenced block that follows a line with a file name, and the empty files the page names."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, body in re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", text, re.M | re.S):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body, encoding="utf-8")
    for name in re.findall(r"^`([\w./]+)` is an empty file", text, re.M):
        (folder / name).touch()
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the package of a page into a folder on the path of ``fsgen``; returns how to call that."""
    site = tmp_path / "site"

    def install(page: str):
        package = extracted(page, tmp_path / "package")
        flags = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
        pip = [sys.executable, "-m", "pip", "install", *flags, "--target", str(site), str(package)]
        subprocess.run(pip, check=True, capture_output=True, text=True)
        return run

    def run(*command: object, installed: bool = True) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([*([str(site)] if installed else []), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "FSGEN_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "fsgen", *map(str, command)]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)

    return install


def test_a_method_of_another_package_runs_and_leaves_no_trace(installed, tmp_path):
    fsgen = installed("ADDING_A_METHOD.md")
    images, source = draw_images(tmp_path / "images", 2), make_source(tmp_path / "s.safetensors")
    assert "--l2sp-alpha" in fsgen("adapt", "--method", "l2sp", "--help").stdout
    assert "l2sp" in fsgen("info", "methods").stdout
    given = (
        "adapt",
        images,
        "--source",
        source,
        "--method",
        "l2sp",
        "--steps",
        2,
        "--batch",
        2,
        "--device",
        "cpu",
    )
    done = fsgen(*given, "--l2sp-alpha", 1, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert '"l2sp":' in (tmp_path / "run" / "log.jsonl").read_text()
    assert "alpha = 1" in (tmp_path / "run" / "config.toml").read_text()
    refused = fsgen(*given, "--l2sp-alpha", -1, "--out", "other")
    assert refused.returncode == 2 and "--l2sp-alpha" in refused.stderr
    refused = fsgen("adapt", images, "--source", source, "--method", "ewc,l2sp", "--out", "other")
    assert refused.returncode == 2 and "l2sp" in refused.stderr
    gone = fsgen(*given, "--out", "other", installed=False)
    assert gone.returncode == 2 and "l2sp" in gone.stderr
    assert "l2sp" not in fsgen("info", "methods", installed=False).stdout


def test_a_family_of_another_package_is_trained_adapted_and_sampled(installed, tmp_path):
    fsgen = installed("ADDING_A_FAMILY.md")
    images = draw_images(tmp_path / "images", 3)
    small = ("--batch", 2, "--device", "cpu")
    done = fsgen(
        "train", images, "--family", "mlp", "--size", 16, "--width", 8, "--steps", 2, *small, "--out", "mlp"
    )
    assert done.returncode == 0, done.stderr
    done = fsgen(
        "adapt", images, "--source", "mlp", "--steps", 2, "--ewc-samples", 4, *small, "--out", "adapted"
    )
    assert done.returncode == 0, done.stderr
    done = fsgen("sample", "adapted", "--n", 2, "--device", "cpu", "--out", "grid.png")
    assert done.returncode == 0 and (tmp_path / "grid.png").is_file(), done.stderr
    refused = fsgen("adapt", images, "--source", "mlp", "--method", "cdc", "--out", "other")
    assert refused.returncode == 2 and "taps" in refused.stderr
    gone = fsgen("sample", "mlp", "--out", "other.png", installed=False)
    assert gone.returncode == 2 and "mlp" in gone.stderr and "Traceback" not in gone.stderr


BROKEN = {
    "absent": ("absent_module:Method", ""),
    "raises": ("broken:Broken", "raise RuntimeError('no')"),
    "syntax": ("broken:Broken", "def"),
    "nocolon": ("broken", ""),
    "notmethod": ("broken:Broken", "Broken = 3"),
    "misnamed": ("broken:Broken", "from fsgen.methods.finetune import Finetune as Broken"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_costs_its_own_method_alone(tmp_path, kind):
    point, code = BROKEN[kind]
    info = tmp_path / "site" / "broken-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[fsgen.methods]\nbroken = {point}\n")
    (tmp_path / "site" / "broken.py").write_text(code)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    commands = {("adapt", "--help"): 0, ("adapt", "x", "--method", "broken", "--out", "y"): 2}
    for command, expected in commands.items():
        done = subprocess.run(
            [sys.executable, "-m", "fsgen", *command],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == expected and "Traceback" not in done.stderr, done.stderr
        assert expected == 0 or point in done.stderr
