"""How near pictures are in a critic's own features: no download, any domain the critic was trained on.

A source generator brings its discriminator along; its feature maps, compared as LPIPS compares those of a
classifier (Zhang et al. 2018, equation 1, all weights equal), tell near from far well enough for a warning
and for diversity. Near copies need finer maps: see ``critic``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.data.images import ImageSet
from fsgen.io.catalog import Entry, catalog
from fsgen.metrics.memorisation import nearest
from fsgen.models.model import Model
from fsgen.sampling.latents import prior

POOLED = 8  # px: finer maps are averaged to this side, so that a shift by a pixel stays a copy
# Median distance of the images to the source's samples, in units of the samples' own. Measured with peeps64:
# its own reals 1.3; sketches, pixel faces and doodles, to which it adapts, 1.7 to 1.8; no faces at all
# (coloured clouds, noise) 2.5.
FAR = 2.1
PROBES = 128  # source samples the images are compared with


@torch.no_grad()
def embed(d: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Points [n, k] on the CPU of images [n, C, H, W] in [-1, 1], such that distances compare pictures."""
    device = next(d.parameters()).device
    return torch.cat([pooled(d.features(part.to(device))).cpu() for part in images.split(batch)])


def pooled(maps: list[Tensor]) -> Tensor:
    """Points [n, k] of a discriminator's feature maps: what is where, roughly, at every level."""
    parts = []
    for x in maps:
        x = x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-8)  # unit length at every position
        side = min(POOLED, x.shape[-1])
        x = nn.functional.adaptive_avg_pool2d(x, side)
        parts.append(x.flatten(1) / side)  # the mean over positions
    return torch.cat(parts, dim=1)


@torch.no_grad()
def probes(model: Model, g: nn.Module, n: int, purpose: str) -> Tensor:
    """n samples of ``model`` by its generator ``g``, [n, C, H, W] on the CPU; a purpose names the latents."""
    device = next(g.parameters()).device
    rng, draw = random.generator(0, purpose), prior(model, g)
    counts = (min(32, n - i) for i in range(0, n, 32))
    return torch.cat([g(draw(count, rng).to(device)).cpu() for count in counts])


def farness(model: Model, shots: ImageSet, device: torch.device) -> float | None:
    """Median distance of the shots to their nearest source samples, over that among the samples themselves.

    None where the source has no discriminator to look through, or draws nothing by itself.
    """
    d = model.discriminator(device)
    if d is None or "translation" in model.family.traits:
        return None
    own = embed(d, probes(model, model.generator(device=device), PROBES, "probes"))
    theirs = embed(d, shots.floats(slice(0, 64)))
    away = torch.as_tensor(nearest(theirs, own).distances).median()
    return (away / torch.as_tensor(nearest(own, own, itself=True).distances).median()).item()


def announce(model: Model, shots: ImageSet, device: torch.device, say: Callable[[str], None]) -> None:
    """Say what the source is, and warn when the images look far from it."""
    about = model.about
    say(
        f"source: {about.get('title', 'unnamed')} ({about.get('subject', 'subject unknown')}), "
        f"{model.spec['resolution']} px, licence {about.get('licence', 'unknown')}"
    )
    say(f"images: {len(shots)} read" + (f", {len(shots.skipped)} skipped" if shots.skipped else ""))
    ratio = farness(model, shots, device)
    if ratio is None or ratio < FAR:
        return
    say(
        f"warning: the images look far from what this source draws ({ratio:.1f} x as far as its samples from "
        f"one another), so little of it may survive; other subjects in the catalogue: {_others(model)}"
    )


def _others(model: Model) -> str:
    """One catalogue entry a subject, the smallest that is not smaller than ``model``."""
    smallest: dict[str, Entry] = {}
    for entry in sorted(catalog().values(), key=lambda entry: entry.resolution):
        if entry.resolution >= model.spec["resolution"] and entry.name != model.about.get("title"):
            smallest.setdefault(entry.tags[0], entry)
    return ", ".join(f"{entry.name} ({subject})" for subject, entry in smallest.items())
