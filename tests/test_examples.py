"""The example scripts name what exists in fsgen; their pages name files that exist."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.rglob("*.py"))
PAGES = sorted(EXAMPLES.rglob("*.md"))


def resolve(name: str) -> object:
    """The module, class or function of a dotted name; None if there is none."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        return getattr(resolve(parent), last, None) if parent else None


def missing(tree: ast.AST) -> list[str]:
    """Dotted names that a script takes from fsgen and that do not exist."""
    names, taken = {"fsgen": "fsgen"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fsgen":
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name: of for name, of in names.items() if isinstance(resolve(of), ModuleType)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            taken.add(f"{modules[node.value.id]}.{node.attr}")
    return sorted(name for name in taken | set(names.values()) if resolve(name) is None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_name_what_exists(script):
    assert missing(ast.parse(script.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(EXAMPLES).as_posix())
def test_pages_link_to_what_exists(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for script in re.findall(r"`(\w+\.py)`", text):
        assert (page.parent / script).is_file(), script


def test_missing_names_are_found():
    text = "from fsgen import rng\nfrom fsgen.rng import nope\nrng.nothing\nrng.generator\nfsgen.load"
    assert missing(ast.parse(text)) == ["fsgen.rng.nope", "fsgen.rng.nothing"]
