from __future__ import annotations

import pytest

from fsgen.errors import FsgenError
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
    (bound,) = gate.parse([text])
    assert bound.crossed(value) is fails
    if fails:
        with pytest.raises(FsgenError) as caught:
            gate.check([bound], {bound.metric: value})
        assert caught.value.exit_code == 1 and bound.metric in caught.value.message
    else:
        gate.check([bound], {bound.metric: value})


def test_all_crossed_bounds_are_named_with_their_figures():
    bounds = gate.parse(["near_copies>5%,leakage>0.5", "fid>200"])
    with pytest.raises(FsgenError) as caught:
        gate.check(bounds, {"near_copies": 0.12, "leakage": 0.1, "fid": 312.5})
    assert "near_copies is 12.0% (near_copies > 0.05)" in caught.value.message
    assert "fid is 312.5" in caught.value.message and "leakage" not in caught.value.message


@pytest.mark.parametrize("text", ["near_copies", "near_copies=0.1", ">3", "fid>", "fid>a", "fid>1.2.3", ""])
def test_what_is_no_bound_is_refused_with_an_example(text):
    with pytest.raises(FsgenError, match="--fail-if") as caught:
        gate.parse([text])
    assert caught.value.exit_code == 2 and "near_copies>0.05" in caught.value.hint


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(FsgenError, match="no metric 'near_copy'") as caught:
        gate.parse(["near_copy>0.05"])
    assert "near_copies" in caught.value.hint
