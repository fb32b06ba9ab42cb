"""Callbacks from long work to its caller. The defaults are silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _silent(line: str) -> None: ...


def _no_progress(task: str, done: int, total: int) -> None: ...


def _no_step(step: int, steps: int, losses: Mapping[str, float], speed: float) -> None: ...


@dataclass(frozen=True)
class Callbacks:
    """Functions called while a verb runs."""

    say: Callable[[str], None] = _silent  # a line for the user
    progress: Callable[[str, int, int], None] = _no_progress  # (task, done, total)
    step: Callable[[int, int, Mapping[str, float], float], None] = _no_step  # (step, steps, losses, images/s)
    stop: Callable[[], bool] = lambda: False  # asked at every step; True: save and stop
