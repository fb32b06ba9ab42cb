"""The folder of a run: configuration, training state, log and results.

config.toml         the resolved configuration, from which the run can be repeated
state/latest.safetensors   training state for resuming, replaced atomically at every save
log.jsonl           one line of losses per logged step
samples/            grids during training, source above adapted from the same z
plots/              losses, EWC penalty, change of weights per layer
model.safetensors   the adapted model of a finished run
adapter.safetensors parameters added by a method that trains only those
redrawn/            instead of a model, pictures of style transfer
report.json         results; fsgen eval adds scores
report.html         the same for readers
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fsgen import config as configs
from fsgen.atomic import explain_errors, remove_temporaries, write_text
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.io import checkpoint
from fsgen.io.cache_folders import make_folder

CONFIG = "config.toml"
RUN_MODEL = "model.safetensors"
ADAPTER = "adapter.safetensors"
REDRAWN = "redrawn"
FOLDERS = ("state", "samples", "plots")
# In the order in which an old run is removed: config.toml, which identifies a run, goes last.
LATER = ("study.html",)  # added by fsgen eval
OURS = ("report.json", "report.html", RUN_MODEL, ADAPTER, "log.jsonl", *FOLDERS, CONFIG)


class SavedState(NamedTuple):
    """The training state on disk."""

    parts: dict[str, dict[str, Tensor]]  # networks, optimisers, scalars, methods
    header: PlainDict
    path: Path


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / RUN_MODEL
        self.adapter = path / ADAPTER
        self.samples = path / "samples"
        self.plots = path / "plots"
        self._state = path / "state" / "latest.safetensors"
        self._log = path / "log.jsonl"
        self.seconds = 0.0  # training time of all processes up to the saved state

    @classmethod
    def plan(cls, path: Path, *, force: bool) -> RunFolder:
        """Check ``path`` as the folder of a new run; ``begin`` creates it.

        Raises:
            FsgenError: a run is there and ``force`` is not set, or other files are.
        """
        message, hint = "", "choose another --out"
        if path.exists() and not path.is_dir():
            message = f"{path} is a file, not a folder for a run"
        elif (path / CONFIG).is_file():
            if not force:
                message = f"there is a run in {path} already"
                resume = f"fsgen adapt --resume {shlex.quote(str(path))}"
                hint = f"resume it: {resume}; replace it: --force; or choose another --out"
        elif _has_files(path):
            message = f"{path} is not empty and not a run of fsgen"
        if message:
            raise FsgenError(message, code=Code.EXISTS, where=path, hint=hint)
        return cls(path)

    def begin(self, config: PlainDict) -> None:
        """Create the folder with its ``config``, removing an earlier run in it.

        Raises:
            FsgenError: the folder is read-only, or the disk is full.
        """
        try:
            for name in (*LATER, REDRAWN, *OURS):
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
                else:
                    (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            message = f"the run in {self.path} cannot be removed: {error.strerror}"
            raise FsgenError(message, code=Code.UNWRITABLE, where=self.path) from error
        for name in FOLDERS:
            make_folder(self.path / name)
        self.write_config(config)

    @classmethod
    def at(cls, path: str | Path) -> RunFolder | None:
        """Return the run in the folder ``path``; None if there is none."""
        return cls(Path(path)) if (Path(path) / CONFIG).is_file() else None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an existing run and remove temporary files of killed saves.

        Raises:
            FsgenError: no such run.
        """
        if not (path / CONFIG).is_file():
            message, hint = f"there is no run in {path}", f"a run's folder contains a {CONFIG}"
            raise FsgenError(message, code=Code.NOT_FOUND, where=path, hint=hint)
        run = cls(path)
        for folder in (path, *(path / name for name in FOLDERS)):
            remove_temporaries(folder)
        return run

    @property
    def step(self) -> int | None:
        """Number of steps of the saved state; None if nothing was saved."""
        return (checkpoint.header(self._state) or {}).get("step") if self._state.is_file() else None

    # ---- configuration -------------------------------------------------------------------------------

    def write_config(self, values: PlainDict) -> None:
        write_text(self.path / CONFIG, configs.to_toml(values))

    def config(self) -> PlainDict:
        return configs.read_toml(self.path / CONFIG)

    # ---- training state ------------------------------------------------------------------------------

    def save(self, tensors: dict[str, Tensor], header: PlainDict) -> None:
        """Replace the training state on disk atomically; ``header`` contains its step."""
        checkpoint.write_file(self._state, tensors, {"kind": "state", **header})

    def saved(self) -> SavedState | None:
        """Read the training state saved last; None if nothing was saved."""
        if not self._state.is_file():
            return None
        tensors, header = checkpoint.read_file(self._state)
        return SavedState(checkpoint.split(tensors), header, self._state)

    # ---- log -----------------------------------------------------------------------------------------

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line of JSON."""
        with explain_errors(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def history(self) -> list[dict[str, float]]:
        """Read all lines of the log; a line truncated by a crash is skipped."""
        if not self._log.is_file():
            return []
        lines = []
        for line in self._log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def truncate_log(self, step: int) -> None:
        """Drop lines after ``step``, the last save of a killed run: those steps are repeated."""
        kept = [line for line in self.history() if line["step"] <= step]
        write_text(self._log, "".join(json.dumps(line) + "\n" for line in kept))


def _has_files(path: Path) -> bool:
    """True if ``path`` contains files, other than hidden ones of file managers and killed saves."""
    return any(not item.name.startswith(".") and not item.is_dir() for item in path.rglob("*"))
