from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from scipy import linalg

from fsgen.errors import Code
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.metrics.frechet import Statistics, frechet, frechet_resampled, statistics
from fsgen.metrics.intervals import draws, interval


def by_sqrtm(a, b):
    (mu_a, sigma_a), (mu_b, sigma_b) = statistics(a), statistics(b)
    return (
        np.square(mu_a - mu_b).sum() + np.trace(sigma_a + sigma_b - 2 * linalg.sqrtm(sigma_a @ sigma_b))
    ).real


def clean_fid(a, b):
    import_torchvision()
    from cleanfid.fid import fid_from_feats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy announces the end of a keyword clean-fid uses
        return fid_from_feats(a, b)


def two_sets(rng, n, m, d):
    mixing = rng.normal(size=(d, d)) / np.sqrt(d)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) @ mixing + 0.3


def test_gaussians_of_known_distance():
    # Diagonal covariances commute: the trace term is the sum of (s_a - s_b)^2.
    mu, s_a, s_b = np.array([3.0, 0, 4]), np.array([1.0, 2, 0]), np.array([2.0, 0.5, 1])
    found = frechet(Statistics(np.zeros(3), np.diag(s_a**2)), Statistics(mu, np.diag(s_b**2)))
    assert found == pytest.approx(25 + np.square(s_a - s_b).sum())


def test_a_shift_of_one_set_is_its_squared_length():
    x = np.random.default_rng(0).normal(size=(20, 50))
    shift = np.linspace(-1, 1, 50)
    assert frechet(x, x + shift) == pytest.approx(shift @ shift)


def test_a_scaled_set_has_a_closed_form():
    x = np.random.default_rng(0).normal(size=(60, 8))
    centred = x - x.mean(axis=0)
    assert frechet(centred, 3 * centred) == pytest.approx(4 * np.trace(np.cov(x, rowvar=False)))


@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_set_is_at_no_distance_from_itself(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d)) * 5
    assert 0 <= frechet(x, x) < 1e-6
    assert frechet(x, x[::-1]) < 1e-6


@pytest.mark.parametrize(
    ("n", "m", "d"), [(200, 300, 16), (8, 300, 16), (300, 8, 16), (17, 16, 16), (6, 5, 40)]
)
def test_agrees_with_the_matrix_square_root_and_clean_fid(n, m, d):
    a, b = two_sets(np.random.default_rng(n + m), n, m, d)
    if min(n, m) > d:  # scipy's root of a singular product is only good to a few digits
        assert frechet(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-8)
    assert frechet(a, b) == pytest.approx(clean_fid(a, b), rel=1e-4)
    assert frechet(b, a) == pytest.approx(frechet(a, b))


@pytest.mark.parametrize("n", [5, 40])
def test_features_and_their_statistics_are_interchangeable(n):
    a, b = two_sets(np.random.default_rng(3), n, 30, 12)
    expected = frechet(a, b)
    assert frechet(statistics(a), b) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, statistics(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet(statistics(a), statistics(b)) == pytest.approx(expected, rel=1e-6)


def test_takes_tensors_of_any_precision():
    a, b = two_sets(np.random.default_rng(3), 10, 12, 20)
    halves = torch.from_numpy(a).half(), torch.from_numpy(b).float().requires_grad_()
    assert frechet(*halves) == pytest.approx(frechet(a, b), rel=1e-2)


def test_one_feature_is_enough():
    a, b = np.array([[0.0], [2]]), np.array([[5.0], [5]])
    assert frechet(a, b) == pytest.approx(16 + 2)


def test_refuses_sets_without_distances():
    x = np.ones((4, 3))
    with refused(Code.TOO_FEW, "second set", "at least 2", "got 1"):
        frechet(x, x[:1])
    with refused(Code.DIVERGED, "second set"):
        frechet(x, np.full((4, 3), np.nan))
    with refused(Code.DIVERGED, "covariance"):
        frechet(x, Statistics(np.zeros(3), np.full((3, 3), np.inf)))


def weighted(a, counts, mu_b, sigma_b):
    """The distance of a set that holds sample i of a counts[i] times."""
    n = counts.sum()
    mu = counts @ a / n
    root = np.sqrt(counts / (n - 1))[:, None] * (a - mu)
    values, vectors = np.linalg.eigh(sigma_b)
    root_b = np.sqrt(values.clip(0))[:, None] * vectors.T
    shared = np.linalg.svd(root @ root_b.T, compute_uv=False).sum()
    return np.square(mu - mu_b).sum() + np.square(root).sum() + np.trace(sigma_b) - 2 * shared


def decaying(rng, n, d, shift=0.0):
    """Samples [n, d] at various distances from the mean, with variances that fall as 1/j^2."""
    spectrum = 1 / (1 + np.arange(d))
    return rng.normal(size=(n, d)) * spectrum * np.exp(0.2 * rng.normal(size=(n, 1))) + shift / np.sqrt(d)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 6), (9, 60, 12), (9, 5, 12), (40, 5, 12), (12, 60, 12)])
def test_the_influence_of_a_sample_is_the_derivative_by_its_weight(n, m, d):
    a, b = two_sets(np.random.default_rng(n), n, m, d)
    for i in (0, n - 1):
        # A little weight goes from all samples to this one; n, and with it n - 1, stays.
        step = 1e-5 * (n * np.eye(n)[i] - 1)
        difference = weighted(a, 1 + step, *statistics(b)) - weighted(a, 1 - step, *statistics(b))
        found = np.diff(frechet_resampled(a, b, np.stack([1 - step, 1 + step])))[0]
        assert found == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 6), (9, 60, 12), (12, 5, 12)])
def test_a_row_of_ones_is_the_distance(n, m, d):
    a, b = two_sets(np.random.default_rng(n), n, m, d)
    ones = np.ones((1, n))
    assert frechet_resampled(a, b, ones)[0] == pytest.approx(frechet(a, b), rel=1e-10)
    assert frechet_resampled(a, statistics(b), ones)[0] == pytest.approx(frechet(a, b), rel=1e-6)


def test_features_that_are_always_zero_do_no_harm():
    a, b = two_sets(np.random.default_rng(0), 60, 60, 8)
    dead = np.zeros((60, 3))
    counts = draws(60, 5)
    np.testing.assert_allclose(
        frechet_resampled(np.hstack([a, dead]), np.hstack([b, dead]), counts), frechet_resampled(a, b, counts)
    )


@pytest.mark.parametrize(("n", "d"), [(300, 32), (60, 40), (40, 40), (30, 60)])
def test_of_a_set_with_other_directions_the_spread_is_that_of_resampled_sets(n, d):
    rng = np.random.default_rng(0)
    a, target = decaying(rng, n, d, 1.0), statistics(np.roll(decaying(rng, 400, d), 3, axis=1))
    counts = draws(n, 100, 1)
    exact = np.array([weighted(a, row.astype(float), *target) for row in counts])
    found = frechet_resampled(a, target, counts)
    assert np.corrcoef(found, exact)[0, 1] > 0.95
    assert found.std() == pytest.approx(exact.std(), rel=0.15)


@pytest.mark.parametrize("n", [24, 32, 130])
def test_of_a_set_like_the_other_it_is_nearer_to_fresh_samples_than_resampled_sets_are(n):
    rng, d = np.random.default_rng(0), 32
    target = statistics(rng.normal(size=(300, d)))

    def sample():
        return rng.normal(size=(n, d)) + 0.1

    fresh, found, exact = np.std([frechet(sample(), target) for _ in range(150)]), [], []
    for a, counts in ((sample(), draws(n, 30, seed)) for seed in range(6)):
        found.append(frechet_resampled(a, target, counts).var())
        exact.append(np.var([weighted(a, row.astype(float), *target) for row in counts]))
    assert 0.9 < np.mean(found) ** 0.5 / fresh < 1.6 < np.mean(exact) ** 0.5 / fresh


def test_its_intervals_hold_the_expected_distance():
    rng, d, n = np.random.default_rng(0), 16, 150
    target = Statistics(np.zeros(d), np.diag(1 / (1 + np.arange(d))))
    sets = [decaying(rng, n, d, 1.0) for _ in range(150)]
    expected = np.mean([frechet(a, target) for a in sets])  # for n samples: FID's bias belongs to n
    estimates = [interval(frechet(a, target), frechet_resampled(a, target, draws(n, 200))) for a in sets]
    assert 0.88 < np.mean([found.low < expected < found.high for found in estimates]) < 0.99


@pytest.mark.slow
def test_agrees_with_clean_fid_at_full_width():
    rng = np.random.default_rng(0)
    a, b = rng.gamma(0.5, size=(100, 2048)), rng.gamma(0.7, size=(120, 2048))
    assert frechet(a, b) == pytest.approx(clean_fid(a, b), rel=1e-3)
