"""The script that counts lines of code, on a text whose lines are known."""

from __future__ import annotations

from count_lines import by_folder, count, sources

TEXT = '''"""Docstring,
of two lines."""

# a comment
import ast  # counts: code with a comment behind it


class A:
    """Docstring."""

    text = """a string that is
    no docstring"""

    def b(self, x: int) -> int:
        """Docstring."""

        return (
            x
            # a comment inside
            + 1
        )
'''


def test_counts_code_alone():
    assert count(TEXT) == 9
    assert count("") == count("# nothing\n\n") == count('"""Docstring."""\n') == 0


def test_counts_every_module_once():
    texts = sources()
    assert "fsgen/cli/app.py" in texts and "fsgen/__init__.py" in texts
    lines = by_folder(texts)
    assert lines.total() == sum(map(count, texts.values())) > lines["cli"] > 0


def test_counts_new_files_apart():
    lines = by_folder({"fsgen/a/b.py": "x = 1\n", "fsgen/a/c.py": "x = 1\ny = 2\n"}, ["fsgen/a/c.py"])
    assert lines == {"a": 1, "new": 2}
