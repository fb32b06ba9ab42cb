"""Conditioning on images to translate (FUNIT, Liu et al. 2019): contents, and images of a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen.data.decode import Fit
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Draw, Generator, Inputs, Trait, Translator
from fsgen.models.classes import names_of
from fsgen.models.model import Model

BATCH = 16
CODED = 64  # images behind the code of a class, after training


@dataclass(frozen=True)
class ClassImages:
    """The images of a run by class."""

    images: ImageSet
    labels: Tensor  # [N] int64
    count: int

    @classmethod
    def of(cls, images: ImageSet, labels: list[int] | None, model: Model) -> ClassImages:
        """Raises FsgenError unless the images are of the model's classes, at least one of each."""
        names = names_of(model)
        why = f"these lie in none of {', '.join(names[:5])}{' ...' * (len(names) > 5)}"
        if labels is not None:
            why = next((f"{name} has none" for k, name in enumerate(names) if k not in labels), "")
        if why:
            title = model.about.get("title", "this source")
            raise FsgenError(
                f"{title} is trained on images in a sub-folder for each of its classes, and {why}",
                code=Code.INCOMPATIBLE, where="IMAGES",
                hint="--method classcode draws a new class without training",
            )  # fmt: skip
        return cls(images, torch.tensor(labels), len(names))

    def drawing(self, g: Generator) -> Draw:
        """Contents, and independently one image of a class for each (the paper trains with K = 1).

        Both may be any image, as published, so that some contents are redrawn as their own class.
        """
        device = next(g.parameters()).device

        def draw(n: int, rng: torch.Generator) -> Inputs:
            rows = torch.randint(len(self.images), (2, n), generator=rng, device=rng.device).cpu()
            content_y, y = nn.functional.one_hot(self.labels[rows], self.count).float()
            contents, styles = self.images.floats(rows[0]), self.images.floats(rows[1])
            return Inputs(
                content=contents, content_y=content_y, style=styles[:, None], y=y, rows=rows[1]
            ).to(device)  # fmt: skip

        return draw

    def codes(self, g: Generator) -> Tensor:
        """The mean code of each class over its first images: [classes, latent_dim]."""
        rows = [(self.labels == k).nonzero().flatten()[:CODED] for k in range(self.count)]
        return torch.cat([code_of(g, self.images.floats(some)) for some in rows])


@torch.no_grad()
def code_of(g: Generator, images: Tensor) -> Tensor:
    """The mean class code [1, latent_dim] of float images [k, C, H, W] (the paper's equation 2)."""
    assert isinstance(g, Translator)
    device = next(g.parameters()).device
    parts = [g.class_code(Inputs(style=part[:, None].to(device))).cpu() for part in images.split(BATCH)]
    return torch.cat(parts).mean(dim=0, keepdim=True)


def translating(model: Model, contents: str | Path, fit: Fit) -> Model:
    """Give ``model`` the images to translate: an image, a folder, a zip.

    Raises:
        FsgenError: it does not translate, or nothing there can be read.
    """
    if Trait.TRANSLATION not in model.family.traits:
        title = model.about.get("title", "this model")
        raise FsgenError(
            f"{title} does not translate images",
            code=Code.INCOMPATIBLE, where="--content", hint="leave --content out",
        )  # fmt: skip
    spec = model.spec
    found = load_images(contents, spec["resolution"], fit=fit, channels=spec["channels"])
    return replace(model, extra={**model.extra, "contents": found.pixels})
