"""When a run has gone far enough, from its images and its source alone: a budget of nearness.

The longer a generator is pulled to a few images, the nearer it comes to them: first to their domain, then to
these few by heart. So at every look some samples are held against the images in the feature maps of the
source's own critic, which has never seen them, and the run ends once they are that much nearer than the
source's.

With ten images samples also waver, so that which look is the best is luck. Such a run keeps an average that
reaches further back, whose samples waver little.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from fsgen.data.images import ImageSet
from fsgen.errors import FsgenError
from fsgen.features.discriminator_features import embed
from fsgen.interfaces import TrainingState
from fsgen.methods.stack import Stack
from fsgen.metrics.energy import energy_distance
from fsgen.models.model import Model
from fsgen.sampling.sampler import draw_images
from fsgen.training import results

EVERY = 25  # steps between looks
SAMPLES = 128  # a look, of the same latents each time
# Of the source's distance to the images. Chosen on runs from peeps64 to sketches, doodles and pixel faces
# (examples/studies/over_time.md).
BUDGET = 0.15
RECIPE = {"ema_rampup": 0.5}  # the average's half-life is half of the steps so far, not a quarter


def check(model: Model, methods: Stack, shots: ImageSet) -> None:
    """Refuse to choose where there is nothing to choose from, or nothing to look with."""
    title = model.about.get("title", "this source")
    if methods.conditions:
        raise FsgenError(f"{methods.name} trains nothing, so --stop auto has nothing to choose from")
    if "translation" in model.family.traits:
        raise FsgenError(f"--stop auto looks at samples, and {title} draws none by itself: it translates")
    if "d" not in model.networks:
        raise FsgenError(
            f"--stop auto looks through the source's discriminator, and {title} has none",
            hint="leave --stop out and look at the samples yourself",
        )
    if len(shots) < 2:
        raise FsgenError(
            "--stop auto asks how much the images differ, and there is only one",
            hint="more images, or leave --stop out",
        )


class EarlyStopping:
    """Looks when asked to, and says when it is enough.

    Args:
        model: what the run started from; its discriminator judges.
        shots: the images.
        methods: of the run.
        device: where networks run.
    """

    def __init__(self, model: Model, shots: ImageSet, methods: Stack, device: torch.device) -> None:
        self.model, self.images, self.methods, self.device = model, shots, methods, device

    @cached_property
    def discriminator(self) -> nn.Module:
        return self.model.discriminator(self.device)

    @cached_property
    def shots(self) -> Tensor:
        """The images as the critic sees them, [n, k]."""
        return embed(self.discriminator, self.images.floats())

    @cached_property
    def start(self) -> float:
        """The energy distance of the source's samples to the images."""
        return self._distance(self.model, self.model.generator(device=self.device))

    def look(self, state: TrainingState) -> float:
        """The energy distance to the images of what the average would draw if the run ended here."""
        return self._distance(*results.as_it_would_end(self.model, self.methods, state))

    def enough(self, distance: float) -> bool:
        return distance <= BUDGET * self.start

    def verdict(self, distance: float, step: int) -> str:
        """A sentence on the last look, at the step that the run has come to."""
        found = f"samples are {distance / self.start:.0%} as far from the images as the source's"
        if self.enough(distance):
            return f"ended at step {step}: {found}"
        return f"all {step} steps done: {found}; {BUDGET:.0%} would have ended it before"

    def _distance(self, model: Model, g: nn.Module) -> float:
        drawn = embed(self.discriminator, draw_images(model, g, SAMPLES, "stop"))
        return energy_distance(drawn, self.shots)
