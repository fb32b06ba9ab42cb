"""What a generator that translates is fed: pictures as contents, others of the classes to draw them as."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen.data.images import ImageSet, load_images
from fsgen.errors import FsgenError
from fsgen.interfaces import Inputs
from fsgen.models.classes import names_of
from fsgen.models.model import Model
from fsgen.sampling.latents import Draw

BATCH = 16
CODED = 64  # pictures of a class behind its code, once training is over


def wanted(model: Model) -> bool:
    """Whether ``model`` translates pictures (FUNIT, Liu et al. 2019)."""
    return "translation" in model.family.traits


@dataclass(frozen=True)
class Classes:
    """The images of a run by class."""

    images: ImageSet
    labels: Tensor  # [N] int64
    count: int

    @classmethod
    def of(cls, images: ImageSet, labels: list[int] | None, model: Model) -> Classes:
        """Raises FsgenError where the images are not those of the model's classes, of each some."""
        names = names_of(model)
        why = f"these lie in none of {', '.join(names[:5])}{' ...' * (len(names) > 5)}"
        if labels is not None:
            why = next((f"{name} has none" for k, name in enumerate(names) if k not in labels), "")
        if why:
            title = model.about.get("title", "this source")
            raise FsgenError(
                f"{title} learns from images in a sub-folder for each of its classes, and {why}",
                hint="--method classcode draws as a new class without training",
            )
        return cls(images, torch.tensor(labels), len(names))

    def drawing(self, g: nn.Module) -> Draw:
        """Contents, and apart from them one picture of a class each (the paper trains with K = 1).

        Either may be any image, as published, so that now and then a content is drawn as its own class.
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

    def codes(self, g: nn.Module) -> Tensor:
        """[classes, latent_dim]: the mean code of each, over the first pictures of it."""
        rows = [(self.labels == k).nonzero().flatten()[:CODED] for k in range(self.count)]
        return torch.cat([code_of(g, self.images.floats(some)) for some in rows])


@torch.no_grad()
def code_of(g: nn.Module, images: Tensor) -> Tensor:
    """[1, latent_dim]: the mean class code of float images [k, C, H, W] (the paper's equation 2)."""
    device = next(g.parameters()).device
    parts = [g.class_code(Inputs(style=part[:, None].to(device))).cpu() for part in images.split(BATCH)]
    return torch.cat(parts).mean(dim=0, keepdim=True)


def of_class(model: Model, shots: ImageSet, name: str) -> Model:
    """``model`` drawing as the class of ``shots``, by their mean code; it is called ``name``."""
    code = code_of(model.generator(), shots.floats())
    return replace(model, about={**model.about, "classes": [name]}, extra={"conditions": code})


def translating(model: Model, contents: str | Path, fit: str) -> Model:
    """``model`` with what it is to translate from now on: a picture, a folder, a zip.

    Raises:
        FsgenError: it translates nothing, or nothing there can be read.
    """
    if not wanted(model):
        title = model.about.get("title", "this model")
        raise FsgenError(f"{title} translates no pictures", hint="leave --content out")
    spec = model.spec
    found = load_images(contents, spec["resolution"], fit=fit, channels=spec["channels"])
    return replace(model, extra={**model.extra, "contents": found.pixels})
