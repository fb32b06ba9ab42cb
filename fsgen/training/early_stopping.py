"""Early stopping without a validation set (``--stop auto``).

The longer a generator is trained on a few images, the closer its samples come to them: first to their domain,
then to these few by heart. A run therefore ends once the energy distance between samples and shots, in the
feature maps of the source's discriminator (which has never seen the shots), falls below a share of the
source's.

With ten shots the samples of single steps vary at random. Such a run keeps a moving average over more steps,
whose samples vary little.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fsgen.data.images import ImageSet
from fsgen.errors import Code, FsgenError
from fsgen.features.discriminator_features import embed
from fsgen.interfaces import Discriminator, Generator, TrainingState
from fsgen.methods.stack import Stack
from fsgen.metrics.energy import energy_distance
from fsgen.models.model import Model
from fsgen.sampling.conditioning import conditioning_of
from fsgen.training import results

EVERY = 25  # steps between measurements
SAMPLES = 128  # per measurement, always of the same latents
# Share of the source's distance to the shots. Chosen on runs from peeps64 to sketches, doodles and pixel
# faces (examples/studies/over_time.md).
BUDGET = 0.15
RECIPE = {"ema_rampup": 0.5}  # the average's half-life is half of the steps so far, not a quarter


def check_supported(model: Model, shots: ImageSet) -> None:
    """Refuse ``--stop auto`` for a model or images that it cannot measure."""
    title = model.about.get("title", "this source")
    why, hint = "", "leave --stop out and look at the samples yourself"
    if not conditioning_of(model).draws_alone:
        why = f"measures samples, and {title} draws none by itself: it translates"
    elif "d" not in model.networks:
        why = f"uses the source's discriminator, and {title} has none"
    elif len(shots) < 2:
        why, hint = "measures how much the images differ, and there is only one", "give more images"
    if why:
        raise FsgenError(f"--stop auto {why}", code=Code.INCOMPATIBLE, where="--stop", hint=hint)


class EarlyStopping:
    """Measures the distance of samples to the shots.

    Args:
        model: the starting model; its discriminator gives the features.
        shots: the images.
        methods: of the run.
        device: where networks run.
    """

    def __init__(self, model: Model, shots: ImageSet, methods: Stack, device: torch.device) -> None:
        self.model, self.images, self.methods, self.device = model, shots, methods, device

    @cached_property
    def discriminator(self) -> Discriminator:
        found = self.model.discriminator(self.device)
        assert found is not None, "checked before step 0"
        return found

    @cached_property
    def shots(self) -> Tensor:
        """Features of the images, [n, k]."""
        return embed(self.discriminator, self.images.floats())

    @cached_property
    def start(self) -> float:
        """The energy distance of the source's samples to the shots."""
        return self._distance(self.model, self.model.generator(device=self.device))

    def distance(self, state: TrainingState) -> float:
        """The energy distance of the run's samples to the shots, if it ended here."""
        return self._distance(*results.model_if_ended(self.model, self.methods, state))

    def is_close(self, distance: float) -> bool:
        """Tell whether ``distance`` is within the budget."""
        return distance <= BUDGET * self.start

    def verdict(self, distance: float, step: int) -> str:
        """A sentence on the last measurement, at ``step``."""
        found = f"samples are {distance / self.start:.0%} as far from the images as the source's"
        if self.is_close(distance):
            return f"ended at step {step}: {found}"
        return f"all {step} steps done: {found}; early stopping is at {BUDGET:.0%}"

    def _distance(self, model: Model, g: Generator) -> float:
        drawn = embed(self.discriminator, conditioning_of(model).draw_images(g, SAMPLES, "stop"))
        return energy_distance(drawn, self.shots)
