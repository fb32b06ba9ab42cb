"""Finds the golden cases.

A case is a folder with a ``case.json``; its ``kind`` says what it tests, the folder's name says nothing.
Cases are looked for in ``tests/golden``, and in the folders that ``FSGEN_GOLDEN`` names (separated by
``os.pathsep``; each a root, one family's folder or one case) or, where it is not set, in
``../shared/golden``. Cases in ``tests/golden`` leave tensors out: where a folder of the others has the whole
case, that one is taken.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
OWN = REPOSITORY / "tests" / "golden"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Case:
    """One golden case; ``info`` is its case.json."""

    folder: Path
    info: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.info["kind"]

    @property
    def files(self) -> list[str]:
        """The checkpoint files that case.json names."""
        return [*([self.info["file"]] if "file" in self.info else []), *self.info.get("files", [])]

    @property
    def label(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def tensors(self, name: str = "io.safetensors") -> dict[str, Tensor]:
        """The tensors of one of the case's files, by name; read anew at every call."""
        return load_file(self.folder / name)

    def names(self, name: str = "io.safetensors") -> list[str]:
        """The names of the tensors of one of the case's files, without reading them."""
        with safe_open(self.folder / name, "pt") as file:
            return sorted(file.keys())


def golden_roots() -> tuple[Path, ...]:
    """Where cases are looked for, the whole ones first."""
    told = os.environ.get("FSGEN_GOLDEN")
    if told is None:
        others = [REPOSITORY.parent / "shared" / "golden"]
    else:
        others = [Path(text) for text in told.split(os.pathsep) if text]
    return *(root for root in others if root.is_dir()), OWN


@cache
def found_below(*roots: Path) -> tuple[Case, ...]:
    """All cases below ``roots``, sorted by folder; of copies of one case the one of the first root."""
    kept: dict[tuple[str, str, str], Case] = {}
    for root in roots:
        for file in sorted(root.rglob("case.json")):
            case = Case(file.parent.resolve(), json.loads(file.read_text(encoding="utf-8")))
            settings = json.dumps(case.info.get("config"), sort_keys=True)
            kept.setdefault((case.label, case.kind, settings), case)
    return tuple(sorted(kept.values(), key=lambda case: (case.label, case.folder)))


def cases(*kinds: str) -> list[Case]:
    """All cases, or those of ``kinds``, sorted by folder."""
    return [case for case in found_below(*golden_roots()) if not kinds or case.kind in kinds]
