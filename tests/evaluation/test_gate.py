from __future__ import annotations

import pytest
from refusals import refused

from fsgen.errors import Code
from fsgen.evaluation import gate


@pytest.mark.parametrize(
    ("text", "value", "fails"),
    [
        ("near_copies>0.05", 0.06, True),
        ("near_copies>0.05", 0.05, False),
        ("near_copies >= 5%", 0.05, True),
        ("  FID > 1e2 ", 99.0, False),
        ("diversity<0.5", 0.4, True),
        ("diversity<=.5", 0.5, True),
        ("kid>-1", float("nan"), True),  # what is no number passes no gate
    ],
)
def test_a_bound_is_crossed_or_not(text, value, fails):
    (bound,) = gate.parse_bounds([text])
    assert bound.crossed(value) is fails
    if fails:
        with refused(Code.GATE, bound.metric) as caught:
            gate.check_bounds([bound], {bound.metric: value})
        assert caught.value.exit_code == 1
    else:
        gate.check_bounds([bound], {bound.metric: value})


def test_all_crossed_bounds_are_named_with_their_figures():
    bounds = gate.parse_bounds(["near_copies>5%,leakage>0.5", "fid>200"])
    with refused(Code.GATE, "near_copies is 12.0% (near_copies > 0.05)", "fid is 312.5") as caught:
        gate.check_bounds(bounds, {"near_copies": 0.12, "leakage": 0.1, "fid": 312.5})
    assert "leakage" not in caught.value.message


@pytest.mark.parametrize("text", ["near_copies", "near_copies=0.1", ">3", "fid>", "fid>a", "fid>1.2.3", ""])
def test_what_is_no_bound_is_refused_with_an_example(text):
    with refused(Code.USAGE, "--fail-if", text.removeprefix("fid>"), "near_copies>0.05"):
        gate.parse_bounds([text])


def test_an_unknown_metric_is_refused_with_the_nearest():
    with refused(Code.UNKNOWN_NAME, "'near_copy'", "near_copies"):
        gate.parse_bounds(["near_copy>0.05"])
