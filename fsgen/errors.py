"""The one error a user of fsgen meets. Only ``fsgen.cli`` turns it into a message and an exit code."""

from __future__ import annotations


class FsgenError(Exception):
    """What went wrong, where, and what to do next, in words for the person at the keyboard.

    Args:
        message: one clear sentence that names the file or value at fault.
        hint: what to do next, often an exact command; printed on a line of its own.
        code: exit code of the command line: 2 for usage or refused input, 1 for a failure
            that was not the user's doing (a full disk), 130 for an interruption.
    """

    def __init__(self, message: str, *, hint: str = "", code: int = 2) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.hint}" if self.hint else message

    @property
    def message(self) -> str:
        """The sentence without the hint."""
        return super().__str__()


class Interrupted(FsgenError):
    """Ctrl-C: the step was finished and the state saved; the hint holds the command that resumes."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=130)


def suggest(name: str, known: list[str], otherwise: str = "") -> str:
    """``did you mean 'ewc'?`` for a near miss of ``known``, else ``otherwise``, else all there is."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return otherwise or f"known: {', '.join(sorted(set(known)))}"
