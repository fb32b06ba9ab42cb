"""Differentiable augmentation (Zhao et al. 2020): the critic never sees a picture as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsgen.errors import FsgenError, suggest
from fsgen.interfaces import ImageKind, Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor

OPS = ("color", "translation", "cutout")
SHOWN = {
    "all": ("real", "fake_d", "fake_g"),
    "d-only": ("real", "fake_d"),
    "reals-only": ("real",),
}


class DiffAugment(Method):
    """L_D and L_G with T(x), T(G(z)), T drawn anew each time (equations 4 and 5)."""

    name = "diffaugment"
    summary = "show the critic randomly augmented reals and fakes alike, with gradients through"
    paper = "Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, arXiv 2006.10738"
    licence = "BSD-2-Clause"
    needs = frozenset({"discriminator"})

    @dataclass(frozen=True)
    class Options:
        policy: str = field(
            default="color,translation,cutout",
            metadata={"help": "Augmentations in order: color, translation, cutout, joined by commas."},
        )
        where: str = field(
            default="all",
            metadata={
                "help": "What is augmented. reals-only and d-only are the paper's two failing variants, "
                "for study.",
                "choices": tuple(SHOWN),
            },
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.policy = tuple(part.strip() for part in self.options.policy.split(",") if part.strip())
        for part in self.policy:
            if part not in OPS:
                raise FsgenError(f"diffaugment has no policy '{part}'", hint=suggest(part, list(OPS)))

    def view(self, images: Tensor, who: ImageKind, rng: torch.Generator) -> Tensor:
        from fsgen.data.augment import diff_augment

        return diff_augment(images, self.policy, rng) if who in SHOWN[self.options.where] else images
