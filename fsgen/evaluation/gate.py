"""``--fail-if 'near_copies>0.05'``: bounds that a pipeline sets. Imports no torch."""

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
    """A metric beyond which an evaluation fails."""

    metric: str
    test: str  # of ``_TESTS``
    limit: float

    def crossed(self, value: float) -> bool:
        """Whether ``value`` is on the wrong side."""
        return _TESTS[self.test](value, self.limit) or value != value  # NaN passes no gate

    def __str__(self) -> str:
        return f"{self.metric} {self.test} {self.limit:g}"


def parse(texts: list[str]) -> list[Bound]:
    """Bounds as in ``near_copies>0.05``; several may stand in one text, joined by commas.

    Raises:
        FsgenError: not a bound, or of a metric that does not exist.
    """
    return [_bound(part) for text in texts for part in text.split(",")]


def _bound(text: str) -> Bound:
    hint = "as in --fail-if 'near_copies>0.05' (in quotes: the shell reads > itself)"
    if (found := _BOUND.fullmatch(text)) is None:
        raise FsgenError(f"--fail-if: '{text.strip()}' is not a bound", hint=hint)
    name, test, number, percent = found.groups()
    try:
        limit = float(number)
    except ValueError:
        raise FsgenError(f"--fail-if: '{number}' is not a number", hint=hint) from None
    return Bound(get_measure(name.lower()).name, test, limit / 100 if percent else limit)


def check(bounds: list[Bound], metrics: Mapping[str, float]) -> None:
    """Refuse figures that cross a bound.

    Args:
        bounds: what ``parse`` made.
        metrics: name -> value of what was evaluated; every bound's metric is there.

    Raises:
        FsgenError: with exit code 1, naming each bound that was crossed and the figure.
    """
    crossed = [bound for bound in bounds if bound.crossed(metrics[bound.metric])]
    if crossed:
        named = [f"{b.metric} is {format_value(b.metric, metrics[b.metric])} ({b})" for b in crossed]
        raise FsgenError(f"the evaluation fails: {'; '.join(named)}", code=Code.GATE)
