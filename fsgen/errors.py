"""The one error a user of fsgen meets. Only ``fsgen.cli`` turns it into a message and an exit code."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Code(StrEnum):
    """The kind of a refusal or failure; what tests and programs (``--json``) go by."""

    USAGE = "usage"  # options that contradict each other, or one that has no effect here
    UNKNOWN_NAME = "unknown-name"  # no family, method, metric, class, option of that name
    OUT_OF_RANGE = "out-of-range"  # a value outside its bounds, or of the wrong type
    NOT_FOUND = "not-found"  # no such file, folder, run or model
    EXISTS = "exists"  # something is in the way
    DAMAGED = "damaged"  # truncated, malformed, not finite
    UNSUPPORTED = "unsupported"  # recognised, but nothing that fsgen reads or does
    UNSAFE = "unsafe"  # asks to run code, or exceeds a bound on size
    INCOMPATIBLE = "incompatible"  # model, method, images or options that do not fit one another
    TOO_FEW = "too-few"  # images, classes or samples
    CHANGED = "changed"  # no longer what was recorded, by its hash
    MISSING_WEIGHTS = "missing-weights"  # of a feature network
    MISSING_PACKAGE = "missing-package"  # an optional dependency
    DECLINED = "declined"  # the user did not accept the terms
    UNWRITABLE = "unwritable"  # no permission, or not a place for files
    DOWNLOAD = "download"  # a server that cannot be reached, or sends something else
    DIVERGED = "diverged"  # training or statistics that are not finite
    SYSTEM = "system"  # a full disk, too little memory
    GATE = "gate"  # a bound of --fail-if is exceeded
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"  # an error in fsgen itself


# Exit code 1: not refused input.
FAILURES = {Code.DOWNLOAD, Code.DIVERGED, Code.SYSTEM, Code.GATE, Code.INTERNAL}


class FsgenError(Exception):
    """A refusal or failure: its cause, its place and the next step, in words for the user.

    Args:
        message: one clear sentence that names the file, option or value at fault.
        code: its kind, which also gives the exit code of the command line.
        where: the file, option or value at fault by itself, for programs.
        hint: what to do next, often an exact command; printed on a line of its own.
    """

    def __init__(self, message: str, *, code: Code = Code.USAGE, where: object = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.where = str(where)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    @property
    def message(self) -> str:
        """The sentence without the hint."""
        return super().__str__()

    @property
    def exit_code(self) -> int:
        """2 for usage or refused input, 1 for a failure that was not the user's doing, 130 interrupted."""
        if self.code is Code.INTERRUPTED:
            return 130
        return 1 if self.code in FAILURES else 2


class Interrupted(FsgenError):
    """Ctrl-C: the step was finished and the state saved; the hint holds the command that resumes."""

    def __init__(self, message: str, *, where: object = "", hint: str = "") -> None:
        super().__init__(message, code=Code.INTERRUPTED, where=where, hint=hint)


def suggest(name: str, known: list[str], otherwise: str = "") -> str:
    """A hint for a misspelt ``name``: ``did you mean 'ewc'?``, else ``otherwise``, else all of ``known``."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return otherwise or f"known: {', '.join(sorted(set(known)))}"


def unknown_name(
    message: str, name: str, known: Iterable[str], *, where: object = None, otherwise: str = ""
) -> FsgenError:
    """The refusal of a ``name`` that is not among ``known``; its hint is ``suggest``'s.

    Args:
        message: one sentence that quotes ``name``.
        name: as the user gave it.
        known: the names there are.
        where: the option at fault; default: ``name``.
        otherwise: the hint where no known name is near.
    """
    hint = suggest(name, list(known), otherwise)
    return FsgenError(message, code=Code.UNKNOWN_NAME, where=name if where is None else where, hint=hint)
