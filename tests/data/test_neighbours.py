"""Nearest neighbours against brute force, and the pairs that are drawn from them."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from class_balanced_pairs import draw_pairs_by_class, images_of_class, pairs_by_image
from refusals import refused

from fsgen.data import neighbours
from fsgen.data.neighbours import draw_pairs, nearest_neighbours, pairs_by_instance
from fsgen.errors import Code


def features(n: int, d: int = 7, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng) * torch.rand(n, 1, generator=rng).exp()


def by_force(rows: torch.Tensor, k: int) -> tuple[list[list[int]], np.ndarray]:
    """Every angle in float64, image by image."""
    x = rows.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T
    order = [
        sorted((j for j in range(len(x)) if j != i), key=lambda j, i=i: -cosines[i, j])[:k]
        for i in range(len(x))
    ]
    return order, np.array([np.sqrt(2 - 2 * cosines[i, row]) for i, row in enumerate(order)])


class FlatL2:
    """What is used of faiss: an exact index of squared distances, in float32."""

    def __init__(self, d: int) -> None:
        self.rows = np.empty((0, d), np.float32)

    def add(self, rows: np.ndarray) -> None:
        assert rows.dtype == np.float32 and rows.shape[1] == self.rows.shape[1]
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        squared = ((queries[:, None] - self.rows[None]) ** 2).sum(axis=2)
        found = np.argsort(squared, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(squared, found, axis=1), found


@pytest.fixture(params=["torch", "faiss"])
def engine(request, monkeypatch):
    stand_in = None  # an import of None fails, as of what is not installed
    if request.param == "faiss":
        stand_in = ModuleType("faiss")
        stand_in.IndexFlatL2 = FlatL2
    monkeypatch.setitem(sys.modules, "faiss", stand_in)


@pytest.mark.parametrize("n, k", [(2, 1), (9, 8), (40, 5), (130, 50)])
def test_neighbours_are_those_of_brute_force(engine, n, k, monkeypatch):
    monkeypatch.setattr(neighbours, "CELLS", 1000)  # several pieces
    rows = features(n)
    found = nearest_neighbours(rows, k)
    order, distances = by_force(rows, k)
    assert found.images.tolist() == order
    torch.testing.assert_close(found.distances.double(), torch.from_numpy(distances), atol=1e-6, rtol=1e-5)


def test_a_twin_is_a_neighbour_and_oneself_is_none(engine):
    rows = features(60)
    rows[20:50] = rows[3] * 2  # more of them than are asked for: the first by number come first
    found = nearest_neighbours(rows, 5)
    assert found.images[3].tolist() == [20, 21, 22, 23, 24]
    assert found.images[20].tolist() == [3, 21, 22, 23, 24]
    assert found.distances[3].tolist() == pytest.approx([0] * 5, abs=1e-6)
    assert all(i not in row for i, row in enumerate(found.images.tolist()))


def test_distances_too_near_for_float32_keep_their_order(engine):
    angles = torch.linspace(0, 4e-3, 41, dtype=torch.float64)
    shuffled = torch.randperm(41, generator=torch.Generator().manual_seed(0))
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)[shuffled]
    first = int((shuffled == 0).nonzero())
    assert shuffled[nearest_neighbours(rows, 9).images[first]].tolist() == list(range(1, 10))


@pytest.mark.parametrize(
    "n, k, code", [(5, 5, Code.TOO_FEW), (1, 1, Code.TOO_FEW), (5, 0, Code.OUT_OF_RANGE)]
)
def test_too_few_images_are_refused(n, k, code):
    with refused(code, f"{n} images", f"{k} neighbours"):
        nearest_neighbours(features(n), k)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_features_without_a_direction_are_refused(value):
    rows = features(4)
    rows[2] = value
    with refused(Code.DAMAGED, "image 2 "):
        nearest_neighbours(rows, 2)


def test_images_of_a_class_are_counted_in_the_order_of_their_numbers():
    labels = torch.tensor([7, 2, 7, 2, 2, 7, 5])
    found = images_of_class(labels, torch.tensor([7, 7, 2, 5]), torch.tensor([0, 2, 1, 0]))
    assert found.tolist() == [0, 5, 3, 6]


def test_pairs_are_an_instance_and_an_image_near_it():
    near = torch.tensor([[1, 2], [0, 2], [1, 0]])
    rows, ranks = torch.tensor([0, 2, 2]), torch.tensor([1, 0, 1])
    assert [part.tolist() for part in pairs_by_instance(near, rows, ranks)] == [[0, 2, 2], [2, 1, 0]]
    assert [part.tolist() for part in pairs_by_image(near, rows, ranks)] == [[2, 1, 0], [0, 2, 2]]


def test_draws_reach_all_alike_and_repeat():
    near = nearest_neighbours(features(12), 3).images
    labels = torch.tensor([4] * 10 + [9] * 2)
    n = 24_000
    one, other = (draw_pairs(near, n, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.images, other.images) and torch.equal(one.instances, other.instances)
    counts = torch.zeros(12, 12).index_put_((one.instances, one.images), torch.ones(n), accumulate=True)
    expected = torch.zeros(12, 12).scatter_(1, near, n / 36)
    assert ((counts - expected).abs() <= 5 * expected.sqrt()).all()  # five standard deviations
    pairs = draw_pairs_by_class(near, labels, n, torch.Generator().manual_seed(1))
    assert (near[pairs.images] == pairs.instances[:, None]).any(dim=1).all()
    counts = torch.bincount(pairs.images, minlength=12)
    expected = torch.tensor([n / 20] * 10 + [n / 4] * 2)  # half of them of either class
    assert ((counts - expected).abs() <= 5 * expected.sqrt()).all()
