"""With --json a refusal or failure is one line of JSON on stderr, nothing is on stdout."""

from __future__ import annotations

import errno
import json

import pytest

from fsgen.errors import Code, FsgenError


@pytest.mark.parametrize(
    ("arguments", "code", "where"),
    [
        ("eval source --real absent --fit stretch", "unknown-name", "stretch"),
        ("eval source --real absent --samples 1", "out-of-range", "--samples"),
        ("compare a b --fid clean", "usage", "--fid"),
        ("eval source --frob", "usage", "--frob"),
        ("eval source --real absent --seeds many", "usage", "--seeds"),
        ("eval", "usage", "path"),
    ],
)
def test_refusals(cli, arguments, code, where):
    shown = cli(*arguments.split(), "--json")
    assert shown.code == 2 and shown.out == ""
    (line,) = shown.err.splitlines()
    error = json.loads(line)["error"]
    assert (error["code"], error["where"]) == (code, where)
    assert error.keys() == {"code", "message", "where", "hint"} and where in error["message"]


@pytest.mark.parametrize(
    ("error", "exit_code", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left"), 1, {"code": "system", "where": ""}),
        (ZeroDivisionError("oops"), 1, {"code": "internal", "message": "ZeroDivisionError: oops"}),
        (FsgenError("no 'x'", code=Code.NOT_FOUND, where="x", hint="try y"), 2,
         {"code": "not-found", "message": "no 'x'", "where": "x", "hint": "try y"}),
    ],
)  # fmt: skip
def test_failures(cli, monkeypatch, error, exit_code, expected):
    def fail(*args):
        raise error

    monkeypatch.setattr("fsgen.models.model.load_model", fail)
    shown = cli("info", "peeps64", "--json")
    found = json.loads(shown.err)["error"]
    assert shown.code == exit_code and shown.out == "" and expected.items() <= found.items()


def test_data_and_help_are_as_before(cli):
    assert json.loads(cli("info", "peeps64", "--json").out)["title"] == "peeps64"
    shown = cli("info", "--json", "--help")
    assert shown.code == 0 and "Usage:" in shown.out and shown.err == ""
