"""Finds the golden cases and says when two tensors agree.

A case is a folder with a ``case.json``; its ``kind`` says what it tests, the folder's name says nothing.
``FSGEN_GOLDEN`` may name the root, one family's folder or one case.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
NOISE = 1e-5  # a gradient of a smaller norm is rounding noise


@dataclass(frozen=True)
class Case:
    """One golden case; ``info`` is its case.json."""

    folder: Path
    info: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.info["kind"]

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


def golden_root() -> Path | None:
    """Where the cases are, or None if there is no such folder."""
    root = Path(os.environ.get("FSGEN_GOLDEN") or REPOSITORY.parent / "shared" / "golden")
    return root if root.is_dir() else None


@cache
def _found(root: Path | None) -> tuple[Case, ...]:
    files = sorted(root.rglob("case.json")) if root else []
    return tuple(Case(file.parent, json.loads(file.read_text(encoding="utf-8"))) for file in files)


def cases(*kinds: str) -> list[Case]:
    """All cases, or those of ``kinds``, sorted by folder."""
    return [case for case in _found(golden_root()) if not kinds or case.kind in kinds]


def each(*kinds: str) -> list[Any]:
    """For ``parametrize("case", each("kind"))``: one a case, or one visible skip if there is none."""
    found = [pytest.param(case, id=case.label) for case in cases(*kinds)]
    return found or [skipped(kinds)]


def each_part(*kinds: str, suffix: str) -> list[Any]:
    """For ``parametrize("case, part", ...)``: one for each tensor called PART + ``suffix``."""
    found = [
        pytest.param(case, name.removesuffix(suffix), id=f"{case.label}-{name.removesuffix(suffix)}")
        for case in cases(*kinds)
        for name in case.names()
        if name.endswith(suffix)
    ]
    return found or [skipped(kinds, values=2)]


def skipped(kinds: tuple[str, ...], values: int = 1) -> Any:
    """A parameter set that stands for the absence of cases."""
    where = golden_root() or "no golden folder: set FSGEN_GOLDEN"
    reason = f"no case of kind {', '.join(kinds) or 'any'} ({where})"
    return pytest.param(*[None] * values, id="none", marks=pytest.mark.skip(reason=reason))


def close(
    ours: Tensor | float, reference: Tensor | float, *, grad: bool = False, atol: float | None = None
) -> None:
    """Fail unless ``ours`` agrees with ``reference`` by the rules of the golden folder's README.

    Integers and masks exactly; else within ``atol`` where the case suggests one, else 1e-4 of max|reference|,
    for gradients and their norms (``grad``) 1e-3, unless the reference is rounding noise (norm below 1e-5):
    then ours must be as well.
    """
    ours, reference = torch.as_tensor(ours).detach().cpu(), torch.as_tensor(reference).detach().cpu()
    if ours.numel() == reference.numel() == 1:
        ours = ours.reshape(reference.shape)  # a scalar may be [] or [1]
    assert ours.shape == reference.shape, f"shape {list(ours.shape)}, expected {list(reference.shape)}"
    exact = not reference.is_floating_point()
    ours, reference = ours.double(), reference.double()
    if grad and reference.norm() < NOISE:
        assert ours.norm() < NOISE, f"norm {ours.norm():.3g}, expected rounding noise"
        return
    scale = float(reference[reference.isfinite()].abs().max()) if reference.isfinite().any() else 0.0
    tolerance = 0.0 if exact else atol if atol is not None else (1e-3 if grad else 1e-4) * scale
    # Equal infinities agree; NaN agrees with nothing.
    apart = torch.where(ours == reference, torch.zeros_like(ours), (ours - reference).abs())
    wrong = ~(apart <= tolerance)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} values differ by up to {float(apart.max()):.3g}, "
        f"allowed {tolerance:.3g} (max|reference| {scale:.3g})"
    )
