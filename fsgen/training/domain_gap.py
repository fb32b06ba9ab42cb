"""The distance of the images from the source's samples, in the features of its discriminator.

Its feature maps tell near from far well enough for a warning before step 0. Near copies need finer maps: see
``evaluation.discriminator_judge``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fsgen.data.images import ImageSet
from fsgen.features.discriminator_features import embed
from fsgen.io.catalog import CatalogEntry, catalog
from fsgen.metrics.distances import nearest
from fsgen.models.model import Model
from fsgen.sampling.conditioning import conditioning_of

# Median distance of the images to the source's samples, in units of the samples' own. Measured with peeps64:
# its own training images 1.3; sketches, pixel faces and doodles, to which it adapts, 1.7 to 1.8; no faces at
# all (coloured clouds, noise) 2.5.
FAR = 2.1
PROBES = 128  # source samples the images are compared with


def relative_distance(model: Model, shots: ImageSet, device: torch.device) -> float | None:
    """Median distance of the shots to their nearest source samples, over that among the samples themselves.

    None where the source has no discriminator, or translates.
    """
    d, conditioning = model.discriminator(device), conditioning_of(model)
    if d is None or not conditioning.draws_alone:
        return None
    own = embed(d, conditioning.draw_images(model.generator(device=device), PROBES, "probes"))
    theirs = embed(d, shots.floats(slice(0, 64)))
    away = torch.as_tensor(nearest(theirs, own).distances).median()
    return (away / torch.as_tensor(nearest(own, own, itself=True).distances).median()).item()


def announce(model: Model, shots: ImageSet, device: torch.device, say: Callable[[str], None]) -> None:
    """Name the source and warn if the images are far from what it draws."""
    about = model.about
    say(
        f"source: {about.get('title', 'unnamed')} ({about.get('subject', 'subject unknown')}), "
        f"{model.spec['resolution']} px, licence {about.get('licence', 'unknown')}"
    )
    say(f"images: {len(shots)} read" + (f", {len(shots.skipped)} skipped" if shots.skipped else ""))
    ratio = relative_distance(model, shots, device)
    if ratio is None or ratio < FAR:
        return
    say(
        f"warning: the images are far from what this source draws ({ratio:.1f} x as far as its samples from "
        f"one another), so little of it may survive; other subjects in the catalogue: {_others(model)}"
    )


def _others(model: Model) -> str:
    """The smallest catalogue entry of each subject that is not smaller than ``model``."""
    smallest: dict[str, CatalogEntry] = {}
    for entry in sorted(catalog().values(), key=lambda entry: entry.resolution):
        if entry.resolution >= model.spec["resolution"] and entry.name != model.about.get("title"):
            smallest.setdefault(entry.tags[0], entry)
    return ", ".join(f"{entry.name} ({subject})" for subject, entry in smallest.items())
