"""Runs to be judged, without what takes their time."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins import (  # noqa: F401
    alexnet_file,
    inception_file,
    inception_pytorch_file,
    vgg16_file,
    weights_dir,
)

from fsgen.engine import plots
from fsgen.models.stylegan2 import family


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "SETTLE_SAMPLES", 1024)
    for plot in ("losses", "penalty", "by_layer"):
        monkeypatch.setattr(plots, plot, lambda values, path, *rest, **options: Path(path).touch())
