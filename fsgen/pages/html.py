"""Templates to pages."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import fsgen
from fsgen.errors import FsgenError

if TYPE_CHECKING:
    from jinja2 import Environment

LIMIT = 3_000_000  # bytes of a page


def page(template: str, **content: Any) -> str:
    """The HTML of ``templates/<template>``, filled with ``content``; every string is escaped.

    Raises:
        FsgenError: it is larger than ``LIMIT``.
    """
    text = _environment().get_template(template).render(version=fsgen.__version__, **content)
    data = text.encode("utf-8", "replace")  # a file's name may hold what is no text
    if len(data) > LIMIT:
        raise FsgenError(
            f"the page would have {len(data) / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}",
            hint="show fewer runs on it",
        )
    return data.decode("utf-8")


def part(tree: Any, *keys: str) -> dict[str, Any]:
    """The dictionary under ``keys`` in ``tree``; empty where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def listed(tree: Any, key: str) -> list[Any]:
    """The list under ``key`` in ``tree``; empty where there is none."""
    found = tree.get(key) if isinstance(tree, dict) else None
    return found if isinstance(found, list) else []


def flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested dictionaries under dotted names, without those that are None or empty."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            leaves += flat(value, f"{name}.")
        elif value not in (None, "", []):
            leaves.append((name, value))
    return leaves


def duration(seconds: Any) -> str:
    """``45 s``, ``1 min 49 s``, ``2 h 5 min``; empty for what is no time."""
    if not is_number(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def memory(megabytes: Any) -> str:
    """``1,100 MB``; empty for what is no amount."""
    return f"{megabytes:,} MB" if is_number(megabytes) else ""


def plain(value: Any) -> str:
    """A leaf of the configuration as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 1_000_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_hash(value: Any) -> bool:
    """Whether ``value`` looks like the hash of something, which is too long to be read."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value) is not None


@cache
def _environment() -> Environment:
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("fsgen.pages"), autoescape=True, undefined=ChainableUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"plain": plain, "duration": duration, "memory": memory, "count": "{:,}".format}
    environment.tests["hash"] = is_hash
    return environment
