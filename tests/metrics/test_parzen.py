from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from refusals import refused
from sklearn.neighbors import KernelDensity

from fsgen.errors import Code
from fsgen.metrics.parzen import GRID, log_likelihoods, parzen, pixels


def normal(n: int, d: int, seed: int, spread: float = 1.0) -> np.ndarray:
    return spread * np.random.default_rng(seed).normal(size=(n, d))


def test_one_sample_is_one_gaussian():
    x, s = np.array([[0.25, 0.5, 1.0]]), 0.3
    points = normal(5, 3, 0)
    expected = -((points - x) ** 2).sum(axis=1) / (2 * s**2) - 1.5 * math.log(2 * math.pi * s**2)
    np.testing.assert_allclose(log_likelihoods(x, points, (s,))[:, 0], expected, rtol=1e-12)


def test_a_mixture_is_the_mean_of_its_densities():
    samples, points = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.9]])
    for column, s in zip(log_likelihoods(samples, points, (0.5, 2.0)).T, (0.5, 2.0), strict=True):
        for value, (y,) in zip(column, points, strict=True):
            density = sum(math.exp(-((y - x) ** 2) / (2 * s * s)) for (x,) in samples)
            assert value == pytest.approx(math.log(density / 3 / (s * math.sqrt(2 * math.pi))))


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("bandwidth", [0.01, 0.2, 3.0])
def test_agrees_with_scikit_learn(chunk, bandwidth):
    """0.01: every density but the nearest samples' underflows, and only exact logsumexp is finite."""
    samples, points = normal(40, 12, 0), normal(20, 12, 1)
    reference = KernelDensity(bandwidth=bandwidth).fit(samples).score_samples(points)
    ours = log_likelihoods(samples, points, (1.0, bandwidth), chunk=chunk)[:, 1]
    np.testing.assert_allclose(ours, reference, rtol=1e-9)
    assert np.isfinite(ours).all()


def test_the_bandwidth_is_the_likeliest_on_the_validation_set():
    samples, validation, test = (normal(200, 3, seed, 0.2) for seed in range(3))
    grid = (0.01, 0.05, 0.1, 0.3, 1.0)
    found = parzen(samples, test, validation, grid=grid)
    scores = [KernelDensity(bandwidth=s).fit(samples).score(validation) for s in grid]
    assert found.bandwidth == grid[int(np.argmax(scores))] == 0.1 and not found.at_edge
    values = KernelDensity(bandwidth=found.bandwidth).fit(samples).score_samples(test)
    assert found.mean == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(200))
    # The bandwidth ignores the test points: far away ones do not widen the window.
    assert parzen(samples, test + 5, validation, grid=grid).bandwidth == 0.1


def test_it_finds_the_entropy_of_what_it_samples():
    """E log p(x) = -d/2 log(2 pi e s^2) of a Gaussian in two dimensions, from many samples."""
    samples, validation, test = (normal(4000, 2, seed, 0.3) for seed in range(3))
    found = parzen(samples, test[:2000], validation[:500])
    truth = -math.log(2 * math.pi * math.e * 0.3**2)
    assert abs(found.mean - truth) < 3 * found.error + 0.02
    far = parzen(samples + 0.5, test[:2000], validation[:500])
    assert far.mean < found.mean - 10 * found.error


def test_a_grid_that_ends_too_soon_is_told():
    samples, validation, test = (normal(50, 4, seed) for seed in range(3))
    assert parzen(samples, test, validation, grid=(0.01, 0.02, 0.05)).at_edge
    assert parzen(samples, test, validation, grid=(0.05, 0.01, 0.02)).at_edge
    assert parzen(samples, test, validation, grid=(5.0, 10.0)).at_edge
    assert not parzen(samples, test, validation, grid=(0.01, 0.5, 10.0)).at_edge
    assert GRID[0] == pytest.approx(0.01) and GRID[-1] == 1


def test_copies_of_samples_do_no_harm():
    x = normal(10, 5, 0) + 100  # far from the origin: distances of equal rows must still be none
    s = 1e-4
    top = -5 / 2 * math.log(2 * math.pi * s * s) - math.log(10)
    np.testing.assert_allclose(log_likelihoods(x, x, (s,)), top, rtol=1e-12)


def test_pixels_are_flat_and_in_the_unit_interval():
    images = torch.tensor([[[[0, 255], [51, 102]]], [[[255, 0], [0, 0]]]], dtype=torch.uint8)
    np.testing.assert_allclose(pixels(images), [[0, 1, 0.2, 0.4], [1, 0, 0, 0]])


def test_what_cannot_be_measured_is_refused():
    x = normal(5, 2, 0)
    with refused(Code.TOO_FEW, "test", "at least 2", "got 1"):
        parzen(x, x[:1], x)
    with refused(Code.TOO_FEW, "samples", "at least 1", "got 0"):
        parzen(x[:0], x, x)
    with refused(Code.DIVERGED, "points"):
        parzen(x, x, np.full((2, 2), np.nan))
    for grid in ((), (0.0, 1.0)):
        with refused(Code.OUT_OF_RANGE, "grid"):
            parzen(x, x, x, grid=grid)
