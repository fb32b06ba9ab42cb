"""What could not be measured, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fsgen.errors import FsgenError
from fsgen.evaluation.protocols import Choices
from fsgen.measures import MEASURES, get_measure


@dataclass
class Notes:
    """Notes of one evaluation. What was asked for by name (``strict``) must be done: it is never left out."""

    asked: list[str]  # metrics, in the order of the table
    strict: frozenset[str] = frozenset()
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)  # metric -> why, remedy
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, protocol: Choices, metrics: Iterable[str] | None, needed: Iterable[str]) -> Notes:
        """Notes on ``metrics`` and those ``needed`` besides; None: on all that the protocol has.

        Raises:
            FsgenError: there is no such metric, or not in this protocol.
        """
        known = [each.name for each in MEASURES.values() if each.of == protocol.of]
        named = {get_measure(name).name for name in (*(metrics or ()), *needed)}
        if strange := sorted(named.difference(known)):
            raise FsgenError(f"{strange[0]} is none of the metrics of the protocol {protocol.name}",
                             hint=f"its are {', '.join(known)}")  # fmt: skip
        return cls([name for name in known if metrics is None or name in named], frozenset(named))

    @property
    def metrics(self) -> list[str]:
        """Those that are still to be had."""
        return [name for name in self.asked if name not in self.left_out]

    def needs(self, *spaces: str) -> list[str]:
        """Metrics still to be had that are taken in one of ``spaces``."""
        return [name for name in self.metrics if MEASURES[name].space in spaces]

    def leave_out(self, names: Iterable[str], error: FsgenError) -> None:
        """Give up ``names`` for the reason in ``error``.

        Raises:
            FsgenError: ``error`` itself, where one of them was asked for by name.
        """
        names = [name for name in names if name in self.metrics]
        if self.strict.intersection(names):
            raise error
        self.left_out |= {name: {"why": error.message, "remedy": error.hint} for name in names}

    def forget(self, names: Iterable[str]) -> None:
        """Give up ``names`` without a word."""
        gone = set(names)
        self.asked = [name for name in self.asked if name not in gone]

    def warn(self, line: str) -> None:
        """Remember a warning."""
        self.warnings.append(line)

    def lines(self) -> list[str]:
        """All of it, for people."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for name, note in self.left_out.items():
            grouped.setdefault((note["why"], note["remedy"]), []).append(name)
        lines = [f"left out: {', '.join(names)}: {why}" + (f" ({remedy})" if remedy else "")
                 for (why, remedy), names in grouped.items()]  # fmt: skip
        return lines + [f"warning: {line}" for line in self.warnings]
