from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from scipy.spatial.distance import cdist

from fsgen.errors import Code
from fsgen.metrics.correspondence import correspondence, correspondence_resampled
from fsgen.metrics.intervals import draws


def wins(adapted, source):
    """[n, n] by the definition."""
    d = cdist(adapted - adapted.mean(axis=0), source - source.mean(axis=0))
    own = d.diagonal()[:, None]
    return (own < d) + 0.5 * (own == d)


def two_sets(n=30, d=6, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n, d))
    return source + noise * rng.normal(size=(n, d)) + 5, source


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_it_is_the_share_of_other_latents_that_are_farther(chunk):
    adapted, source = two_sets()
    off = ~np.eye(30, dtype=bool)
    expected = wins(adapted, source)[off].mean()
    assert 0.6 < expected < 0.99
    assert correspondence(adapted, source, chunk=chunk) == pytest.approx(expected)


def test_the_same_pictures_in_another_domain_correspond_wholly():
    _, source = two_sets()
    assert correspondence(source, source) == 1
    assert correspondence(source + 1e3, source) == 1  # sets are centred


def test_a_collapsed_generator_scores_what_chance_does():
    adapted, source = two_sets()
    assert correspondence(np.full((30, 6), 7.1), source) == 0.5
    assert correspondence(adapted, np.full((30, 6), 0.3)) == 0.5  # all ties
    unrelated = np.random.default_rng(5).normal(size=(400, 6))
    assert correspondence(unrelated, two_sets(400)[1]) == pytest.approx(0.5, abs=0.03)


def test_opposites_do_worse_than_chance():
    line = np.linspace(-1, 1, 5)[:, None]
    # -x is at 2|x| from its own: the ends win against none of 4, the halves against 1, the middle against 4.
    assert correspondence(-line, line) == pytest.approx(6 / 20)


@given(st.integers(2, 25), st.integers(1, 8), st.integers(0, 99), st.floats(0.1, 100))
@settings(max_examples=30, deadline=None)
def test_neither_scale_nor_order_matters(n, d, seed, scale):
    adapted, source = two_sets(n, d, seed=seed)
    expected = correspondence(adapted, source)
    order = np.random.default_rng(seed).permutation(n)
    assert 0 <= expected <= 1
    assert correspondence(adapted[order] * scale, source[order] * scale) == pytest.approx(expected)


def test_resamples_weight_pairs():
    adapted, source = two_sets(12)
    table, counts = wins(adapted, source), draws(12, 6)
    assert correspondence_resampled(adapted, source, np.ones((1, 12)))[0] == correspondence(adapted, source)
    for found, row in zip(correspondence_resampled(adapted, source, counts), counts, strict=True):
        drawn = np.repeat(np.arange(12), row)
        assert found == pytest.approx(table[np.ix_(drawn, drawn)][drawn[:, None] != drawn].mean())


def test_refuses_a_single_sample_and_sets_that_do_not_match():
    adapted, source = two_sets()
    with refused(Code.TOO_FEW, "adapted samples", "at least 2", "got 1"):
        correspondence(adapted[:1], source[:1])
    with pytest.raises(ValueError, match=r"\[29, 6\].*\[30, 6\]"):
        correspondence(adapted, source[:-1])
