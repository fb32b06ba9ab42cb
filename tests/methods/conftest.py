"""Runs without what takes their time."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick(quick: None) -> None:
    """All of them."""
