"""A module imports from floors below its own or from its own package; heavy imports wait for their use."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "fsgen"
PLAN = (ROOT.parent / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
# | floor | `room/` or `module` | contents | `files`, `to start with` |
ROWS = re.findall(r"^\| (\d) \| `(\w+/?)` \| .+ \| (.*)\|$", PLAN, re.M)
FLOOR = {room.rstrip("/"): int(floor) for floor, room, _ in ROWS}
MODULES = sorted(ROOT.rglob("*.py"))
LIGHT = {"methods", "cli", "registry", "config", "measures", "atomic"}  # import no torch
LIGHT |= {room for room, floor in FLOOR.items() if floor == 1}
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "scipy",
    "matplotlib",
    "lpips",
    "cleanfid",
    "timm",
    "safetensors",
}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path): path for path in MODULES}


def imported(node: ast.AST, module: str) -> list[str]:
    """Modules that an import statement in ``module`` names, in full."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:  # relative
        parts = module.split(".") if NAMES[module].name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
    return [f"{base}.{a.name}" if f"{base}.{a.name}" in NAMES else base for a in node.names]


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree: ast.AST, *, at_import: bool) -> list[ast.AST]:
    """All nodes, or (``at_import``) those that run when the module is imported."""
    found, pending = [], [tree]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if not (at_import and (later or only_for_types(node))):
                found.append(node)
                pending.append(node)
    return found


def imports(module: str, *, at_import: bool = False) -> set[str]:
    tree = ast.parse(NAMES[module].read_text(encoding="utf-8"))
    return {name for node in statements(tree, at_import=at_import) for name in imported(node, module)}


def part(module: str) -> str:
    """``fsgen.io.cache_folders`` -> ``io``; "" for the package itself."""
    return [*module.split("."), ""][1]


def test_the_plan_lists_what_is_there():
    rooms = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    modules = {path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("__")}
    listed = [room for _, room, _ in ROWS]
    assert set(listed) == rooms | modules and len(listed) == len(set(listed))
    for _, room, files in ROWS:
        for name in re.findall(r"`(.+?)`", files):
            assert (ROOT / room / name).is_file(), f"docs/ARCHITECTURE.md names fsgen/{room}{name}"
    for name in re.findall(r"`((?:fsgen|tests)/[\w/]+\.py)`", PLAN):
        assert (ROOT.parent / name).is_file(), f"docs/ARCHITECTURE.md names {name}"


@pytest.mark.parametrize("module", NAMES)
def test_imports_go_down(module):
    if module in ("fsgen", "fsgen.__main__"):
        return  # the package imports upper floors on first use; python -m starts the program
    own = part(module)
    assert own in FLOOR, f"fsgen/{own} stands on no floor: add it to docs/ARCHITECTURE.md"
    for name in imports(module):
        if name.split(".")[0] == "fsgen" and part(name) and part(name) != own:
            allowed = FLOOR[part(name)] < FLOOR[own] or FLOOR[own] == 1 == FLOOR[part(name)]
            assert allowed, f"{module} (floor {FLOOR[own]}) imports {name} (floor {FLOOR[part(name)]})"


def test_no_import_cycles():
    # Imports for types alone run nowhere; registry and types know of each other only so.
    graph = {m: {n for n in imports(m, at_import=True) if n in NAMES and n != m} for m in NAMES}
    graph = {m: {n for n in names if not m.startswith(f"{n}.")} for m, names in graph.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' -> '.join([*path, module])}"
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", [m for m in NAMES if part(m) in LIGHT or m == "fsgen"])
def test_light_modules_import_nothing_heavy(module):
    pending, seen = [module], set()
    while pending:
        current = pending.pop()
        seen.add(current)
        for name in imports(current, at_import=True):
            assert name.split(".")[0] not in HEAVY, f"{module}, by way of {current}, imports {name}"
            pending += [name] if name in NAMES and name not in seen else []


@pytest.mark.parametrize("module", NAMES)
def test_files_stay_short_and_functions_too(module):
    text = NAMES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 60, f"{module}.{node.name} has {length} lines"
    assert module == "fsgen" or not text.strip() or ast.get_docstring(tree), (
        f"{module} does not say what it is"
    )


@pytest.mark.parametrize("module", NAMES)
def test_importing_does_nothing(module):
    """No statement at the top of a module but definitions and imports; nothing is called for its effect."""
    tree = ast.parse(NAMES[module].read_text(encoding="utf-8"))
    allowed_calls = {"fsgen.cli.app"}  # puts the program together
    for node in tree.body:
        called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not called or module in allowed_calls, f"{module}:{node.lineno} {ast.unparse(node)[:60]}"


def test_the_test_sees_what_it_should():
    """The helpers above, held against what is known of a few modules."""
    assert "torch" in imports("fsgen.training.loop", at_import=True)
    assert "torch" not in imports("fsgen.methods.ewc", at_import=True)
    assert "torch" in imports("fsgen.methods.ewc")
    assert "fsgen.training.adapt" in imports("fsgen.cli.adapt")
    assert "fsgen.training.adapt" not in imports("fsgen.cli.adapt", at_import=True)
    assert "fsgen.io.cache_folders" in imports("fsgen.models.model", at_import=True)
    assert len(NAMES) > 40
