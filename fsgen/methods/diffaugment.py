"""Differentiable augmentation (Zhao et al. 2020): every image is augmented before the discriminator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsgen.errors import unknown_name
from fsgen.interfaces import ImageKind, Method, Rng, Trait

if TYPE_CHECKING:
    from torch import Tensor

OPS = ("color", "translation", "cutout")
AUGMENTED = {
    "all": ("real", "fake_d", "fake_g"),
    "d-only": ("real", "fake_d"),
    "reals-only": ("real",),
}


@dataclass(frozen=True)
class DiffAugmentOptions:
    policy: str = field(
        default="color,translation,cutout",
        metadata={"help": "Augmentations in order: color, translation, cutout, joined by commas."},
    )
    where: str = field(
        default="all",
        metadata={
            "help": "Which images are augmented. reals-only and d-only are the paper's two failing variants, "
            "for study.",
            "choices": tuple(AUGMENTED),
        },
    )


class DiffAugment(Method[DiffAugmentOptions]):
    """Both losses of augmented images T(x) and T(G(z)), with T drawn anew each time (equations 4 and 5)."""

    name = "diffaugment"
    summary = "augment real and generated images alike before D, with gradients through the augmentation"
    paper = "Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, arXiv 2006.10738"
    licence = "BSD-2-Clause"
    needs = frozenset({Trait.DISCRIMINATOR})
    Options = DiffAugmentOptions

    def __init__(self, options: DiffAugmentOptions | None = None) -> None:
        super().__init__(options)
        self.policy = tuple(part.strip() for part in self.options.policy.split(",") if part.strip())
        for part in self.policy:
            if part not in OPS:
                raise unknown_name(
                    f"diffaugment has no policy '{part}'", part, OPS, where="--diffaugment-policy"
                )

    def augment(self, images: Tensor, kind: ImageKind, rng: Rng) -> Tensor:
        from fsgen.data.augment import diff_augment

        if kind not in AUGMENTED[self.options.where]:
            return images
        return diff_augment(images, self.policy, rng(f"{self.name} {kind}"))
