"""Callbacks of the trainer, called after each step: log losses, draw a grid, stop early, save the state."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import TrainingState
from fsgen.models.model import Model
from fsgen.training import early_stopping, state_file
from fsgen.training.job import TrainingJob
from fsgen.training.results import Preview

LOG_EVERY = 10  # steps between lines of log.jsonl


class Status(NamedTuple):
    """The position of a step in the run."""

    last: bool
    interrupted: bool


class StepCallback(Protocol):
    def __call__(self, state: TrainingState, losses: dict[str, Tensor], status: Status) -> bool:
        """Called after each step; True ends the run."""


@dataclass
class Clock:
    """Wall time spent on a run."""

    began: float  # of this process, by ``time.perf_counter``
    before: float = 0.0  # seconds in earlier processes, up to the saved state

    @property
    def seconds(self) -> float:
        """Total so far, preparations included."""
        return self.before + time.perf_counter() - self.began


class LogLosses:
    """Write mean losses to log.jsonl and report progress.

    Reading a loss makes the device wait, so it is done every few steps, for the mean since the last time.
    """

    def __init__(self, job: TrainingJob, first: int) -> None:
        self.job, self.first = job, first
        self.began = time.perf_counter()
        self.window: dict[str, list[Tensor]] = {}  # losses not logged yet
        self.means: dict[str, float] = {}  # of the last line

    def __call__(self, state: TrainingState, losses: dict[str, Tensor], status: Status) -> bool:
        for name, value in losses.items():
            self.window.setdefault(name, []).append(value)
        if state.step % LOG_EVERY == 0 or state.step == 1 or any(status):
            self.means = {name: torch.stack(values).mean().item() for name, values in self.window.items()}
            self.window = {}
            check_finite(self.means, state.step, self.job.folder.path)
            self.job.folder.log(state.step, self.means)
        speed = (state.step - self.first) * self.job.recipe.batch / (time.perf_counter() - self.began)
        self.job.callbacks.step(state.step, self.job.config.steps, self.means, speed)
        return False


class PreviewGrid:
    """Write a grid of samples every few steps."""

    def __init__(self, job: TrainingJob, preview: Preview) -> None:
        self.job, self.preview = job, preview

    def __call__(self, state: TrainingState, losses: dict[str, Tensor], status: Status) -> bool:
        if state.step % self.job.config.sample_every == 0 and not status.last:
            self.preview.write(state, self.job.folder.samples / f"{state.step:06d}.png")
        return False


class StopEarly:
    """End the run once samples are close enough to the shots (``--stop auto``)."""

    def __init__(self, job: TrainingJob, model: Model, ended: bool) -> None:
        self.job, self.model, self.ended = job, model, ended

    @cached_property
    def stopping(self) -> early_stopping.EarlyStopping:
        return early_stopping.EarlyStopping(self.model, self.job.shots, self.job.methods, self.job.device)

    def __call__(self, state: TrainingState, losses: dict[str, Tensor], status: Status) -> bool:
        if self.job.config.stop == "auto" and state.step % early_stopping.EVERY == 0:
            distance = self.stopping.distance(state)
            self.ended = self.stopping.is_close(distance)
            self.job.folder.log(state.step, {"distance": distance})
            if self.ended or status.last:
                self.job.callbacks.say(self.stopping.verdict(distance, state.step))
        return self.ended


class SaveState:
    """Replace the state on disk every few steps."""

    def __init__(self, job: TrainingJob, clock: Clock, stop: StopEarly) -> None:
        self.job, self.clock, self.stop = job, clock, stop

    def __call__(self, state: TrainingState, losses: dict[str, Tensor], status: Status) -> bool:
        if state.step % self.job.config.save_every == 0 and not any(status):
            self.write(state)
        return False

    def write(self, state: TrainingState) -> None:
        """Replace the state, unless it is not finite."""
        sums = {f"weights of {name}": sum(p.detach().double().sum().item() for p in net.parameters())
                for name, net in (("g", state.g), ("d", state.d))}  # fmt: skip
        check_finite(sums, state.step, self.job.folder.path)
        header = {"step": state.step, "source_hash": self.job.config.source_hash,
                  "seconds": round(self.clock.seconds, 1), "enough": self.stop.ended}  # fmt: skip
        self.job.folder.save(state_file.to_tensors(state, self.job.methods.state()), header)


def check_finite(values: dict[str, float], step: int, folder: Path) -> None:
    """Refuse to go on with NaN or infinite ``values``."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FsgenError(
            f"training diverged at step {step}: '{bad[0]}' is not a finite number; "
            f"the state saved in {folder} is from before",
            code=Code.DIVERGED, where=bad[0],
            hint="start again with a smaller --lr, or a smaller weight of the method's terms",
        )  # fmt: skip
