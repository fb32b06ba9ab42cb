"""How long a stage of a method lasts: as published, in proportion for shorter runs, or as asked for."""

from __future__ import annotations

from fsgen.errors import FsgenError

AUTO = "auto"


def asked(text: str, flag: str, least: int = 1) -> int | None:
    """The whole number that an option holds; None for ``auto``.

    Raises:
        FsgenError: neither, or below ``least``.
    """
    if text == AUTO:
        return None
    if not text.isdecimal() or int(text) < least:
        raise FsgenError(f"{flag} cannot be '{text}'", hint=f"auto, or a whole number of at least {least}")
    return int(text)


def scaled(published: int, of: int, steps: int) -> int:
    """``published`` steps of a run of ``of``, and the same share of a run of fewer; at least 1."""
    return max(1, min(published, round(published * steps / of)))
