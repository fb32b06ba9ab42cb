"""A run with everything checked and nothing trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fsgen.callbacks import Callbacks
from fsgen.data.images import ImageSet
from fsgen.features.base_extractor import Extractor
from fsgen.io.run_folder import RunFolder
from fsgen.methods.stack import Stack
from fsgen.models.model import Model
from fsgen.sampling.conditioning import TrainingInputs, TrainingRequest, conditioning_of
from fsgen.training.run_options import RunConfig


@dataclass(frozen=True)
class TrainingJob:
    """A run with everything checked and nothing trained."""

    config: RunConfig
    source: Model  # as it was found
    model: Model  # the starting model, perhaps with one class more
    shots: ImageSet
    methods: Stack  # empty for a technique that trains nothing
    recipe: Any
    folder: RunFolder
    callbacks: Callbacks
    extractor: Extractor | None = None  # of instance features
    resumed: bool = False  # from the state in the run folder

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)

    def training_inputs(self) -> TrainingInputs:
        """Inputs by the model's conditioning."""
        return conditioning_of(self.model).training_inputs(self.shots, self.request())

    def request(self) -> TrainingRequest:
        config = self.config
        return TrainingRequest(
            config.seed, self.device, config.mirror, config.neighbours, config.features, self.extractor,
            partial(self.callbacks.progress, "features"),
        )  # fmt: skip
