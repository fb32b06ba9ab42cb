"""Pictures by class: of those a generator was trained on, and of others, which it is shown a few of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fsgen import rng as random
from fsgen.data.files import find_images
from fsgen.data.images import ImageSet, folders_of, load_images
from fsgen.errors import FsgenError
from fsgen.models.model import Model


@dataclass(frozen=True)
class Classes:
    """Images, and which class each is of."""

    images: ImageSet
    names: list[str]  # of the classes, sorted
    labels: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, label: int) -> Tensor:
        """The images of one class, int64 [n]."""
        return (self.labels == label).nonzero().flatten()

    @property
    def fewest(self) -> tuple[int, str]:
        """How many images the smallest class has, and its name."""
        return min((len(self.rows(label)), name) for label, name in enumerate(self.names))


def open_classes(
    path: str | Path, flag: str, model: Model, fit: str, say: Callable[[str], None], *, least: int
) -> Classes:
    """The images at ``path``, brought to the resolution of ``model``; their sub-folders are the classes.

    Args:
        path: a folder or zip.
        flag: how it was given, for messages.
        model: what is to translate them.
        fit: how they become square.
        say: told of files that cannot be read.
        least: images a class must have.

    Raises:
        FsgenError: an image in no sub-folder, or a class with fewer images than ``least``.
    """
    found = [item.name for item in find_images(path)]
    names = sorted({name.split("/")[0] for name in found if "/" in name})
    if loose := [name for name in found if "/" not in name]:
        raise FsgenError(
            f"{flag} takes images in a sub-folder for each class: {loose[0]} lies in none",
            hint="one sub-folder a class, as for fsgen train --classes",
        )
    spec = model.spec
    images = load_images(path, spec["resolution"], fit=fit, channels=spec["channels"], say=say)
    labels = torch.tensor([names.index(name) for name in folders_of(images)])
    classes = Classes(images, names, labels)
    fewest, name = classes.fewest
    if fewest < least:
        raise FsgenError(
            f"the class '{name}' of {flag} has too few images ({fewest})",
            hint=f"{least} are the least of a class",
        )
    return classes


def keep_apart(seen: Classes, unseen: Classes, model: Model) -> None:
    """Refuse classes that are not unseen.

    Raises:
        FsgenError: fewer than two unseen classes; one that is among those of the training.
    """
    if len(unseen) < 2:
        raise FsgenError(
            f"--real holds one class, '{unseen.names[0]}'", hint="2 are the least, one sub-folder each"
        )
    trained = model.about.get("classes", [])
    known = set(seen.names)
    if len(trained) == model.spec.get("c_dim"):  # else those of a code, which it was not trained on
        known.update(trained)
    if both := sorted(known.intersection(unseen.names)):
        raise FsgenError(
            f"'{both[0]}' of --real is a class that the generator was trained on",
            hint="--real takes classes it never saw, --content those it was trained on",
        )


@dataclass(frozen=True)
class Split:
    """What the images of each unseen class are for."""

    counts: list[int]  # K: so many shots, most first
    shots: list[Tensor]  # of each class, int64 [largest K]: the first K of them are its shots
    real_images: list[Tensor]  # of each class, the others: what classifiers and mFID take

    @classmethod
    def of(cls, unseen: Classes, counts: Sequence[int], kept: int, seed: int) -> Split:
        """Shots drawn by ``seed``, as many as leave ``kept`` images in the smallest class."""
        most = unseen.fewest[0] - kept
        fitting = sorted((k for k in counts if k <= most), reverse=True)
        rows = [unseen.rows(label) for label in range(len(unseen))]
        mixed = [
            some[torch.randperm(len(some), generator=random.generator(seed, "shots", label))]
            for label, some in enumerate(rows)
        ]
        return cls(fitting, [some[: fitting[0]] for some in mixed], [some[fitting[0] :] for some in mixed])
