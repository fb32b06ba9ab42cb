"""Train classifiers of the given classes; they tell which class a translation shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsgen.callbacks import Callbacks
from fsgen.evaluation.funit.splits import LabelledImages, Split
from fsgen.evaluation.protocols import Request
from fsgen.features.classifier import Classifier, fit_classifier, logits

STEPS = 500  # training steps of each
SIDE = 64  # px: larger images are shrunk to this size, which suits the small network
BATCH = 256  # images shrunk at a time
TOP = 5  # top-5 is scored besides top-1
CLASSIFIERS = {"all": "all classes", "unseen": "the unseen classes"}


@dataclass(frozen=True)
class UnseenClassifier:
    """A classifier of the unseen classes, alone or together with those of the training."""

    classifier: Classifier
    classes: int
    first: int  # its label of the first unseen class; the others follow
    real_images: Tensor  # uint8 [n, C, H, W]: held-out images of the unseen classes
    labels: Tensor  # [n] int64, of these

    def logits(self, images: Tensor) -> Tensor:
        """Logits of uint8 ``images`` [n, C, H, W]: float32 [n, classes] on the CPU."""
        return logits(self.classifier.network, shrink(images))

    def chance(self, top: int) -> float:
        """Top-``top`` accuracy of guessing."""
        return min(top, self.classes) / self.classes

    def about(self) -> dict[str, Any]:
        """Classes, accuracy and held-out images, for a report."""
        return {"classes": self.classes, "accuracy": self.classifier.accuracy,
                "held_out": len(self.classifier.test_indices), "chance": self.chance(1)}  # fmt: skip


def train_classifiers(
    names: list[str], known: LabelledImages, unseen: LabelledImages, split: Split, request: Request,
    callbacks: Callbacks,
) -> dict[str, UnseenClassifier]:  # fmt: skip
    """Train those of ``CLASSIFIERS`` called ``names``, on all images but the shots."""
    rows = torch.cat(split.real_images)
    images, labels = unseen.images.pixels[rows], unseen.labels[rows]
    classifiers = {}
    for name in names:
        pixels, answers, first = images, labels, 0
        if name == "all":
            first = len(known)
            pixels = torch.cat([known.images.pixels, images])
            answers = torch.cat([known.labels, labels + first])
        found = fit_classifier(
            shrink(pixels.to(request.device)), answers, steps=STEPS, seed=request.seed,
            progress=partial(callbacks.progress, f"classifier of {CLASSIFIERS[name]}"),
        )  # fmt: skip
        test = found.test_indices[answers[found.test_indices] >= first]
        classifiers[name] = UnseenClassifier(found, len(answers.unique()), first, pixels[test], answers[test])
    return classifiers


def shrink(images: Tensor) -> Tensor:
    """Shrink uint8 [n, C, H, W] to at most ``SIDE`` px, by area."""
    if max(images.shape[2:]) <= SIDE:
        return images
    parts = [
        nn.functional.interpolate(part.float(), (SIDE, SIDE), mode="area").round().to(torch.uint8)
        for part in images.split(BATCH)
    ]
    return torch.cat(parts)
