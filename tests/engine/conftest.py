"""Runs of the engine without what takes their time: plots, a mean over many latents, a long pilot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stops import adapt, outcome

from fsgen.engine import plots
from fsgen.methods import ewc
from fsgen.models.stylegan2 import family


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "SETTLE_SAMPLES", 1024)
    monkeypatch.setattr(ewc, "PILOT", 3)
    if "real_plots" not in request.fixturenames:
        for plot in ("losses", "penalty", "by_layer"):
            monkeypatch.setattr(plots, plot, lambda values, path, *rest, **options: Path(path).touch())


@pytest.fixture
def real_plots() -> None:
    """Asked for by tests that look at them."""


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path, drawings: Path) -> Callable[[str], tuple]:
    """Outcomes of runs that nothing happened to, by method."""
    made: dict[str, tuple] = {}

    def run(name: str) -> tuple:
        if name not in made:
            made[name] = outcome(adapt(drawings, tmp_path_factory.mktemp("whole") / name, tiny, name))
        return made[name]

    return run
