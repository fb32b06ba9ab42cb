"""Track which metrics can be computed, why others cannot, and the warnings of one evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fsgen.errors import Code, FsgenError
from fsgen.evaluation.protocols import Choices
from fsgen.measures import MEASURES, get_measure


@dataclass
class Availability:
    """Metrics of one evaluation; leaving out one requested by name (``strict``) is an error."""

    requested: list[str]  # in the order of ``MEASURES``
    strict: frozenset[str] = frozenset()
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)  # metric -> why, remedy
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, protocol: Choices, metrics: Iterable[str] | None, needed: Iterable[str]) -> Availability:
        """Start with ``metrics`` and ``needed``; ``metrics`` None: all of the protocol.

        Raises:
            FsgenError: no such metric, or not in this protocol.
        """
        known = [each.name for each in MEASURES.values() if each.of == protocol.of]
        named = {get_measure(name).name for name in (*(metrics or ()), *needed)}
        if unknown := sorted(named.difference(known)):
            raise FsgenError(f"the protocol {protocol.name} does not compute {unknown[0]}",
                             code=Code.INCOMPATIBLE, where=unknown[0],
                             hint=f"it computes {', '.join(known)}")  # fmt: skip
        return cls([name for name in known if metrics is None or name in named], frozenset(named))

    @property
    def metrics(self) -> list[str]:
        """Metrics that can still be computed."""
        return [name for name in self.requested if name not in self.left_out]

    def in_spaces(self, *spaces: str) -> list[str]:
        """Metrics that can still be computed and use the features of one of ``spaces``."""
        return [name for name in self.metrics if MEASURES[name].space in spaces]

    def exclude(self, names: Iterable[str], error: FsgenError) -> None:
        """Leave out ``names`` for the reason in ``error``.

        Raises:
            FsgenError: ``error`` itself if one of them was requested by name.
        """
        names = [name for name in names if name in self.metrics]
        if self.strict.intersection(names):
            raise error
        self.left_out |= {name: {"why": error.message, "remedy": error.hint} for name in names}

    def drop(self, names: Iterable[str]) -> None:
        """Leave out ``names`` without a message."""
        dropped = set(names)
        self.requested = [name for name in self.requested if name not in dropped]

    def warn(self, line: str) -> None:
        """Add a warning."""
        self.warnings.append(line)

    def lines(self) -> list[str]:
        """Everything left out and all warnings, as lines to print."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for name, reason in self.left_out.items():
            grouped.setdefault((reason["why"], reason["remedy"]), []).append(name)
        lines = [f"left out: {', '.join(names)}: {why}" + (f" ({remedy})" if remedy else "")
                 for (why, remedy), names in grouped.items()]  # fmt: skip
        return lines + [f"warning: {line}" for line in self.warnings]
