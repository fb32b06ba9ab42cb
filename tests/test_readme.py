"""The README's commands run as printed, on fewer steps and samples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fsgen.evaluation import discriminator_judge
from fsgen.methods import ewc

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("fsgen ")
]
# Needs the network or a terminal: shown in the README, tested elsewhere (tests/importers/test_pull.py).
ELSEWHERE = ("fsgen pull ffhq", "fsgen adapt --resume")
QUICK = {
    "adapt": ["--steps", "2", "--ewc-samples", "2"],
    "train": ["--steps", "2"],
    "fisher": ["--samples", "2"],
}


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    from fsgen.cli.app import main

    argv = shlex.split(command)
    if "--method" in argv and "ewc" not in argv[argv.index("--method") + 1]:
        argv += QUICK["adapt"][:2]
    else:
        argv += QUICK.get(argv[1], [])
    if argv[1] in ("eval", "compare"):
        argv += ["--samples", "8"]
    monkeypatch.setattr("sys.argv", argv)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_readme_names_every_verb() -> None:
    assert {command.split()[1] for command in COMMANDS} >= {
        "pull", "fisher", "adapt", "train", "sample", "eval", "compare", "info",
    }  # fmt: skip


def test_readme_commands_run_in_order(
    tmp_path: Path,
    quick: None,
    real_plots: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ewc, "TRIAL", 2)
    monkeypatch.setattr(discriminator_judge, "SAMPLES", 40)
    for command in COMMANDS:
        if not command.startswith(ELSEWHERE):
            assert run(command, monkeypatch) == 0, f"{command}\n{capsys.readouterr().err}"
