from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from fsgen.errors import FsgenError
from fsgen.metrics.diversity import lpips_diversity, mean_pairwise, random_pairs


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_mean_pairwise_is_the_mean_of_all_distances(chunk):
    x = np.random.default_rng(0).normal(size=(11, 6)) + 50
    assert mean_pairwise(x, chunk=chunk) == pytest.approx(pdist(x).mean())
    assert mean_pairwise(torch.from_numpy(x), chunk=chunk) == pytest.approx(pdist(x).mean())


def test_a_simplex_and_a_collapse():
    assert mean_pairwise(np.eye(7)) == pytest.approx(2**0.5)
    assert mean_pairwise(np.full((7, 4), 1e4)) == 0
    with pytest.raises(FsgenError, match="at least 2 images, got 1"):
        mean_pairwise(np.ones((1, 4)))


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_all_pairs_are_all_pairs(n):
    pairs = random_pairs(n, n * n, 0)
    assert sorted(map(tuple, pairs)) == [(i, j) for i in range(n) for j in range(i + 1, n)]


def test_random_pairs_differ_and_follow_the_seed():
    pairs = random_pairs(100_000, 500, 3)
    assert (pairs[:, 0] < pairs[:, 1]).all() and pairs.max() < 100_000 and pairs.min() >= 0
    assert len({tuple(pair) for pair in pairs}) == 500
    np.testing.assert_array_equal(pairs, random_pairs(100_000, 500, 3))
    assert (pairs != random_pairs(100_000, 500, 4)).any()


def l1(a, b):
    return (a - b).abs().mean(dim=(1, 2, 3))


def test_lpips_diversity_is_the_mean_over_its_pairs():
    images = torch.rand(9, 3, 4, 4)
    everything = [l1(images[i : i + 1], images[j : j + 1]) for i in range(9) for j in range(i)]
    expected = pytest.approx(torch.cat(everything).mean().item(), rel=1e-5)
    assert lpips_diversity(images, l1, pairs=1000, batch=5) == expected
    few = [l1(images[i : i + 1], images[j : j + 1]) for i, j in random_pairs(9, 4, 2)]
    assert lpips_diversity(images, l1, pairs=4, rng=2) == pytest.approx(
        torch.cat(few).mean().item(), rel=1e-5
    )
    assert lpips_diversity(images[:1].repeat(4, 1, 1, 1), l1) == 0
    with pytest.raises(FsgenError, match="at least 2 images, got 1"):
        lpips_diversity(images[:1], l1)
