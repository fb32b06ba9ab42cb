"""Strict construction of option dataclasses, checks of their values; TOML in and out."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsgen.errors import Code, FsgenError, suggest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

PlainDict = dict[str, Any]
"""A table of plain values, as JSON and TOML have it."""


def options(kind: type[T], values: PlainDict, where: str) -> T:
    """Construct ``kind(**values)``; refuse unknown keys and wrong types.

    Args:
        kind: a dataclass whose fields have defaults; ``choices`` in a field's metadata lists its values. A
            field named after a Python keyword ends in an underscore, optional in ``values``.
        values: field name -> value; None means the default.
        where: source of the values, for messages.

    Raises:
        FsgenError: unknown key, with the nearest name; a value of the wrong type or not among the choices.
    """
    if not isinstance(values, dict):
        raise FsgenError(f"{where} is not a table of options", code=Code.OUT_OF_RANGE, where=where)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {f"{key}_" if iskeyword(key) else key: value for key, value in values.items()}
    for key in values:
        if key not in fields:
            message, hint = (
                f"{where} has no option '{key}'",
                suggest(key, [name.rstrip("_") for name in fields]),
            )
            raise FsgenError(message, code=Code.UNKNOWN_NAME, where=key, hint=hint)
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        default = fields[key].default
        if (choices := fields[key].metadata.get("choices")) and value not in choices:
            message, hint = f"{where}: '{key}' cannot be '{value}'", suggest(str(value), list(choices))
            raise FsgenError(message, code=Code.OUT_OF_RANGE, where=key, hint=hint)
        fits = default is None or isinstance(value, type(default))
        if isinstance(default, float) and type(value) is int:
            given[key] = float(value)
        elif isinstance(default, str) and type(value) in (int, float):
            given[key] = str(value)  # "auto" or a number
        elif isinstance(default, bool) is not isinstance(value, bool) or not fits:
            message = f"{where}: '{key}' takes a {type(default).__name__}, not {value!r}"
            raise FsgenError(message, code=Code.OUT_OF_RANGE, where=key)
    return kind(**given)


def check_range(flag: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse a value of the option ``flag`` that is not a finite number in [least, most]."""
    if not (least <= value <= most and value < math.inf):
        bounds = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
        raise FsgenError(f"{flag} {value:g} is not {bounds}", code=Code.OUT_OF_RANGE, where=flag)


def number_or_auto(flag: str, text: str) -> float | None:
    """Read the value of an option ``flag`` that takes ``auto`` (None) or a number of at least 0.

    Raises:
        FsgenError: neither.
    """
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        message = f"{flag} {text} is neither auto nor a number of at least 0"
        raise FsgenError(message, code=Code.OUT_OF_RANGE, where=flag, hint=f"{flag} auto")
    return value


def read_toml(path: Path) -> PlainDict:
    """Read a TOML file.

    Raises:
        FsgenError: absent or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FsgenError(f"no such file: {path}", code=Code.NOT_FOUND, where=path) from None
    except OSError as error:
        raise FsgenError(f"cannot read {path}: {error.strerror}", code=Code.UNSUPPORTED, where=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{path} is not valid TOML: {error}"
        raise FsgenError(message, code=Code.DAMAGED, where=path) from None


def to_toml(values: PlainDict) -> str:
    """Convert to TOML text without None values, as TOML has no null."""
    import tomli_w

    return tomli_w.dumps(_without_none(values))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
