"""The Inception Score (Salimans et al. 2016): confident class predictions, spread over many classes."""

from __future__ import annotations

import numpy as np
from scipy.special import entr

from fsgen.errors import Code, FsgenError
from fsgen.metrics.feature_sets import Features, as_matrix


def inception_score(probabilities: Features, *, splits: int = 1) -> float:
    """Compute exp(E KL(p(y|x) || p(y))), from 1 (equal predictions for all images) to the number of classes.

    p(y) is the mean over the images, so few images score low: record n.

    Args:
        probabilities: p(y|x), [n, classes], each row sums to 1.
        splits: score this many parts of consecutive images and average, as the literature does with 10;
            p(y) then comes from fewer images, which lowers the score.

    Raises:
        FsgenError: fewer images than splits.
    """
    p = _checked(probabilities, least=splits)
    scores = [_scores(part, np.ones((1, len(part))))[0] for part in np.array_split(p, splits)]
    return float(np.mean(scores))


def inception_score_resampled(probabilities: Features, counts: np.ndarray) -> np.ndarray:
    """Compute ``inception_score``, without splits, of images resampled by counts [B, n]: [B]."""
    return _scores(_checked(probabilities), counts)


def _scores(p: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # E KL(p(y|x) || p(y)) is the entropy of p(y) less the mean entropy of p(y|x).
    weights = counts / counts.sum(axis=1, keepdims=True)
    return np.exp(entr(weights @ p).sum(axis=1) - weights @ entr(p).sum(axis=1))


def _checked(probabilities: Features, least: int = 1) -> np.ndarray:
    p = as_matrix(probabilities, least=least, what="class probabilities")
    if p.min(initial=0) < 0 or not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        raise FsgenError(
            "class probabilities: not every row is a distribution",
            code=Code.DIVERGED, where="class probabilities",
        )  # fmt: skip
    return p
