"""``fsgen sample``: a model loaded to make pictures, mixed with another, or walked from latent to latent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen import device as devices
from fsgen import rng as random
from fsgen.data.image_output import to_uint8
from fsgen.errors import FsgenError, suggest
from fsgen.features.base_extractor import Extractor
from fsgen.interfaces import Inputs
from fsgen.models import model as models
from fsgen.models.classes import names_of
from fsgen.models.model import Model
from fsgen.sampling import instances, translation
from fsgen.sampling.latents import inputs_of, prior, stored

BATCH = 16
NOISES = ("const", "random", "none")
OTHER = "name a model with the same layers: --other SOURCE"


@dataclass(frozen=True)
class Loaded:
    """A model ready to make pictures."""

    model: Model
    g: nn.Module
    device: torch.device
    extractor: Extractor | None = None  # what looks at images to be drawn after, once that was asked for

    def images(
        self, seeds: Sequence[int], truncation: float = 1.0, noise: str = "const", batch: int = BATCH,
        label: int | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Batches of float images [n, C, H, W], about [-1, 1], on the CPU; seed s names one picture."""
        _check(truncation, noise)
        batch = 1 if noise == "random" else batch  # each seed names its own noise too
        for i in range(0, len(seeds), batch):
            inputs = inputs_of(self.model, self.g, seeds[i : i + batch], self.device, label)
            yield self.render(inputs, truncation, noise, seed=seeds[i])

    @torch.no_grad()
    def render(self, inputs: Inputs, truncation: float = 1.0, noise: str = "const", seed: int = 0) -> Tensor:
        """Images [n, C, H, W] of ``inputs``, on the CPU."""
        rng = torch.Generator(self.device).manual_seed(seed)
        return self.g(inputs, truncation=truncation, noise=noise, rng=rng).cpu()

    def sample(
        self, n: int = 16, seed: int = 0, truncation: float = 1.0, label: str | int | None = None
    ) -> Tensor:
        """Pictures of the seeds ``seed`` to ``seed + n - 1``, of one class if named: uint8 [n, C, H, W]."""
        images = self.images(range(seed, seed + n), truncation, label=class_of(self.model, label))
        return torch.cat([to_uint8(x) for x in images])

    def after(
        self, images: str | Path, features: str = "", fit: str = "crop", weights_dir: Path | None = None
    ) -> Loaded:  # fmt: skip
        """The same model, drawing after ``images``: a picture, a folder or a zip (IC-GAN).

        Args:
            images: what is drawn after; each picture draws one of them.
            features: the network that looks at them; default: the one that the model says.
            weights_dir: a folder to look into first for its weights.

        Raises:
            FsgenError: the model draws after no images; the features' weights are absent.
        """
        looking = self.looking(features, weights_dir)
        return replace(looking, model=instances.after(self.model, images, looking.extractor, fit))

    def looking(self, features: str = "", weights_dir: Path | None = None) -> Loaded:
        """The same model with the network that looks at images for it; arguments, errors as of ``after``."""
        extractor = instances.extractor_of(self.model, features, self.device, weights_dir)
        if extractor is None:
            title = self.model.about.get("title", "this model")
            hint = "leave --instance and --candidates out"
            raise FsgenError(f"{title} does not draw after images", hint=hint)
        return replace(self, extractor=extractor)

    def translating(self, contents: str | Path, fit: str = "crop") -> Loaded:
        """The same model, translating ``contents``, a picture, a folder or a zip: seed s is the s-th of them.

        Raises:
            FsgenError: the model translates nothing (FUNIT does).
        """
        return replace(self, model=translation.translating(self.model, contents, fit))

    def chosen(
        self, seeds: Sequence[int], candidates: int, truncation: float = 1.0, noise: str = "const",
        label: int | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """As ``images``, one seed a batch: of ``candidates`` latents the one whose picture is nearest, in the
        model's features, to the image it was drawn after. The first candidate is the seed's own latent.

        Raises:
            FsgenError: the model draws after no images.
        """
        _check(truncation, noise)
        extractor = self.extractor or self.looking().extractor
        for seed in seeds:
            own = inputs_of(self.model, self.g, [seed], self.device, label)
            more = self.g.draw(candidates - 1, random.generator(seed, "candidates"))
            others = stored(self.model, more).z.to(self.device)
            several = own.repeated(candidates, z=torch.cat([own.z, others]))
            drawn = torch.cat(
                [self.render(several[i : i + 1], truncation, noise, seed) for i in range(candidates)]
            )
            found = instances.features_of(extractor, to_uint8(drawn))
            best = (found @ own.h[0].cpu()).argmax()
            yield drawn[best][None]


def class_of(model: Model, label: str | int | None) -> int | None:
    """The number of a class, given by number or, where the model knows them, by name.

    Raises:
        FsgenError: there is no such class.
    """
    if label is None:
        return None
    names, n = names_of(model), model.spec.get("c_dim", 0)
    if not n:
        raise FsgenError("this model has no classes", hint="leave --class out")
    if str(label) in names:
        return names.index(str(label))
    if str(label).isdecimal() and int(label) < n:
        return int(label)
    hint = suggest(str(label), names) if model.about.get("classes") else f"0 to {n - 1}"
    raise FsgenError(f"there is no class '{label}' in this model", hint=hint)


def load(path: str | Path, *, device: str = "auto") -> Loaded:
    """The model behind a run folder, a native file or a name, ready to ``sample``.

    Raises:
        FsgenError: not found, truncated, or not a model.
    """
    return ready(models.load(path), device)


def ready(model: Model, device: str = "auto") -> Loaded:
    """``model`` with its generator on ``device``."""
    target = devices.pick(device)
    return Loaded(model, model.generator(device=target), target)


def sample(
    model: str | Path, n: int = 16, *, seed: int = 0, truncation: float = 1.0, device: str = "auto"
) -> Tensor:
    """Pictures of a model: uint8 [n, C, H, W]. ``load`` once and use its ``sample`` to make many calls."""
    return load(model, device=device).sample(n, seed, truncation)


def source_of(model: Model) -> Model:
    """The source an adapted model came from.

    Raises:
        FsgenError: the model was not adapted, or its source is gone or has changed.
    """
    origin = model.about.get("source")
    if not origin:
        raise FsgenError("this model was not adapted by fsgen, so its source is not known", hint=OTHER)
    try:
        found = models.load(origin["name"])
    except FsgenError as error:
        raise FsgenError(f"the source of this model is gone: {error.message}", hint=OTHER) from None
    if found.hash != origin["hash"]:
        raise FsgenError(
            f"'{origin['name']}' is no longer the source that this model was adapted from", hint=OTHER
        )
    return found


def blend(source: Model, adapted: Model, strength: float) -> Model:
    """Weights between ``source`` (0) and ``adapted`` (1), both exact at the ends.

    Raises:
        FsgenError: ``strength`` outside 0..1, or two models of different shapes.
    """
    if not 0 <= strength <= 1:
        raise FsgenError(f"--strength {strength} is not between 0 (the source) and 1 (the adapted model)")
    old, new = _pair(source, adapted)
    mixed = {key: torch.lerp(old[key].float(), new[key].float(), strength) for key in new}
    return replace(adapted, networks={adapted.best: mixed})


def swap_above(model: Model, other: Model, resolution: int) -> Model:
    """``model`` with the layers that work above ``resolution`` pixels taken from ``other``.

    Raises:
        FsgenError: the family has no layers by resolution, or the models' shapes differ.
    """
    ours, theirs = _pair(model, other)
    level = {key: model.family.resolution_of(key) for key in ours}
    known = sorted({r for r in level.values() if r is not None})
    if not known:
        raise FsgenError(f"the family {model.family.name} has no layers by resolution to swap")
    if resolution not in known[:-1]:
        listed = ", ".join(map(str, known[:-1]))
        raise FsgenError(f"there is nothing to swap above {resolution} px", hint=f"one of {listed}")
    mixed = {key: theirs[key] if (level[key] or 0) > resolution else ours[key] for key in ours}
    return replace(model, networks={model.best: mixed})


def _pair(a: Model, b: Model) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    ours, theirs = a.networks[a.best], b.networks[b.best]
    same = a.family.name == b.family.name and {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in theirs.items()
    }
    if not same:
        raise FsgenError("these two models do not share their layers, so their weights cannot be mixed")
    return ours, theirs


@torch.no_grad()
def draw_images(model: Model, g: nn.Module, n: int, purpose: str) -> Tensor:
    """n samples of ``model`` by its generator ``g``, [n, C, H, W] on the CPU; a purpose names the latents."""
    device = next(g.parameters()).device
    rng, draw = random.generator(0, purpose), prior(model, g)
    counts = (min(32, n - i) for i in range(0, n, 32))
    return torch.cat([g(draw(count, rng).to(device)).cpu() for count in counts])


def walk(loaded: Loaded, seeds: Sequence[int], frames: int, label: int | None = None) -> Iterator[Inputs]:
    """Inputs on the way from seed to seed and back to the first, ``frames`` a leg.

    Normal latents have nearly one length, so the way follows the sphere (Shoemake 1985); in a cube, where
    latents are uniform, it goes straight.
    """
    if len(seeds) < 2:
        raise FsgenError("an interpolation needs at least 2 seeds", hint="--seeds 0-3")
    stops = inputs_of(loaded.model, loaded.g, list(seeds), loaded.device, label)
    between_z = torch.lerp if getattr(loaded.g, "uniform", False) else _slerp
    for i in range(len(seeds)):
        a, b = stops[i : i + 1], stops[(i + 1) % len(seeds) :][:1]
        for k in range(frames):
            t = k / frames
            ends = a.parts(), b.parts()
            between = {name: torch.lerp(ends[0][name], ends[1][name], t) for name in ends[0] if name != "z"}
            yield Inputs(z=between_z(a.z, b.z, t), **between)


def _slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = torch.acos((a * b).sum() / (a.norm() * b.norm())).clamp(1e-4, torch.pi - 1e-4)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def _check(truncation: float, noise: str) -> None:
    if noise not in NOISES:
        raise FsgenError(f"there is no noise '{noise}'", hint=f"one of {', '.join(NOISES)}")
    if not -2 <= truncation <= 2:
        raise FsgenError(f"truncation {truncation} is outside -2..2", hint="0.7 is usual, 1 is none")
