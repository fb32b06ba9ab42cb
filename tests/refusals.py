"""Refusals by their code and what they name, never by their sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fsgen.errors import Code, FsgenError


@contextmanager
def refused(code: Code, *named: object) -> Iterator[pytest.ExceptionInfo[FsgenError]]:
    """Expect a refusal of the kind ``code`` whose message or hint names each of ``named``: a file, option,
    class, number. The message is one line.
    """
    with pytest.raises(FsgenError) as caught:
        yield caught
    error = caught.value
    assert error.code is code, f"{error.code}, not {code}: {error}"
    assert "\n" not in error.message
    for name in named:
        assert str(name) in f"{error.where}\n{error}", f"'{name}' is not named: {error}"
