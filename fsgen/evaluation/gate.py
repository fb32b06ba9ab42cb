"""``--fail-if 'near_copies>0.05'``: bounds on scores, for pipelines. Imports no torch."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fsgen.errors import Code, FsgenError
from fsgen.measures import format_value, get_measure

_TESTS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le
}  # fmt: skip
_BOUND = re.compile(r"\s*([a-z_0-9]+)\s*(>=|<=|>|<)\s*([-+]?[0-9.]+(?:e[-+]?\d+)?)\s*(%?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Bound:
    """A condition on a metric under which an evaluation fails."""

    metric: str
    test: str  # of ``_TESTS``
    limit: float

    def crossed(self, value: float) -> bool:
        """True if ``value`` fails; NaN always does."""
        return _TESTS[self.test](value, self.limit) or value != value

    def __str__(self) -> str:
        return f"{self.metric} {self.test} {self.limit:g}"


def parse_bounds(texts: list[str]) -> list[Bound]:
    """Parse bounds such as ``near_copies>0.05``; commas separate several in one text.

    Raises:
        FsgenError: not a bound, or an unknown metric.
    """
    return [_bound(part) for text in texts for part in text.split(",")]


def _bound(text: str) -> Bound:
    hint = "as in --fail-if 'near_copies>0.05' (in quotes: the shell reads > itself)"
    if (found := _BOUND.fullmatch(text)) is None:
        raise FsgenError(f"--fail-if: '{text.strip()}' is not a bound", where=text, hint=hint)
    name, test, number, percent = found.groups()
    try:
        limit = float(number)
    except ValueError:
        raise FsgenError(f"--fail-if: '{number}' is not a number", where=text, hint=hint) from None
    return Bound(get_measure(name.lower()).name, test, limit / 100 if percent else limit)


def check_bounds(bounds: list[Bound], metrics: Mapping[str, float]) -> None:
    """Fail if a score crosses a bound.

    Args:
        bounds: from ``parse_bounds``.
        metrics: name -> score of the evaluated set, with every bound's metric.

    Raises:
        FsgenError: with exit code 1, naming each bound that is crossed and the score.
    """
    crossed = [bound for bound in bounds if bound.crossed(metrics[bound.metric])]
    if crossed:
        named = [f"{b.metric} is {format_value(b.metric, metrics[b.metric])} ({b})" for b in crossed]
        raise FsgenError(f"the evaluation fails: {'; '.join(named)}", code=Code.GATE, where=crossed[0].metric)
