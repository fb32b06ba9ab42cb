"""Labelled images of trained and unseen classes, and the split of the latter into shots and real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fsgen import rng as random
from fsgen.data.decode import Fit
from fsgen.data.files import find_images
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import Code, FsgenError
from fsgen.models.model import Model


@dataclass(frozen=True)
class LabelledImages:
    """Images with the class of each."""

    images: ImageSet
    names: list[str]  # of the classes, sorted
    labels: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, label: int) -> Tensor:
        """Indices of the images of one class, int64 [n]."""
        return (self.labels == label).nonzero().flatten()

    @property
    def smallest(self) -> tuple[int, str]:
        """Number of images and name of the smallest class."""
        return min((len(self.rows(label)), name) for label, name in enumerate(self.names))


def open_labelled(
    path: str | Path, flag: str, model: Model, fit: Fit, say: Callable[[str], None], *, least: int
) -> LabelledImages:
    """Load the images at ``path`` at the resolution of ``model``; sub-folders are the classes.

    Args:
        path: a folder or zip.
        flag: the option that named it, for messages.
        model: the model that translates them.
        fit: how images become square.
        say: told of files that cannot be read.
        least: images a class must have.

    Raises:
        FsgenError: an image in no sub-folder, or a class with fewer images than ``least``.
    """
    found = [item.name for item in find_images(path)]
    if loose := [name for name in found if "/" not in name]:
        raise FsgenError(f"{flag} needs one sub-folder per class, but {loose[0]} is in none",
                         code=Code.INCOMPATIBLE, where=flag,
                         hint="one sub-folder a class, as for fsgen train --classes")  # fmt: skip
    names = sorted({name.split("/")[0] for name in found})
    spec = model.spec
    images = load_images(path, spec["resolution"], fit=fit, channels=spec["channels"], say=say)
    labels = torch.tensor([names.index(name.split("/")[0]) for name in images.names])
    labelled = LabelledImages(images, names, labels)
    fewest, name = labelled.smallest
    if fewest < least:
        raise FsgenError(f"the class '{name}' of {flag} has too few images: {fewest} of at least {least}",
                         code=Code.TOO_FEW, where=flag,
                         hint=f"give '{name}' at least {least} images")  # fmt: skip
    return labelled


def check_unseen(known: LabelledImages, unseen: LabelledImages, model: Model) -> None:
    """Check that ``unseen`` holds at least two classes, all unseen in training.

    Raises:
        FsgenError: one class only, or one that the model was trained on.
    """
    if len(unseen) < 2:
        raise FsgenError(f"--real holds one class, '{unseen.names[0]}'", code=Code.TOO_FEW, where="--real",
                         hint="give at least 2 classes, one sub-folder each")  # fmt: skip
    trained = model.about.get("classes", [])
    names = set(known.names)
    if len(trained) == model.spec.get("c_dim"):  # else of a class code, not of the training
        names.update(trained)
    if both := sorted(names.intersection(unseen.names)):
        raise FsgenError(
            f"the class '{both[0]}' of --real was seen in training", code=Code.INCOMPATIBLE, where="--real",
            hint="--real takes classes unseen in training, --content those of the training",
        )  # fmt: skip


@dataclass(frozen=True)
class Split:
    """The images of each unseen class, split into shots and real images."""

    counts: list[int]  # values of K, largest first
    shots: list[Tensor]  # of each class, int64 [largest K]: the first K of them are its shots
    real_images: list[Tensor]  # of each class, the others: for the classifiers and mFID

    @classmethod
    def of(cls, unseen: LabelledImages, counts: Sequence[int], kept: int, seed: int) -> Split:
        """Draw shots by ``seed``; K is limited so that ``kept`` images of the smallest class remain."""
        most = unseen.smallest[0] - kept
        fitting = sorted((k for k in counts if k <= most), reverse=True)
        rows = [unseen.rows(label) for label in range(len(unseen))]
        mixed = [
            some[torch.randperm(len(some), generator=random.generator(seed, "shots", label))]
            for label, some in enumerate(rows)
        ]
        return cls(fitting, [some[: fitting[0]] for some in mixed], [some[fitting[0] :] for some in mixed])
