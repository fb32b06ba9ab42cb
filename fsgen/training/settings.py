"""What was asked for, resolved: the part [run] of a run's config.toml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import fsgen

STEPS = 400


@dataclass(frozen=True)
class Settings:
    """Of a run of ``adapt`` or ``train``."""

    images: str = ""
    images_digest: str = ""  # SHA-256 over the files' own
    source: str = "peeps64"
    new_class: str = ""  # what the images are to the source; empty: no class of their own
    features: str = ""  # of the images, for a source that draws after them; empty: its own
    weights_dir: str = ""  # where weights of networks that look at images lie; empty: where they always do
    neighbours: int | None = None  # of each of those images; None: as published
    fresh: dict[str, Any] | None = None  # trained from scratch: family, size, ...
    source_hash: str = ""
    method: str = "ewc"
    steps: int = STEPS
    seed: int = 0
    device: str = "cpu"
    fit: str = "crop"  # crop | pad
    mirror: bool = False  # show each image also flipped left to right
    sample_every: int = 100  # steps between grids in samples/
    save_every: int = 100  # steps between saved states
    stop: str = "steps"  # steps | auto: before, if it is enough; see ``stopping``
    fsgen: str = fsgen.__version__

    def seen(self, images_digest: str, source_hash: str) -> Settings:
        """The same, with what it is made from by its hashes."""
        return dataclasses.replace(self, images_digest=images_digest, source_hash=source_hash)
