from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from fsgen.errors import Code
from fsgen.metrics.inception_score import inception_score, inception_score_resampled
from fsgen.metrics.intervals import draws


def softmax(n, classes, seed=0):
    x = np.exp(2 * np.random.default_rng(seed).normal(size=(n, classes)))
    return x / x.sum(axis=1, keepdims=True)


def by_definition(p):
    return np.exp(np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1)))


def test_it_is_its_definition():
    p = softmax(40, 11)
    assert inception_score(p) == pytest.approx(by_definition(p))
    assert inception_score(torch.from_numpy(p).float()) == pytest.approx(by_definition(p), rel=1e-5)
    parts = [by_definition(p[start : start + 10]) for start in range(0, 40, 10)]
    assert inception_score(p, splits=4) == pytest.approx(np.mean(parts))
    assert inception_score(p, splits=4) < inception_score(p)


def test_closed_forms():
    assert inception_score(np.tile(np.eye(7), (3, 1))) == pytest.approx(7)  # confident, and evenly spread
    assert inception_score(np.tile([0.5, 0.3, 0.2], (9, 1))) == pytest.approx(1)  # all alike
    assert inception_score(np.full((5, 8), 1 / 8)) == pytest.approx(1)
    halves = np.repeat([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], 3, axis=0)
    assert inception_score(halves) == pytest.approx(2)


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_it_lies_between_one_and_the_number_of_classes_or_images(n, classes, seed):
    score = inception_score(softmax(n, classes, seed))
    assert 1 - 1e-9 <= score <= min(n, classes) + 1e-9


def test_resamples():
    p, counts = softmax(30, 6), draws(30, 8)
    assert inception_score_resampled(p, np.ones((1, 30)))[0] == pytest.approx(inception_score(p))
    for found, row in zip(inception_score_resampled(p, counts), counts, strict=True):
        assert found == pytest.approx(by_definition(np.repeat(p, row, axis=0)))


def test_refuses_too_few_images_and_what_is_no_distribution():
    with refused(Code.TOO_FEW, "class probabilities", "at least 10", "got 9"):
        inception_score(softmax(9, 3), splits=10)
    with refused(Code.DIVERGED, "class probabilities"):
        inception_score(np.ones((4, 3)))
    with refused(Code.DIVERGED, "class probabilities"):
        inception_score(np.array([[1.5, -0.5]]))
