"""The energy distance, against closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from refusals import refused

from fsgen.errors import Code
from fsgen.metrics.energy import energy_distance


def test_of_a_few_numbers():
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [4.0]])
    assert energy_distance(a, b) == pytest.approx(2 * (2 + 4 + 1 + 3) / 4 - 1 - 2)
    assert energy_distance(b, a) == pytest.approx(energy_distance(a, b))


def test_of_normal_numbers():
    """Of N(0, 1) and N(m, 1): E|x - y| of N(m, 2) twice, less 2 E|N(0, 2)| (Székely & Rizzo 2013)."""
    m, n = 1.5, 2000
    a = np.array([[NormalDist().inv_cdf((i + 0.5) / n)] for i in range(n)])  # every quantile once
    b = a + m
    apart = 2 / math.sqrt(math.pi) * math.exp(-(m**2) / 4) + m * math.erf(m / 2)
    assert energy_distance(a, b) == pytest.approx(2 * apart - 4 / math.sqrt(math.pi), abs=0.01)


def test_unbiased_however_few_there_are():
    rng = np.random.default_rng(1)
    found = [energy_distance(rng.normal(size=(40, 5)), rng.normal(size=(3, 5))) for _ in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20 and min(found) < 0


def test_a_single_point_has_no_spread():
    with refused(Code.TOO_FEW, "first set", "at least 2", "got 1"):
        energy_distance(np.zeros((1, 2)), np.zeros((3, 2)))
