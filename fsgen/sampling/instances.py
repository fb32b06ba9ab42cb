"""What a generator of instances draws after (IC-GAN, Casanova et al. 2021): the features of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.data import neighbours
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import FsgenError
from fsgen.features import feature_networks
from fsgen.features.base_extractor import Extractor
from fsgen.interfaces import Inputs
from fsgen.models.model import Model
from fsgen.sampling.latents import Draw

BATCH = 64
MANY = 10_000  # images from which on the paper takes 50 neighbours, and 5 below
STORED = 1000  # instances that a model keeps to draw after, as the published ones do


def wanted(model: Model) -> bool:
    """Whether ``model`` draws after instances."""
    return "instances" in model.family.traits and bool(model.spec.get("h_dim"))


def extractor_of(
    model: Model, name: str, device: torch.device | str, weights_dir: Path | None = None
) -> Extractor | None:
    """The feature network of ``model``, or the one called ``name``; None where it draws after no images.

    Raises:
        FsgenError: neither says which; its weights are absent; it gives another number of features.
    """
    if not wanted(model):
        return None
    name = name or model.about.get("features", "")
    title = model.about.get("title", "this model")
    if not name:
        known = ", ".join(feature_networks.INSTANCE_NAMES)
        raise FsgenError(f"{title} does not say which features it draws after", hint=f"--features: {known}")
    extractor = feature_networks.build_instance_extractor(name, device=device, weights_dir=weights_dir)
    if extractor.dim != model.spec["h_dim"]:
        raise FsgenError(
            f"'{name}' gives {extractor.dim} features, and {title} draws after {model.spec['h_dim']}",
            hint="--features names those it was trained with",
        )
    return extractor


def features_of(
    extractor: Extractor, images: Tensor, progress: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """[n, h_dim], each row of length one, of uint8 images [n, C, H, W]; grey ones are looked at as RGB."""
    rows = []
    for part in images.split(BATCH):
        rows.append(extractor(part.expand(-1, 3, -1, -1)))
        progress(sum(map(len, rows)), len(images))
    return neighbours.unit_length(torch.cat(rows))


def neighbours_for(images: int, asked: int | None) -> int:
    """How many neighbours an instance has among ``images``: as the paper's, unless asked for.

    Raises:
        FsgenError: more than there are other images, or none.
    """
    if images < 2:
        raise FsgenError("a single image has no neighbours that could be its reals", hint="train on more")
    k = asked if asked is not None else 50 if images >= MANY else min(5, images - 1)
    if k < 1:
        raise FsgenError("--neighbours is at least 1")
    if k >= images:
        hint = f"more images, or --neighbours {images - 1} at most"
        raise FsgenError(f"{images} images have no {k} neighbours each", hint=hint)
    return k


@dataclass(frozen=True)
class Instances:
    """The images of a run as instances."""

    features: Tensor  # [N, h_dim]
    near: Tensor  # [N, k]: the neighbours of each
    labels: Tensor | None  # [N]: the class of each
    flipped: Tensor | None = None  # [N, h_dim]: of each flipped left to right, where those are shown as well

    @classmethod
    def of(
        cls, features: Tensor, k: int, labels: list[int] | None, flipped: Tensor | None = None
    ) -> Instances:  # fmt: skip
        """A single image is its own neighbour."""
        alone = torch.zeros(1, 1, dtype=torch.int64)
        near = neighbours.nearest_neighbours(features, k).images if len(features) > 1 else alone
        return cls(features, near, None if labels is None else torch.tensor(labels), flipped)

    def stored(self, seed: int) -> Tensor:
        """Up to a thousand of them, what pictures are drawn after once the run is done."""
        order = torch.randperm(len(self.features), generator=random.generator(seed, "stored instances"))
        return self.features[order[:STORED].sort().values]

    def drawing(self, g: nn.Module) -> Draw:
        """Inputs for training: an instance, and one of its neighbours as its real image.

        With classes the label is the neighbour's (the paper's section 3.2). Where pictures are mirrored, an
        instance is as often its flipped image. Its neighbours stay the same images, each then shown flipped
        or not by a toss of its own: features and images are flipped by two settings where it is published.
        """

        def draw(n: int, rng: torch.Generator) -> Inputs:
            inputs = g.draw(n, rng)
            seed = int(torch.randint(2**62, [], generator=rng, device=rng.device))
            own = torch.Generator().manual_seed(seed)
            pairs = neighbours.draw_pairs(self.near, n, own)
            y = inputs.y
            if y is not None and self.labels is not None:
                y = nn.functional.one_hot(self.labels[pairs.images], y.shape[1]).to(y)
            h = self.features[pairs.instances]
            if self.flipped is not None:
                turned = torch.rand(n, 1, generator=own) < 0.5
                h = torch.where(turned, self.flipped[pairs.instances], h)
            return replace(inputs, y=y, h=h.to(inputs.z.device), rows=pairs.images)

        return draw


def after(model: Model, images: str | Path, extractor: Extractor, fit: str) -> Model:
    """``model`` drawing after ``images`` (a picture, a folder, a zip) from now on, seen by its extractor."""
    spec = model.spec
    shown = load_images(images, spec["resolution"], fit=fit, channels=spec["channels"])
    return replace(model, extra={**model.extra, "conditions": features_of(extractor, shown.pixels)})


def shots_of(
    extractor: Extractor, shots: ImageSet, k: int | None, labels: list[int] | None, mirror: bool,
    progress: Callable[[int, int], None],
) -> Instances:  # fmt: skip
    """The images of a run as instances; ``k`` neighbours each, or as the paper has it.

    ``mirror``: flipped images are instances too.
    """
    features = features_of(extractor, shots.pixels, progress)
    flipped = features_of(extractor, shots.pixels.flip(3), progress) if mirror else None
    return Instances.of(features, neighbours_for(len(shots), k) if len(shots) > 1 else 1, labels, flipped)
