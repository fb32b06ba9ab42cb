"""Render page templates; read and format values of reports."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard

import fsgen
from fsgen.errors import Code, FsgenError

if TYPE_CHECKING:
    from jinja2 import Environment

LIMIT = 3_000_000  # bytes of a page


def render_template(template: str, **content: object) -> str:
    """Fill ``templates/<template>`` with ``content``; every string is escaped.

    Raises:
        FsgenError: the page is larger than ``LIMIT``.
    """
    text = _environment().get_template(template).render(version=fsgen.__version__, **content)
    data = text.encode("utf-8", "replace")  # file names may hold bytes that are not text
    if len(data) > LIMIT:
        megabytes = f"{len(data) / 1e6:.1f} MB"
        raise FsgenError(f"the page is larger than {LIMIT / 1e6:.0f} MB: {megabytes}", code=Code.OUT_OF_RANGE,
                         where=megabytes, hint="show fewer runs on it")  # fmt: skip
    return data.decode("utf-8")


def subtree(tree: object, *keys: str) -> dict[str, Any]:
    """The dictionary under ``keys`` in ``tree``; empty if there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def sublist(tree: dict[str, Any], key: str) -> list[Any]:
    """The list under ``key`` in ``tree``; empty if there is none."""
    found = tree.get(key)
    return found if isinstance(found, list) else []


def flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested dictionaries under dotted names, without those that are None or empty."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            leaves += flatten(value, f"{name}.")
        elif value not in (None, "", []):
            leaves.append((name, value))
    return leaves


def format_duration(seconds: object) -> str:
    """``45 s``, ``1 min 49 s``, ``2 h 5 min``; empty if not a number."""
    if not is_number(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_memory(megabytes: object) -> str:
    """``1,100 MB``; empty if not a number."""
    return f"{megabytes:,} MB" if is_number(megabytes) else ""


def format_plain(value: object) -> str:
    """A leaf of the configuration as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 1_000_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(format_plain, value)) if isinstance(value, list | tuple) else str(value)


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_hash(value: object) -> bool:
    """True for the hash of something, which is too long to be read."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value) is not None


@cache
def _environment() -> Environment:
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("fsgen.pages"), autoescape=True, undefined=ChainableUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "plain": format_plain, "duration": format_duration, "memory": format_memory, "count": "{:,}".format,
    }  # fmt: skip
    environment.tests["hash"] = is_hash
    return environment
