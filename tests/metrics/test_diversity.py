from __future__ import annotations

import numpy as np
import pytest
import torch
from refusals import refused
from scipy.spatial.distance import pdist

from fsgen.errors import Code
from fsgen.metrics.diversity import mean_pairwise


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_mean_pairwise_is_the_mean_of_all_distances(chunk):
    x = np.random.default_rng(0).normal(size=(11, 6)) + 50
    assert mean_pairwise(x, chunk=chunk) == pytest.approx(pdist(x).mean())
    assert mean_pairwise(torch.from_numpy(x), chunk=chunk) == pytest.approx(pdist(x).mean())


def test_a_simplex_and_a_collapse():
    assert mean_pairwise(np.eye(7)) == pytest.approx(2**0.5)
    assert mean_pairwise(np.full((7, 4), 1e4)) == 0
    with refused(Code.TOO_FEW, "at least 2", "got 1"):
        mean_pairwise(np.ones((1, 4)))
