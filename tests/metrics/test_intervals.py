from __future__ import annotations

import json
from math import gamma

import numpy as np
import pytest

from fsgen.metrics.diversity import mean_pairwise, mean_pairwise_resampled
from fsgen.metrics.intervals import (
    Estimate,
    draws,
    interval,
    over_seeds,
    pairs_resampled,
    share,
    shares_resampled,
)


def test_draws_are_resamples():
    counts = draws(50, 400, 3)
    assert counts.shape == (400, 50) and (counts.sum(axis=1) == 50).all() and counts.min() == 0
    # A count is binomial (50, 1/50): mean 1, variance 0.98; a share 0.98^50 is never drawn.
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.25)
    assert counts.var() == pytest.approx(0.98, abs=0.05)
    assert (counts == 0).mean() == pytest.approx(0.98**50, abs=0.01)
    np.testing.assert_array_equal(counts, draws(50, 400, 3))
    assert (counts != draws(50, 400, 4)).any()


def test_an_interval_is_the_spread_around_the_figure_wherever_the_replicates_lie():
    replicates = np.linspace(100, 200, 1001)  # of mean 150
    found = interval(7.0, replicates, level=0.9)
    assert (found.low, found.high) == pytest.approx((7 - 45, 7 + 45))
    assert interval(7.0, replicates, level=0.5).high == pytest.approx(7 + 25)
    clipped = interval(7.0, replicates, least=0, most=20)
    assert (clipped.low, clipped.high) == (0, 20)
    assert interval(-1.0, replicates, least=0).low == -1  # never beyond the value itself
    lopsided = interval(1.0, np.array([0.0] * 99 + [100]))
    assert lopsided.low <= 1 <= lopsided.high


def test_replicates_without_a_value_are_left_out():
    replicates = np.array([1.0, np.nan, 3.0, np.inf])
    assert interval(2.0, replicates) == interval(2.0, np.array([1.0, 3.0]))
    assert interval(2.0, replicates[1:3]) == Estimate(2.0, None, None)
    assert json.loads(json.dumps(Estimate(2.0).plain())) == {"value": 2.0, "low": None, "high": None}


def test_shares():
    indicators = np.array([True, True, False, False])
    counts = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 1, 3, 0]])
    np.testing.assert_array_equal(shares_resampled(indicators, counts), [0.5, 1, 0.25])
    found = share(np.arange(100) < 30, 2000)
    # A share p of n is normal with variance p (1 - p) / n for all practical purposes.
    assert found.value == 0.3
    assert (found.low, found.high) == pytest.approx((0.3 - 0.09, 0.3 + 0.09), abs=0.015)


def test_none_of_a_few_is_not_sure_to_be_none_of_all():
    none, all_ = share(np.zeros(10, bool), 50), share(np.ones(10, bool), 50)
    assert (none.value, none.low) == (0, 0) and (all_.value, all_.high) == (1, 1)
    assert none.high == pytest.approx(0.3085, abs=1e-4)  # of the tables of binomial limits
    assert all_.low == pytest.approx(1 - none.high)
    assert share(np.zeros(1000, bool), 50).high < 0.004


def test_over_seeds_is_students_interval():
    found = over_seeds([Estimate(value) for value in (1.0, 2.0, 3.0)])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t with 2 degrees of freedom
    assert found.low == pytest.approx(4 - found.high)
    assert over_seeds([Estimate(1.0), Estimate(2.0)], least=0, most=2).plain() == {
        "value": 1.5,
        "low": 0,
        "high": 2,
    }
    assert over_seeds([Estimate(1.0, 0.5, 1.5)]) == Estimate(1.0, 0.5, 1.5)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_pairs_are_weighted_by_their_counts_and_no_sample_pairs_with_itself(chunk):
    k, counts = np.random.default_rng(0).normal(size=(7, 7)), draws(7, 5)
    blocks = [k[start : start + chunk].copy() for start in range(0, 7, chunk)]
    for found, row in zip(pairs_resampled(blocks, counts), counts, strict=True):
        members = np.repeat(np.arange(7), row)
        pairs = [k[i, j] for i in members for j in members if i != j]
        assert found == pytest.approx(np.mean(pairs))


def test_a_single_sample_has_no_pairs():
    assert np.isnan(pairs_resampled([np.ones((3, 3))], np.array([[0, 3, 0]]))).all()


def test_the_mean_distance_of_a_resample():
    x, counts = np.random.default_rng(0).normal(size=(40, 5)), draws(40, 300)
    assert mean_pairwise_resampled(x, np.ones((1, 40)))[0] == mean_pairwise(x)
    copies = np.repeat(np.arange(40), counts[0])
    squares = np.linalg.norm(x[copies, None] - x[copies], axis=2)
    assert mean_pairwise_resampled(x, counts, chunk=16)[0] == pytest.approx(
        squares[copies[:, None] != copies].mean()
    )


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    truth = 2 * gamma(5 / 2) / gamma(2)  # E|x - y| is sqrt(2) times the mean of a chi of 4 dimensions
    for trial in range(300):
        x = rng.normal(size=(60, 4))
        found = interval(mean_pairwise(x), mean_pairwise_resampled(x, draws(60, 200, trial)), least=0)
        held += found.low < truth < found.high
    assert 0.90 < held / 300 < 0.985
