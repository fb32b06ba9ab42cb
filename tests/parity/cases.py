"""The golden cases as parameters of tests, and when two tensors agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import OWN, REPOSITORY, WEIGHTS, Case, cases, found_below, golden_roots
from torch import Tensor, nn

__all__ = ["OWN", "REPOSITORY", "WEIGHTS", "Case", "cases", "found_below", "golden_roots"]
NOISE = 1e-5  # a gradient of a smaller norm is rounding noise
Outputs = tuple[tuple[str, Callable[[Any, re.Match], Any]], ...]
"""(pattern of a tensor's name, (run of the case, match) -> ours), ..."""


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


def each_output(*kinds: str, is_input: Callable[[Case, str], bool]) -> list[Any]:
    """For ``parametrize("case, name", ...)``: every tensor of the cases that is not an input."""
    found = [
        pytest.param(case, name, id=f"{case.label}-{name}")
        for case in cases(*kinds)
        for name in case.names()
        if not is_input(case, name)
    ]
    return found or [skipped(kinds, values=2)]


def computed(table: Outputs, run: Any, case: Case, name: str) -> Any:
    """What ``table`` computes for one tensor of a case; one that no pattern knows fails."""
    for pattern, compute in table:
        if match := re.fullmatch(pattern, name):
            return compute(run, match)
    pytest.fail(f"{case.label} has {name}, which no test compares")


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
