"""``fsgen pull metrics``: its output and refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from weight_server import weight_server  # noqa: F401

from fsgen.features.weight_files import BASE, CATALOGUE
from fsgen.io.cache_folders import weights_dir


def test_its_output_is_in_the_format_of_sha256sum(cli, weight_server):  # noqa: F811
    first = cli("pull", "metrics")
    assert first.code == 0 and first.err.count("fetched") == len(BASE)
    for name, line in zip(BASE, first.out.splitlines(), strict=True):
        digest, path = line.split("  ")
        assert Path(path) == weights_dir() / CATALOGUE[name].file
        assert digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    second = cli("pull", "metrics")
    assert second.out == first.out and "fetched" not in second.err
    assert second.err.count("already on this machine") == len(BASE)


def test_only_the_named_weights_are_fetched(cli, weight_server):  # noqa: F811
    result = cli("pull", "metrics", "swav", "resnet50")
    assert result.code == 0 and [name for name, _ in weight_server.asked] == ["swav", "resnet50"]
    assert len(result.out.splitlines()) == 2
    assert CATALOGUE["swav"].used_by in result.err and CATALOGUE["swav"].file in result.err


def test_as_json(cli, weight_server):  # noqa: F811
    rows = json.loads(cli("pull", "metrics", "--everything", "--json").out)
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert all(row["fetched"] and row["bytes"] and len(row["sha256"]) == 64 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("metrics", "--name", "x"), ["--name"]),
        (("metrics", "--force"), ["--force"]),
        (("peeps64", "--everything"), ["--everything", "'peeps64'"]),
        (("metrics", "swav", "--everything"), ["--everything", "swav"]),
        (("metrics", "swaw"), ["'swaw'", "did you mean 'swav'?"]),
        (("ffhq", "metfaces"), ["ffhq", "metfaces"]),
    ],
)
def test_options_that_do_not_belong(cli, arguments, named):
    result = cli("pull", *arguments)
    assert result.code == 2 and all(name in result.err for name in named) and result.out == ""


def test_without_network_it_prints_the_addresses(cli, weight_server):  # noqa: F811
    weight_server.bodies.clear()  # the server hangs up on every request
    weight_server.handle_error = lambda *_: None
    result = cli("pull", "metrics")
    assert result.code == 1 and result.out == ""
    for name in BASE:
        assert f"get {CATALOGUE[name].url}" in result.err
