"""Names in ``fsgen/`` use the field's terms, and one name stands for one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "fsgen"
MODULES = sorted(ROOT.rglob("*.py"))
INSTEAD = {  # word -> the term to use; compared with whole words, split at "_" and CamelCase
    "critic": "discriminator",
    "pile": "dataset, image set, real images, shots",
    "piles": "datasets, image sets",
    "reals": "real images, shots",
    "eye": "feature extractor, features",
    "eyes": "feature extractors",
    "sight": "features",
    "look": "extract, inspect",
    "looking": "feature extraction",
    "seen": "the name of what was extracted or read",
    "keeper": "accumulator",
    "keepers": "accumulators",
    "watch": "callbacks, progress",
    "watchman": "callback",
    "watchmen": "callbacks",
    "play": "training step context",
    "bench": "method context",
    "nearness": "early stopping, distance to the shots",
    "enough": "early stopping, the criterion's name",
    "hold": "freeze, mask gradients",
    "held": "frozen, masked",
    "still": "frozen, masked",
    "leave": "export, fold",
    "enter": "initialise, set up",  # __enter__ is Python's own and is not checked
    "settle": "initialise, refresh statistics",
    "meet": "set up, prepare",
    "supply": "inputs, batches, data source",
    "fed": "inputs",
    "figure": "score, metric",
    "figures": "scores, metrics",
    "mark": "score, metric",
    "marks": "scores, metrics",
}
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
TERMS = ("held_out",)  # terms of the field that contain such a word
OTHERS_TERMS = {  # terms of other people's formats and libraries: (file, word) -> whose
    ("training/plots.py", "figure"): "matplotlib's Figure",
}

REPEATED_MODULES = {"__init__", "family", "networks", "convert", "layers"}  # one per family package
COMMANDS = set(re.findall(r'app\.command\("(\w+)"', (ROOT / "cli" / "app.py").read_text(encoding="utf-8")))
# Public names that several modules define, because each does the same to its own kind of thing.
REPEATED_NAMES = {
    "read": "a file of the module's format",
    "write": "a file of the module's format",
    "render": "the module's page",
    "run": "carries out the module's kind of job",
    "Generator": "the Protocol, and each family's network",
    "Discriminator": "the Protocol, and each family's network",
}


def words(name: str) -> list[str]:
    if re.fullmatch(r"__\w+__", name):
        return []
    for term in TERMS:
        name = name.replace(term, "")
    return [word.lower() for word in WORDS.findall(name)]


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of the module, its classes, functions and their parameters."""
    yield 1, path.stem
    if path.name == "__init__.py":
        yield 1, path.parent.name
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def room(path: Path) -> str:
    """The folder below ``fsgen/``, or the module where there is none."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("name", sorted({room(path) for path in MODULES}))
def test_names_are_the_fields_terms(name):
    found = []
    for path in MODULES:
        file = path.relative_to(ROOT).as_posix()
        if room(path) == name:
            found += [
                f"fsgen/{file}:{line} {bearer}: {INSTEAD[word]}"
                for line, bearer in names(path)
                for word in words(bearer)
                if word in INSTEAD and (file, word) not in OTHERS_TERMS
            ]
    assert not found, "\n".join(found)


def test_no_two_modules_of_one_name():
    places = defaultdict(list)
    for path in MODULES:
        command = room(path) == "cli" and path.stem in COMMANDS
        if path.stem not in REPEATED_MODULES and not command:
            places[path.stem].append(path.relative_to(ROOT).as_posix())
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_no_two_public_classes_or_functions_of_one_name():
    """Family packages may each have their own ``Generator``; commands bear the name of what they call."""
    places = defaultdict(set)
    for path in MODULES:
        if room(path) != "cli":
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    own = room(path) if room(path) == "families" else path.relative_to(ROOT).as_posix()
                    places[node.name].add(own)
    repeated = {name: sorted(where) for name, where in places.items() if len(where) > 1}
    assert not {name: where for name, where in repeated.items() if name not in REPEATED_NAMES}


def test_names_are_split_into_words():
    assert words("MiniBatchFid_of_reals2") == ["mini", "batch", "fid", "of", "reals", "2"]
    assert words("RGBToYUV") == ["rgb", "to", "yuv"]
    assert words("threshold") == ["threshold"] and words("__enter__") == words("held_out_") == []
