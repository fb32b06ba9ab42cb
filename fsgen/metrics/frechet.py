"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fsgen.metrics.feature_sets import Features, as_matrix


class Statistics(NamedTuple):
    """A Gaussian fitted to a feature set, float64."""

    mu: np.ndarray  # [d]
    sigma: np.ndarray  # [d, d], unbiased


def statistics(features: Features) -> Statistics:
    """Compute mean and covariance (divided by n - 1) of features [n, d], n >= 2."""
    x = as_matrix(features, least=2)
    return Statistics(x.mean(axis=0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]))


def frechet(a: Features | Statistics, b: Features | Statistics) -> float:
    """Compute |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets in float64, >= 0.

    Exact also for few samples, whose covariances are singular.

    Args:
        a: features [n, d] with n >= 2, or their ``statistics``. Features are faster where n <= d.
        b: likewise, with the same d.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    (mu_a, root_a), (mu_b, root_b) = _gaussian(a, "first set"), _gaussian(b, "second set")
    # With S = R^T R for each set, the eigenvalues of S_a S_b are the squared singular values of R_a R_b^T, so
    # tr (S_a S_b)^(1/2) is its nuclear norm: no matrix square root, no complex numbers, and a small matrix
    # where a set is small.
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    difference = mu_a - mu_b
    distance = difference @ difference + np.square(root_a).sum() + np.square(root_b).sum() - 2 * shared
    return max(float(distance), 0.0)  # rounding may give -1e-12 for equal sets


def frechet_resampled(a: Features, b: Features | Statistics, counts: np.ndarray) -> np.ndarray:
    """Compute ``frechet`` of samples a [n, d] resampled by counts [B, n], to first order, unclipped: [B].

    Each sample's influence on the distance (Hampel 1974) is computed once and weighted by the counts: the
    infinitesimal jackknife (Jaeckel 1972). For sets that differ much, the spread equals that of distances of
    resampled sets, for n above or below d. For sets that hardly differ, with n not far above d, distances of
    resampled sets spread up to 5 times as far as those of fresh samples: a third of the members is missing,
    and with them a part of the covariance's rank. This estimate stays within 1 to 1.5 times.

    Raises:
        FsgenError: fewer than two samples, or values that are not finite.
    """
    value, influence = _influence(as_matrix(a, least=2, what="first set"), b)
    return value + (counts - 1) @ influence / len(influence)


def _influence(x: np.ndarray, b: Features | Statistics) -> tuple[float, np.ndarray]:
    """Compute the distance, and its derivative by the weight of each sample x [n, d]: [n], of mean 0.

    With y = x - mu_a, a weight e more of x changes mu_a by e y and S_a (over n) by e (y y^T - S_a); its
    centring changes in second order. tr (S_a S_b)^(1/2) changes by e / 2 (y^T T y - tr T S_a), where T is
    the optimal transport map from a to b. In coordinates where a is white, y = R_a^T z, T is U diag(s) U^T
    with R_a R_b^T = U diag(s) V^T.
    """
    n, centred = len(x), x - x.mean(axis=0)
    (mu_a, root_a), (mu_b, root_b) = _gaussian(x, "first set"), _gaussian(b, "second set")
    u, s, _ = np.linalg.svd(root_a @ root_b.T, full_matrices=False)
    if n <= x.shape[1]:  # the rows of R_a are the samples, which are white already
        mapped = (n - 1) * np.square(u) @ s
    else:
        lengths = np.linalg.norm(root_a, axis=1)  # of the axes of S_a; axes of length 0 are omitted
        inverse = np.divide(1, lengths, out=np.zeros(len(lengths)), where=lengths > 1e-7 * lengths.max())
        whiten = (root_a * np.square(inverse)[:, None]).T  # [d, d]: R_a^+
        mapped = np.square(centred @ (whiten @ u)) @ s
    difference = mu_a - mu_b
    own, shared = np.square(root_a).sum(), s.sum()
    value = difference @ difference + own + np.square(root_b).sum() - 2 * shared
    unbiased = n / (n - 1)
    moved = unbiased * (np.square(centred).sum(axis=1) - mapped) - own + shared
    return value, 2 * centred @ difference + moved


def _gaussian(x: Features | Statistics, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean [d], and R [min(n, d), d] with R^T R the covariance."""
    if isinstance(x, Statistics):
        return np.atleast_1d(np.asarray(x.mu, dtype=np.float64)), _root(x.sigma)
    x = as_matrix(x, least=2, what=what)
    mean = x.mean(axis=0)
    if len(x) <= x.shape[1]:
        return mean, (x - mean) / np.sqrt(len(x) - 1)
    return mean, _root(statistics(x).sigma)


def _root(sigma: np.ndarray) -> np.ndarray:
    """Compute R [d, d] with R^T R = sigma from its eigenvalues; negative ones are rounding errors."""
    sigma = as_matrix(np.atleast_2d(sigma), what="covariance")
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    return np.sqrt(values.clip(min=0))[:, None] * vectors.T
