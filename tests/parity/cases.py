"""Finds the golden cases and says when two tensors agree.

A case is a folder with a ``case.json``; its ``kind`` says what it tests, the folder's name says nothing.
Cases are looked for in ``tests/golden``, and in the folders that ``FSGEN_GOLDEN`` names (separated by
``os.pathsep``; each a root, one family's folder or one case) or, where it is not set, in
``../shared/golden``. Cases in ``tests/golden`` leave tensors out: where a folder of the others has the whole
case, that one is taken.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = REPOSITORY / "tests" / "golden"
WEIGHTS = "weights.safetensors"
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


def case_at(folder: Path) -> Case:
    return next(case for case in cases() if case.folder == folder)


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
    where = ", ".join(map(str, golden_roots()))
    reason = f"no case of kind {', '.join(kinds) or 'any'} in {where}"
    return pytest.param(*[None] * values, id="none", marks=pytest.mark.skip(reason=reason))


def skip_unused(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Skip, visibly, where some of ``patterns`` compare nothing, as these cases leave such tensors out."""
    names = set(names)
    if unused := [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)]:
        pytest.skip(f"no tensor of these cases is called {', '.join(unused)}")


def stated(text: str, pattern: str, otherwise: float) -> float:
    """The number that ``pattern`` finds in a text of a case; ``otherwise`` where it finds none."""
    match = re.search(pattern, text)
    return float(match[1]) if match else otherwise


def load_parts(net: nn.Module, state: Mapping[str, Tensor]) -> set[str]:
    """Load ``state`` into ``net``. Cases may leave out whole parts (by what stands before the first dot of a
    name), which are returned, and none by halves."""
    missing, unexpected = net.load_state_dict(state, strict=False)
    absent = {key.split(".")[0] for key in missing}
    assert not unexpected and not absent & {key.split(".")[0] for key in state}
    return absent


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
