from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from refusals import refused

from fsgen.errors import Code
from fsgen.metrics.intervals import draws
from fsgen.metrics.manifold import prdc, prdc_resampled


def two_sets(n=120, m=90, d=8, dtype=np.float64, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(n, d))
    fake = rng.normal(size=(m, d))
    fake[:, :2] += 0.7
    return (real + shift).astype(dtype), (fake + shift).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 2), (500, 120, 16), (90, 400, 64), (200, 150, 2048)])
@pytest.mark.parametrize("k", [1, 5])
def test_equals_the_prdc_package(n, m, d, shift, dtype, k):
    real, fake = two_sets(n, m, d, dtype, shift)
    expected = compute_prdc(real, fake, nearest_k=k)
    assert prdc(real, fake, k)._asdict() == pytest.approx(expected, abs=1e-6)


def test_equals_the_prdc_package_where_rounding_to_float32_makes_ties():
    # 1,000,000 distances around 45 with a spread of 0.7: some differ in the 8th digit alone.
    real, fake = two_sets(1000, 1000, 1024, np.float32, 10.0)
    expected = compute_prdc(real, fake, nearest_k=5)
    assert 0.1 < expected["precision"] < 0.99
    assert prdc(real, fake)._asdict() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_blocks_make_no_difference(chunk):
    real, fake = two_sets()
    assert prdc(real, fake, chunk=chunk) == prdc(real, fake)
    assert prdc(torch.from_numpy(real), torch.from_numpy(fake), chunk=chunk) == prdc(real, fake)


@given(st.integers(7, 40), st.integers(1, 30), st.integers(0, 99), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=40, deadline=None)
def test_equal_sets_have_it_all(n, d, seed, dtype):
    x = (np.random.default_rng(seed).normal(size=(n, d)) + 100).astype(dtype)
    # A ball holds its centre and the k - 1 neighbours before the one on its rim.
    assert prdc(x, x[::-1].copy(), 5) == (1, 1, 1, 1)


def test_disjoint_sets_have_nothing():
    real, fake = two_sets()
    assert prdc(real, fake + 1000) == (0, 0, 0, 0)


def test_fidelity_and_variety_come_apart():
    # Three places, four reals in each within 0.1; samples at one of them.
    rng = np.random.default_rng(0)
    places = np.repeat(100 * np.eye(3), 4, axis=0)
    real = places + 0.05 * rng.uniform(-1, 1, size=(12, 3))
    collapsed = places[:1] + 0.05 * rng.uniform(-1, 1, size=(8, 3))
    narrow = prdc(real, collapsed, 3)
    assert narrow.precision == 1 and narrow.density > 1
    assert narrow.coverage == pytest.approx(1 / 3) and narrow.recall <= 1 / 3
    blurred = np.concatenate([real, np.full((12, 3), 50.0) + rng.normal(size=(12, 3))])
    wide = prdc(real, blurred, 3)
    assert wide.coverage == 1 and wide.precision == 0.5 and wide.density == pytest.approx(0.5)


def test_a_point_repeated_has_a_manifold_of_no_size():
    real, _ = two_sets()
    assert prdc(real, np.repeat(real[:1], 20, axis=0)).recall == 0


def test_a_resample_is_the_set_of_those_drawn_with_the_balls_as_they_were():
    real, fake = two_sets(40, 30, 3)
    counts = draws(30, 5)
    found = prdc_resampled(real, fake, counts, 3, chunk=16)
    to_real, to_fake, across = (np.linalg.norm(a[:, None] - b, axis=2) for a, b in
                                ((real, real), (fake, fake), (real, fake)))  # fmt: skip
    radii_real, radii_fake = np.sort(to_real)[:, 3], np.sort(to_fake)[:, 3]
    for row, drawn in enumerate(counts):
        who = np.repeat(np.arange(30), drawn)
        in_real, in_fake = (across < radii_real[:, None])[:, who], (across < radii_fake)[:, who]
        assert found.precision[row] == pytest.approx(in_real.any(axis=0).mean())
        assert found.density[row] == pytest.approx(in_real.sum(axis=0).mean() / 3)
        assert found.recall[row] == pytest.approx(in_fake.any(axis=1).mean())
        assert found.coverage[row] == pytest.approx(in_real.any(axis=1).mean())


def test_refuses_sets_with_too_few_neighbours():
    real, fake = two_sets()
    with refused(Code.TOO_FEW, "real images", "at least 6", "got 5"):
        prdc(real[:5], fake)
    with refused(Code.TOO_FEW, "samples", "at least 4", "got 3"):
        prdc(real, fake[:3], 3)
    assert prdc(real[:6], fake).coverage >= 0
