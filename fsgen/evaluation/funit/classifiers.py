"""Classifiers of the given classes, which say what translations were made to look like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsgen.callbacks import Callbacks
from fsgen.evaluation.funit.splits import Classes, Split
from fsgen.evaluation.request import Request
from fsgen.features.classifier import Classifier, fit_classifier, logits

STEPS = 500  # of the training of each
SIDE = 64  # px: larger pictures are shown at this size, which a small network has room for
BATCH = 256  # of pictures that are shrunk
TOP = 5  # likeliest classes that count beside the first
JUDGES = {"all": "all classes", "unseen": "the unseen classes"}


@dataclass(frozen=True)
class Judge:
    """A classifier that knows the unseen classes, alone or among others."""

    classifier: Classifier
    classes: int
    first: int  # its label of the first unseen class; the others follow
    real_images: Tensor  # uint8 [n, C, H, W]: pictures of unseen classes that it was not trained on
    labels: Tensor  # [n] int64, of these

    def says(self, images: Tensor) -> Tensor:
        """Its logits of uint8 ``images`` [n, C, H, W]: float32 [n, classes] on the CPU."""
        return logits(self.classifier.network, small(images))

    def chance(self, top: int) -> float:
        """How often a label is among the ``top`` likeliest of one who knows nothing."""
        return min(top, self.classes) / self.classes

    def about(self) -> dict[str, Any]:
        """For a report."""
        return {"classes": self.classes, "accuracy": self.classifier.accuracy,
                "held_out": len(self.classifier.test_indices), "chance": self.chance(1)}  # fmt: skip


def trained(
    names: list[str], seen: Classes, unseen: Classes, split: Split, request: Request, callbacks: Callbacks
) -> dict[str, Judge]:
    """Those of ``JUDGES`` that are called ``names``, trained on all images but the shots."""
    rows = torch.cat(split.real_images)
    images, labels = unseen.images.pixels[rows], unseen.labels[rows]
    judges = {}
    for name in names:
        pixels, answers, first = images, labels, 0
        if name == "all":
            first = len(seen)
            pixels = torch.cat([seen.images.pixels, images])
            answers = torch.cat([seen.labels, labels + first])
        found = fit_classifier(
            small(pixels.to(request.device)), answers, steps=STEPS, seed=request.seed,
            progress=partial(callbacks.progress, f"classifier of {JUDGES[name]}"),
        )  # fmt: skip
        held = found.test_indices[answers[found.test_indices] >= first]
        judges[name] = Judge(found, len(answers.unique()), first, pixels[held], answers[held])
    return judges


def small(images: Tensor) -> Tensor:
    """uint8 [n, C, H, W] as the classifiers see them."""
    if max(images.shape[2:]) <= SIDE:
        return images
    parts = [
        nn.functional.interpolate(part.float(), (SIDE, SIDE), mode="area").round().to(torch.uint8)
        for part in images.split(BATCH)
    ]
    return torch.cat(parts)
