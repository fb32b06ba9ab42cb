from __future__ import annotations

import numpy as np
import pytest
from refusals import refused
from scipy.spatial.distance import cdist

from fsgen.errors import Code
from fsgen.metrics.distances import cross_squares, nearest
from fsgen.metrics.memorisation import leakage, leaks, near_copies, near_copy_threshold


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_nearest_agrees_with_all_distances(rng, chunk):
    queries, pool = rng.normal(size=(23, 5)) + 1000, rng.normal(size=(40, 5)) + 1000
    distances = cdist(queries, pool)
    found = nearest(queries, pool, chunk=chunk)
    np.testing.assert_array_equal(found.indices, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distances, distances.min(axis=1), rtol=1e-6)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_nobody_is_its_own_neighbour(rng, chunk):
    x = rng.normal(size=(20, 4))
    distances = cdist(x, x) + np.diag(np.full(20, np.inf))
    found = nearest(x, x, itself=True, chunk=chunk)
    np.testing.assert_array_equal(found.indices, distances.argmin(axis=1))
    assert near_copy_threshold(x) == pytest.approx(np.percentile(distances.min(axis=1), 5))
    assert near_copy_threshold(x, 50) > near_copy_threshold(x)


def test_copies_are_found_and_named(rng):
    source, shots = rng.normal(size=(300, 16)), rng.normal(size=(10, 16)) + 3
    threshold = near_copy_threshold(source)
    who = rng.integers(0, 10, 50)
    copies = shots[who] + rng.normal(size=(50, 16)) * threshold / 100
    found = near_copies(copies, shots, threshold)
    assert found.share == 1
    np.testing.assert_array_equal(found.nearest, who)
    assert (found.distances < threshold).all() and found.threshold == threshold
    assert near_copies(source, shots, threshold).share < 0.05
    assert near_copies(np.concatenate([copies, source[:50]]), shots, threshold).share == 0.5


def test_leakage_counts_those_nearer_to_the_source(rng):
    source, target = rng.normal(size=(40, 8)), rng.normal(size=(40, 8)) + 5
    assert leakage(source + 0.1, source, target) == 1
    assert leakage(target + 0.1, source, target) == 0
    assert leakage(np.concatenate([source[:10], target[:30]]), source, target) == 0.25
    assert leakage(source, source, source) == 0
    mixed = leaks(np.concatenate([source[:2], target[:3]]), source, target)
    np.testing.assert_array_equal(mixed, [True, True, False, False, False])


@pytest.mark.parametrize("d", [1, 3, 2048])
def test_equal_rows_are_at_no_distance_and_near_ones_are_at_some(rng, d):
    a = rng.normal(size=(30, d)) * 1e3
    squared = cross_squares(a, a[::-1])
    assert (np.fliplr(squared).diagonal() == 0).all() and (squared >= 0).all()
    assert (cross_squares(a, a * (1 + 1e-5)).diagonal() > 0).all()
    np.testing.assert_allclose(squared, cdist(a, a[::-1], "sqeuclidean"), rtol=1e-6, atol=1e-4)


def test_a_tie_is_no_leak_wherever_the_pictures_lie(rng):
    shared = rng.normal(size=(50, 300)) + 100
    others = rng.normal(size=(50, 300)) + 100
    assert leakage(shared, np.concatenate([shared, others]), shared) == 0


def test_refuses_empty_sets_and_a_single_source_sample(rng):
    x = rng.normal(size=(3, 2))
    with refused(Code.TOO_FEW, "at least 1", "got 0"):
        near_copies(x, x[:0], 1.0)
    with refused(Code.TOO_FEW, "samples", "got 0"):
        leakage(x[:0], x, x)
    with refused(Code.TOO_FEW, "at least 2", "got 1"):
        near_copy_threshold(x[:1])
