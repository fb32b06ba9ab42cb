from __future__ import annotations

import numpy as np
import pytest
from refusals import refused

from fsgen.errors import Code
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.metrics.intervals import draws
from fsgen.metrics.kernel import kernel, kid, kid_resampled, kid_subsets, mmd2


def sets(n=60, m=50, d=12, dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)).astype(dtype), (0.5 * rng.normal(size=(m, d)) + 0.2).astype(dtype)


def test_mmd_is_the_mean_over_pairs():
    x, y = sets(7, 7, 3)
    d = x.shape[1]

    def mean(u, v, skip):
        return np.mean(
            [
                (np.dot(u[i], v[j]) / d + 1) ** 3
                for i in range(len(u))
                for j in range(len(v))
                if i != j or not skip
            ]
        )

    assert mmd2(x, y) == pytest.approx(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))


def test_point_masses_have_a_closed_form():
    # All of a at 0, all of b at 1 in every one of d dimensions: 1 + 8 - 2 x 1.
    assert kid(np.zeros((5, 4)), np.ones((6, 4))) == pytest.approx(7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
@pytest.mark.parametrize("subset_size", [20, 1000])
def test_equals_clean_fid_under_the_same_seed(dtype, tolerance, subset_size):
    import_torchvision()
    from cleanfid.fid import kernel_distance

    a, b = sets(dtype=dtype)
    np.random.seed(5)
    expected = kernel_distance(a, b, num_subsets=10, max_subset_size=subset_size)
    found = kid(a, b, subsets=10, subset_size=subset_size, rng=np.random.RandomState(5))
    assert found == pytest.approx(expected, rel=tolerance)


def test_halves_of_one_distribution_are_near_zero_and_others_are_not():
    x = np.random.default_rng(1).normal(size=(400, 12))
    same = kid(x[::2], x[1::2], subset_size=50)
    assert abs(same) < 0.1 * kid(x[::2], x[1::2] + 0.5, subset_size=50)


def test_a_seed_is_a_number_and_another_seed_another():
    a, b = sets()
    assert kid(a, b, subset_size=20) == kid(a, b, subset_size=20)
    assert kid(a, b, subset_size=20, rng=1) != kid(a, b, subset_size=20)


def test_its_state_outside_is_left_alone():
    a, b = sets()
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    kid(a, b, subset_size=20)
    assert np.random.rand() == expected


def test_subsets_spread_around_the_mean():
    a, b = sets()
    values = kid_subsets(a, b, subsets=30, subset_size=20)
    assert values.shape == (30,) and values.std() > 0
    assert values.mean() == pytest.approx(kid(a, b, subsets=30, subset_size=20))


def test_refuses_a_single_image():
    with refused(Code.TOO_FEW, "first set", "at least 2", "got 1"):
        kid(np.ones((1, 3)), np.ones((5, 3)))


@pytest.mark.parametrize("chunk", [7, 1000])
def test_a_row_of_ones_is_the_unbiased_mmd_of_all(chunk):
    x, y = sets(50, 50)
    assert kid_resampled(x, y, np.ones((1, 50)), chunk=chunk)[0] == pytest.approx(mmd2(x, y))


def test_a_resample_leaves_out_what_pairs_a_sample_with_itself():
    x, y = sets(20, 13, 3)
    counts = draws(20, 4)
    k_x, k_y, across = kernel(x, x), kernel(y, y), kernel(x, y)
    constant = (k_y.sum() - np.trace(k_y)) / (13 * 12)
    for found, row in zip(kid_resampled(x, y, counts), counts, strict=True):
        drawn = np.repeat(np.arange(20), row)
        pairs = k_x[np.ix_(drawn, drawn)][drawn[:, None] != drawn]
        assert found == pytest.approx(pairs.mean() + constant - 2 * across[drawn].mean())


def test_the_spread_of_resamples_is_that_of_fresh_samples():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(300, 8))
    fresh = np.std([kid_resampled(rng.normal(size=(200, 8)) + 0.3, y, np.ones((1, 200))) for _ in range(200)])
    drawn = [np.std(kid_resampled(rng.normal(size=(200, 8)) + 0.3, y, draws(200, 200))) for _ in range(10)]
    assert np.mean(drawn) == pytest.approx(fresh, rel=0.2)
