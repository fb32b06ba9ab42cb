from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from fsgen.errors import FsgenError
from fsgen.metrics.frechet import Statistics, frechet, frechet_from_stats, statistics
from fsgen.metrics.torchvision_shim import import_torchvision


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
    found = frechet_from_stats(np.zeros(3), np.diag(s_a**2), mu, np.diag(s_b**2))
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
    assert frechet_from_stats(*statistics(a), *statistics(b)) == pytest.approx(expected, rel=1e-6)


def test_takes_tensors_of_any_precision():
    a, b = two_sets(np.random.default_rng(3), 10, 12, 20)
    halves = torch.from_numpy(a).half(), torch.from_numpy(b).float().requires_grad_()
    assert frechet(*halves) == pytest.approx(frechet(a, b), rel=1e-2)


def test_one_feature_is_enough():
    a, b = np.array([[0.0], [2]]), np.array([[5.0], [5]])
    assert frechet(a, b) == pytest.approx(16 + 2)


def test_refuses_what_has_no_distance():
    x = np.ones((4, 3))
    with pytest.raises(FsgenError, match=r"second set.*at least 2 images, got 1"):
        frechet(x, x[:1])
    with pytest.raises(FsgenError, match="not all values are finite"):
        frechet(x, np.full((4, 3), np.nan))
    with pytest.raises(FsgenError, match="not all values are finite"):
        frechet(x, Statistics(np.zeros(3), np.full((3, 3), np.inf)))


@pytest.mark.slow
def test_agrees_with_clean_fid_at_full_width():
    rng = np.random.default_rng(0)
    a, b = rng.gamma(0.5, size=(100, 2048)), rng.gamma(0.7, size=(120, 2048))
    assert frechet(a, b) == pytest.approx(clean_fid(a, b), rel=1e-3)
