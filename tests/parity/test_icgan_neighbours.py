"""IC-GAN's neighbours, and what it draws from them, against the published program."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from biggan_cases import Outputs, compared, outputs
from cases import Case, case_at, cases, skip_unused
from class_balanced_pairs import images_of_class, pairs_by_image
from torch import Tensor
from torch.nn import functional as F

from fsgen.data import neighbours


class Set:
    """The images of one case, and the numbers that the published program drew for them."""

    def __init__(self, case: Case) -> None:
        self.io, config = case.tensors(), case.info["config"]
        self.near = neighbours.nearest_neighbours(self.io["features_raw"], config["k_nn"])
        self.seed, self.classes = config["seed_for_sampling"], config["n_classes"]

    def ranks(self, n: int) -> Tensor:
        return torch.tensor([np.random.choice(self.near.images.shape[1]) for _ in range(n)])

    @cached_property
    def instance_balance(self) -> neighbours.Pairs:
        n = len(self.io["instance_balance.labels"])
        np.random.seed(self.seed)
        instances = torch.from_numpy(np.random.randint(0, len(self.near.images), size=n))
        return neighbours.pairs_by_instance(self.near.images, instances, self.ranks(n))

    @cached_property
    def nnclass_balance(self) -> neighbours.Pairs:
        labels, n = self.io["labels"], len(self.io["nnclass_balance.labels"])
        np.random.seed(self.seed)
        classes = np.random.choice(range(self.classes), n, replace=True, p=None)
        drawn = [  # within its class, then among its neighbours, image by image
            (np.random.choice(int((labels == c).sum())), np.random.choice(self.near.images.shape[1]))
            for c in classes
        ]
        within, ranks = torch.tensor(drawn).T
        images = images_of_class(labels, torch.from_numpy(classes), within)
        return pairs_by_image(self.near.images, images, ranks)

    @cached_property
    def real_batch(self) -> neighbours.Pairs:
        n = len(self.io["real_batch.label"])
        np.random.seed(self.seed)
        return neighbours.pairs_by_instance(self.near.images, torch.arange(n), self.ranks(n))


KNN: Outputs = (
    (r"features_normalised", lambda run, m: neighbours.unit_length(run.io["features_raw"])),
    (r"neighbours", lambda run, m: run.near.images),
    (r"radius", lambda run, m: run.near.distances[:, -1]),
    (r"kth_values", lambda run, m: F.pad(run.near.distances, (1, 0))),  # theirs begins with the image itself
    (r"(\w+_balance)\.instance_index", lambda run, m: getattr(run, m[1]).instances),
    (r"(\w+_balance)\.labels", lambda run, m: run.io["labels"][getattr(run, m[1]).images]),
    (
        r"(\w+_balance)\.features_first\d+",
        lambda run, m: neighbours.unit_length(run.io["features_raw"])[getattr(run, m[1]).instances],
    ),
    (r"real_batch\.neighbour_index", lambda run, m: run.real_batch.images),
    (r"real_batch\.label", lambda run, m: run.io["labels"][run.real_batch.images]),
)


@lru_cache(maxsize=1)
def set_of(folder: Path) -> Set:
    return Set(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("icgan-knn"))
def test_neighbours(case, name):
    compared(KNN, set_of(case.folder), case, name)


def test_every_pattern_finds_a_tensor_of_some_case():
    skip_unused((pattern for pattern, _ in KNN), (n for case in cases("icgan-knn") for n in case.names()))
