"""Draw images from a model: loaded, mixed with another, or interpolated between latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fsgen import device as devices
from fsgen import rng as random
from fsgen.data.decode import Fit
from fsgen.data.image_output import to_uint8
from fsgen.errors import Code, FsgenError
from fsgen.features.base_extractor import Extractor
from fsgen.interfaces import Generator, Inputs
from fsgen.models import model as models
from fsgen.models.adapter import Adapter
from fsgen.models.model import Model
from fsgen.sampling import instances, translation
from fsgen.sampling.conditioning import Conditioning, conditioning_of, prepared

BATCH = 16
NOISES = ("const", "random", "none")
OTHER = "give a model with the same layers: --other SOURCE"


@dataclass(frozen=True)
class Loaded:
    """A model with its generator, ready to draw images."""

    model: Model
    g: Generator
    device: torch.device
    extractor: Extractor | None = None  # of instance features, once needed

    @property
    def conditioning(self) -> Conditioning:
        """The condition the model draws from."""
        return conditioning_of(self.model)

    def images(
        self, seeds: Sequence[int], truncation: float = 1.0, noise: str = "const", batch: int = BATCH,
        label: int | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Batches of float images [n, C, H, W], about [-1, 1], on the CPU; seed s names one picture."""
        _check(truncation, noise)
        batch = 1 if noise == "random" else batch  # each seed names its own noise too
        for i in range(0, len(seeds), batch):
            inputs = self.conditioning.inputs(self.g, seeds[i : i + batch], self.device, label)
            yield self.render(inputs, truncation, noise, seed=seeds[i])

    @torch.no_grad()
    def render(self, inputs: Inputs, truncation: float = 1.0, noise: str = "const", seed: int = 0) -> Tensor:
        """The images [n, C, H, W] of ``inputs``, on the CPU."""
        rng = torch.Generator(self.device).manual_seed(seed)
        return self.g(inputs, truncation=truncation, noise=noise, rng=rng).cpu()

    def sample(
        self, n: int = 16, seed: int = 0, truncation: float = 1.0, label: str | int | None = None
    ) -> Tensor:
        """Images of the seeds ``seed`` to ``seed + n - 1``, of one class if given: uint8 [n, C, H, W]."""
        images = self.images(range(seed, seed + n), truncation, label=self.conditioning.check_label(label))
        return torch.cat([to_uint8(x) for x in images])

    def after(
        self, images: str | Path, features: str = "", fit: Fit = "crop", weights_dir: Path | None = None
    ) -> Loaded:  # fmt: skip
        """Condition the model on the features of ``images``: an image, a folder or a zip (IC-GAN).

        Args:
            images: each drawn image takes one of them as its instance.
            features: the feature network; default: the one that the model names.
            weights_dir: a folder to search first for its weights.

        Raises:
            FsgenError: the model takes no instances; the features' weights are absent.
        """
        loaded = self.with_extractor(features, weights_dir)
        assert loaded.extractor is not None
        return replace(loaded, model=instances.after(self.model, images, loaded.extractor, fit))

    def with_extractor(self, features: str = "", weights_dir: Path | None = None) -> Loaded:
        """Load the network of the model's instance features; arguments and errors as of ``after``."""
        extractor = self.conditioning.extractor(features, self.device, weights_dir)
        if extractor is None:
            title = self.model.about.get("title", "this model")
            raise FsgenError(
                f"{title} takes no images as instances",
                code=Code.INCOMPATIBLE, where="--instance", hint="leave --instance and --candidates out",
            )  # fmt: skip
        return replace(self, extractor=extractor)

    def translating(self, contents: str | Path, fit: Fit = "crop") -> Loaded:
        """Give the model images to translate, an image, a folder or a zip: seed s names the s-th of them.

        Raises:
            FsgenError: the model does not translate (FUNIT does).
        """
        return replace(self, model=translation.translating(self.model, contents, fit))

    def chosen(
        self, seeds: Sequence[int], candidates: int, truncation: float = 1.0, noise: str = "const",
        label: int | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Draw several candidates for each seed and yield the image nearest to its instance, in the model's
        features: float [1, C, H, W]. The first candidate is the seed's own latent; otherwise as ``images``.

        Raises:
            FsgenError: the model takes no instances.
        """
        _check(truncation, noise)
        extractor = self.extractor or self.with_extractor().extractor
        assert extractor is not None
        for seed in seeds:
            own = self.conditioning.inputs(self.g, [seed], self.device, label)
            more = prepared(self.model, self.g.draw(candidates - 1, random.generator(seed, "candidates")))
            assert own.z is not None and own.h is not None and more.z is not None
            others = more.z.to(self.device)
            several = own.repeated(candidates, z=torch.cat([own.z, others]))
            drawn = torch.cat(
                [self.render(several[i : i + 1], truncation, noise, seed) for i in range(candidates)]
            )
            found = instances.features_of(extractor, to_uint8(drawn))
            best = (found @ own.h[0].cpu()).argmax()
            yield drawn[best][None]


def load(path: str | Path, *, adapter: str | Path | None = None, device: str = "auto") -> Loaded:
    """The model behind a run folder, a native file or a name, ready to ``sample``.

    Args:
        path: run folder, file or name.
        adapter: an ``adapter.safetensors`` of a method that trains only what it adds, to apply to the model.
        device: auto, cpu, cuda or mps.

    Raises:
        FsgenError: not found, truncated, not a model, or an adapter of another one.
    """
    model = models.load_model(path)
    return ready(model if adapter is None else Adapter.load(adapter).apply(model), device)


def ready(model: Model, device: str = "auto") -> Loaded:
    """``model`` with its generator on ``device``."""
    target = devices.pick(device)
    return Loaded(model, model.generator(device=target), target)


def sample(
    model: str | Path, n: int = 16, *, seed: int = 0, truncation: float = 1.0, device: str = "auto"
) -> Tensor:
    """Images of a model: uint8 [n, C, H, W]. For many calls ``load`` it once and use its ``sample``."""
    return load(model, device=device).sample(n, seed, truncation)


def source_of(model: Model) -> Model:
    """The source an adapted model came from.

    Raises:
        FsgenError: the model was not adapted, or its source is gone or has changed.
    """
    origin = model.about.get("source")
    if not origin:
        raise FsgenError(
            "this model was not adapted by fsgen, so its source is not known",
            code=Code.NOT_FOUND, where="--other", hint=OTHER,
        )  # fmt: skip
    try:
        found = models.load_model(origin["name"])
    except FsgenError as error:
        raise FsgenError(
            f"the source of this model is gone: {error.message}",
            code=Code.NOT_FOUND, where=origin["name"], hint=OTHER,
        ) from None  # fmt: skip
    if found.hash != origin["hash"]:
        raise FsgenError(
            f"'{origin['name']}' is no longer the source that this model was adapted from",
            code=Code.CHANGED,
            where=origin["name"],
            hint=OTHER,
        )
    return found


def blend(source: Model, adapted: Model, strength: float) -> Model:
    """Interpolate the weights between ``source`` (0) and ``adapted`` (1), both exact at the ends.

    Raises:
        FsgenError: ``strength`` outside 0..1, or two models of different shapes.
    """
    if not 0 <= strength <= 1:
        raise FsgenError(
            f"--strength {strength} is not between 0 (the source) and 1 (the adapted model)",
            code=Code.OUT_OF_RANGE, where="--strength",
        )  # fmt: skip
    old, new = _pair(source, adapted)
    mixed = {key: torch.lerp(old[key].float(), new[key].float(), strength) for key in new}
    return replace(adapted, networks={adapted.best: mixed})


def swap_above(model: Model, other: Model, resolution: int) -> Model:
    """Replace the layers of ``model`` above ``resolution`` pixels by those of ``other``.

    Raises:
        FsgenError: the family has no layers by resolution, or the models' shapes differ.
    """
    ours, theirs = _pair(model, other)
    level = {key: model.family.resolution_of(key) for key in ours}
    known = sorted({r for r in level.values() if r is not None})
    if not known:
        raise FsgenError(
            f"the family {model.family.name} has no layers by resolution to swap",
            code=Code.INCOMPATIBLE, where="--swap-above",
        )  # fmt: skip
    if resolution not in known[:-1]:
        listed = ", ".join(map(str, known[:-1]))
        raise FsgenError(
            f"there is nothing to swap above {resolution} px",
            code=Code.OUT_OF_RANGE, where="--swap-above", hint=f"one of {listed}",
        )  # fmt: skip
    mixed = {key: theirs[key] if (level[key] or 0) > resolution else ours[key] for key in ours}
    return replace(model, networks={model.best: mixed})


def _pair(a: Model, b: Model) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    ours, theirs = a.networks[a.best], b.networks[b.best]
    same = a.family.name == b.family.name and {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in theirs.items()
    }
    if not same:
        raise FsgenError(
            "these two models do not share their layers, so their weights cannot be mixed",
            code=Code.INCOMPATIBLE, where="--other",
        )  # fmt: skip
    return ours, theirs


def _check(truncation: float, noise: str) -> None:
    if noise not in NOISES:
        raise FsgenError(
            f"there is no noise '{noise}'",
            code=Code.UNKNOWN_NAME, where="--noise", hint=f"one of {', '.join(NOISES)}",
        )  # fmt: skip
    if not -2 <= truncation <= 2:
        raise FsgenError(
            f"truncation {truncation} is outside -2..2",
            code=Code.OUT_OF_RANGE, where="--truncation", hint="0.7 is usual, 1 is none",
        )  # fmt: skip
