"""Runs to be judged, without what takes their time."""

from __future__ import annotations

import pytest
from stand_ins import (  # noqa: F401
    alexnet_file,
    inception_file,
    inception_pytorch_file,
    vgg16_file,
    weights_dir,
)


@pytest.fixture(autouse=True)
def _quick(quick: None) -> None:
    """All of them."""
