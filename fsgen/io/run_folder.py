"""A run is a folder: what was asked for, where it stands, what came out.

config.toml         the resolved configuration: enough to start the run again
state/latest.safetensors   everything a resumed run needs, replaced whole at every save
log.jsonl           one line of losses a logged step
samples/            grids during training, source above adapted from the same z
plots/              losses, EWC penalty, change of weights per layer
model.safetensors   the adapted model, once the run is done
adapter.safetensors what a method has added, by itself, if it trains nothing else
redrawn/            in place of a model, where the method makes pictures alone
report.json         what came out, in figures; fsgen eval adds its own and report.html
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fsgen import config as configs
from fsgen.atomic import atomic, explain_errors, remove_temporaries
from fsgen.errors import FsgenError
from fsgen.io import checkpoint
from fsgen.io.cache_folders import make_folder

CONFIG = "config.toml"
RUN_MODEL = "model.safetensors"
ADAPTER = "adapter.safetensors"
REDRAWN = "redrawn"
FOLDERS = ("state", "samples", "plots")
# In the order in which an old run is removed: as long as anything is left, it is known for a run.
LATER = ("report.html", "study.html")  # what fsgen eval adds
OURS = ("report.json", RUN_MODEL, ADAPTER, "log.jsonl", *FOLDERS, CONFIG)


class SavedState(NamedTuple):
    """The training state on disk, as it was read."""

    parts: dict[str, dict[str, Tensor]]  # networks, optimisers, scalars, methods
    header: dict[str, Any]
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
        self.seconds = 0.0  # spent on it so far, by all processes up to the saved state

    @classmethod
    def plan(cls, path: Path, *, force: bool) -> RunFolder:
        """Where a run is to be. Only looks: ``begin`` makes it.

        Raises:
            FsgenError: ``path`` is taken and ``force`` is not set, or what is there is no run.
        """
        if path.exists() and not path.is_dir():
            raise FsgenError(f"{path} is a file, not a folder for a run", hint="choose another --out")
        if (path / CONFIG).is_file():
            if not force:
                go_on = f"fsgen adapt --resume {shlex.quote(str(path))}"
                raise FsgenError(
                    f"there is a run in {path} already",
                    hint=f"go on with it: {go_on}; replace it: --force; or choose another --out",
                )
        elif _holds_files(path):
            raise FsgenError(f"{path} is not empty and holds no run of fsgen", hint="choose another --out")
        return cls(path)

    def begin(self, config: dict[str, Any]) -> None:
        """An empty folder of a run with its ``config``; an earlier run in it is removed.

        Raises:
            FsgenError: it cannot be written to, or the disk is full.
        """
        try:
            for name in (*LATER, REDRAWN, *OURS):
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
                else:
                    (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise FsgenError(f"the run in {self.path} cannot be removed: {error.strerror}") from error
        for name in FOLDERS:
            make_folder(self.path / name)
        self.write_config(config)

    @classmethod
    def at(cls, path: str | Path) -> RunFolder | None:
        """The run in the folder ``path``; None where there is none."""
        return cls(Path(path)) if (Path(path) / CONFIG).is_file() else None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that was begun.

        Raises:
            FsgenError: no such run.
        """
        if not (path / CONFIG).is_file():
            raise FsgenError(f"there is no run in {path}", hint=f"a run's folder holds a {CONFIG}")
        run = cls(path)
        for folder in (path, *(path / name for name in FOLDERS)):
            remove_temporaries(folder)  # what a killed save left behind may be large
        return run

    @property
    def step(self) -> int | None:
        """Steps done in the saved state; None where nothing was saved yet."""
        return (checkpoint.header(self._state) or {}).get("step") if self._state.is_file() else None

    # ---- what was asked for --------------------------------------------------------------------------

    def write_config(self, values: dict[str, Any]) -> None:
        with atomic(self.path / CONFIG) as temporary:
            temporary.write_text(configs.to_toml(values), encoding="utf-8")

    def config(self) -> dict[str, Any]:
        return configs.read_toml(self.path / CONFIG)

    # ---- where it stands -----------------------------------------------------------------------------

    def save(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Replace the training state on disk, whole or not at all; ``header`` holds its step."""
        checkpoint.write_file(self._state, tensors, {"kind": "state", **header})

    def saved(self) -> SavedState | None:
        """The training state that was saved last; None where nothing was yet."""
        if not self._state.is_file():
            return None
        tensors, header = checkpoint.read_file(self._state)
        return SavedState(checkpoint.split(tensors), header, self._state)

    # ---- what happened -------------------------------------------------------------------------------

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line of JSON."""
        with explain_errors(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def history(self) -> list[dict[str, float]]:
        """All lines of the log; a last line cut off by a crash is left out."""
        if not self._log.is_file():
            return []
        lines = []
        for line in self._log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def truncate_log(self, step: int) -> None:
        """Drop what a killed run logged after ``step``, its last save: those steps come again."""
        kept = [line for line in self.history() if line["step"] <= step]
        with atomic(self._log) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _holds_files(path: Path) -> bool:
    """Whether there is any file below ``path`` besides hidden ones (a file manager's, a killed save's)."""
    return any(not item.name.startswith(".") and not item.is_dir() for item in path.rglob("*"))
