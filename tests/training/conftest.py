"""Quick runs: without plots, with a mean over few latents and a short trial run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stops import adapt, outcome

from fsgen.methods import ewc


@pytest.fixture(autouse=True)
def _quick(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ewc, "TRIAL", 3)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path, drawings: Path) -> Callable[[str], tuple]:
    """Outcomes of runs that nothing happened to, by method."""
    made: dict[str, tuple] = {}

    def run(name: str) -> tuple:
        if name not in made:
            made[name] = outcome(adapt(drawings, tmp_path_factory.mktemp("whole") / name, tiny, name))
        return made[name]

    return run
