"""How the engine talks to whoever called it. The defaults are silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _quiet(line: str) -> None: ...


def _idle(task: str, done: int, total: int) -> None: ...


def _unseen(step: int, steps: int, losses: Mapping[str, float], speed: float) -> None: ...


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of one call."""

    say: Callable[[str], None] = _quiet  # a line for a person
    progress: Callable[[str, int, int], None] = _idle  # (task, done, total)
    step: Callable[[int, int, Mapping[str, float], float], None] = _unseen  # (step, steps, losses, images/s)
    stop: Callable[[], bool] = lambda: False  # asked at every step: save and leave?
