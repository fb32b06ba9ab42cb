from __future__ import annotations

import pytest
from refusals import refused

from fsgen.cli.eval import evaluate
from fsgen.errors import Code
from fsgen.evaluation import protocols
from fsgen.evaluation.protocols import DEFAULT, protocol

PUBLISHED = ("cdc", "adam", "wedit", "lfs", "crdi", "diffaugment")


def test_all_protocols_are_there_and_the_help_names_them():
    assert list(protocols._protocols()) == [DEFAULT, *PUBLISHED, "funit"]
    assert all(name in evaluate.__annotations__["protocol"] for name in (*PUBLISHED, "funit"))


@pytest.mark.parametrize("name", [None, *PUBLISHED])
def test_every_choice_says_where_it_comes_from(name):
    found = protocol(name)
    choices = found.about()["choices"]
    assert {choice["what"] for choice in choices} == {
        "samples", "fid", "real_images", "flip_reals", "intra_samples", "intra_per_cluster", "intra_empty"
    }  # fmt: skip
    for choice in choices:
        assert choice["value"] == getattr(found, choice["what"]) and len(choice["source"]) >= 4
        if name is not None:
            assert choice["source"].split(":")[0].split(";")[0] in ("code", "not stated")
    assert found.samples >= found.intra_samples >= found.intra_per_cluster


def test_so_does_every_choice_of_translations():
    found = protocol("funit")
    assert found.of == "translations" and found.shots == [1, 5, 10, 15, 20]
    assert {choice["what"] for choice in found.about()["choices"]} == {
        "samples", "shots", "kept", "contents", "classifiers", "fid", "intervals"
    }  # fmt: skip
    assert all(choice["value"] == getattr(found, choice["what"]) for choice in found.about()["choices"])
    assert found.with_fid("torchvision").fid == "torchvision" and "25,000" in found.sources["samples"]


def test_protocols_differ_where_the_papers_do():
    assert protocol("cdc").fid == "legacy_pytorch" and protocol("adam").fid == "torchvision"
    assert protocol("adam").flip_reals and not protocol("cdc").flip_reals
    assert protocol("cdc").intra_empty == "drop" and protocol("wedit").intra_empty == "zero"
    assert protocol("crdi").intra_samples == 5000 > protocol("cdc").intra_samples


def test_an_unknown_protocol_is_refused_with_the_nearest():
    with refused(Code.UNKNOWN_NAME, "'cdcs'", "'cdc'"):
        protocol("cdcs")
