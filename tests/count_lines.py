"""Lines of code of ``fsgen/`` by tokens, without blank lines, comments and docstrings.

python tests/count_lines.py          now, by folder and in total
python tests/count_lines.py REV      and at a git revision, with the difference
python tests/count_lines.py REV FILE ...   the same, with these files counted apart as "new"

A line counts if a token starts on it or goes through it (a string over three lines counts three).
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip


def count(source: str) -> int:
    """Lines of code in a module's text."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def sources(revision: str | None = None) -> dict[str, str]:
    """Path -> text of every module of ``fsgen/``, in the working tree or at ``revision``."""
    if revision is None:
        return {
            path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
            for path in ROOT.glob("fsgen/**/*.py")
        }
    listed = _git("ls-tree", "-r", "--name-only", revision, "fsgen").splitlines()
    return {path: _git("show", f"{revision}:{path}") for path in listed if path.endswith(".py")}


def by_folder(texts: dict[str, str], new: Sequence[str] = ()) -> Counter[str]:
    """Folder below ``fsgen/`` -> lines of code; "." for the modules there, "new" for files in ``new``."""
    lines: Counter[str] = Counter()
    for path, text in texts.items():
        parts = PurePosixPath(path).parts
        lines["new" if path in new else parts[1] if len(parts) > 2 else "."] += count(text)
    return lines


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def main() -> None:
    revision, *new = sys.argv[1:] or [None]
    now, then = by_folder(sources(), new), by_folder(sources(revision)) if revision else None
    for folder in sorted({*now, *(then or ())} - {"new"}):
        _print(folder, now[folder], then[folder] if then is not None else None)
    _print("total", now.total() - now["new"], then.total() if then is not None else None)
    if new:
        _print("new", now["new"], None)


def _print(name: str, now: int, then: int | None) -> None:
    print(f"{name:12} {now:6,}" + ("" if then is None else f" {then:6,} {now - then:+6,}"))


if __name__ == "__main__":
    main()
