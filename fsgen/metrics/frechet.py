"""The Frechet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fsgen.metrics.features import Features, matrix


class Statistics(NamedTuple):
    """A Gaussian, float64: what the distance needs to know of a set."""

    mu: np.ndarray  # [d]
    sigma: np.ndarray  # [d, d], unbiased


def statistics(features: Features) -> Statistics:
    """Mean and covariance (divided by n - 1) of features [n, d], n >= 2."""
    x = matrix(features, least=2)
    return Statistics(x.mean(axis=0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]))


def frechet(a: Features | Statistics, b: Features | Statistics) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets, float64, >= 0.

    Exact for few samples too, where the covariances are singular.

    Args:
        a: features [n, d] with n >= 2, or their ``statistics``. Features are cheaper where n <= d.
        b: likewise, with the same d.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    (mu_a, root_a), (mu_b, root_b) = _gaussian(a, "first set"), _gaussian(b, "second set")
    # With S = R^T R for each set, the eigenvalues of S_a S_b are the squared singular values of R_a R_b^T, so
    # tr (S_a S_b)^(1/2) is its nuclear norm: no matrix square root, no complex numbers, and a small problem
    # where a set is small.
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    difference = mu_a - mu_b
    distance = difference @ difference + np.square(root_a).sum() + np.square(root_b).sum() - 2 * shared
    return max(float(distance), 0.0)  # rounding may leave -1e-12 between equal sets


def frechet_from_stats(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """``frechet`` from means [d] and covariances [d, d]."""
    return frechet(Statistics(mu1, sigma1), Statistics(mu2, sigma2))


def _gaussian(x: Features | Statistics, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean [d], and R [min(n, d), d] with R^T R the covariance."""
    if isinstance(x, Statistics):
        return np.atleast_1d(np.asarray(x.mu, dtype=np.float64)), _root(x.sigma)
    x = matrix(x, least=2, what=what)
    mean = x.mean(axis=0)
    if len(x) <= x.shape[1]:
        return mean, (x - mean) / np.sqrt(len(x) - 1)
    return mean, _root(statistics(x).sigma)


def _root(sigma: np.ndarray) -> np.ndarray:
    """R [d, d] with R^T R = sigma, from its eigenvalues; those below zero are rounding."""
    sigma = matrix(np.atleast_2d(sigma), what="covariance")
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    return np.sqrt(values.clip(min=0))[:, None] * vectors.T
