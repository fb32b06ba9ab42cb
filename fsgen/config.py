"""Options as frozen dataclasses: strict construction, and TOML in and out."""

from __future__ import annotations

import dataclasses
from keyword import iskeyword
from pathlib import Path
from typing import Any, TypeVar

from fsgen.errors import FsgenError, suggest

T = TypeVar("T")


def options(kind: type[T], values: dict[str, Any], where: str) -> T:
    """``kind(**values)``; an unknown key fails and suggests the near miss, a wrong type fails by name.

    Args:
        kind: a dataclass whose fields have defaults; ``choices`` in a field's metadata are all it may be. A
            field named after a Python keyword ends in an underscore, which may be left out of ``values``.
        values: field name -> value; None means the default.
        where: what the values belong to, for the message.
    """
    if not isinstance(values, dict):
        raise FsgenError(f"{where} is not a table of options")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {f"{key}_" if iskeyword(key) else key: value for key, value in values.items()}
    for key in values:
        if key not in fields:
            raise FsgenError(f"{where} has no option '{key}'", hint=suggest(key, list(fields)))
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        default = fields[key].default
        if (choices := fields[key].metadata.get("choices")) and value not in choices:
            raise FsgenError(f"{where}: '{key}' cannot be '{value}'", hint=suggest(str(value), list(choices)))
        if isinstance(default, bool) is not isinstance(value, bool):
            raise FsgenError(f"{where}: '{key}' takes a {type(default).__name__}, not {value!r}")
        if isinstance(default, float) and isinstance(value, int):
            given[key] = float(value)
        elif isinstance(default, str) and type(value) in (int, float):
            given[key] = str(value)  # "auto" or a number
        elif default is not None and not isinstance(value, type(default)):
            raise FsgenError(f"{where}: '{key}' takes a {type(default).__name__}, not {value!r}")
    return kind(**given)


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        FsgenError: absent or not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FsgenError(f"no such file: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FsgenError(f"{path} is not valid TOML: {error}") from None


def to_toml(values: dict[str, Any]) -> str:
    """TOML text; None values are left out (TOML has no null)."""
    import tomli_w

    return tomli_w.dumps(_without_none(values))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
