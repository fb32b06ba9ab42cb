"""The context that methods get before step 0: Fisher information, trial runs, frozen networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, FsgenError, Interrupted
from fsgen.features.vgg import Vgg
from fsgen.features.weight_files import locate_file
from fsgen.interfaces import (
    Discriminator,
    Family,
    Generator,
    Inputs,
    Method,
    MethodContext,
    NetworkName,
    TrainingState,
    TrialRun,
)
from fsgen.methods.stack import Stack
from fsgen.models.classes import with_class_fisher
from fsgen.models.model import Model
from fsgen.sampling.conditioning import TrainingInputs
from fsgen.training import fisher, loop
from fsgen.training.batches import RealBatches
from fsgen.training.run_options import RunConfig

TOGETHER = 32  # samples drawn at a time for the information of two networks


@dataclass(frozen=True)
class _Sources:
    """The parts of a run that the context is computed from."""

    source: Model  # as it was found: the run may start with one class more
    data: TrainingInputs
    real_batches: RealBatches
    recipe: Any
    config: RunConfig
    device: torch.device
    weights_dir: Path | None
    callbacks: Callbacks

    @property
    def model(self) -> Model:
        return self.data.model

    @property
    def family(self) -> Family:
        return self.model.family

    def fisher(self, samples: int, proxy: str) -> dict[str, Tensor]:
        """The diagonal Fisher information of the source; a new class has none."""
        found: Mapping[str, Tensor] = fisher.fisher_of_model(
            self.source, samples=samples, proxy=proxy, seed=self.config.seed, device=self.device,
            weights_dir=self.weights_dir, progress=partial(self.progress, "Fisher"),
        ).diagonal  # fmt: skip
        if self.source.spec != self.model.spec:
            found = with_class_fisher(found, self.family, self.source.spec["c_dim"])
        return {name: value.to(self.device) for name, value in found.items()}

    def trial_run(self, steps: int, method: Method | None = None) -> TrialRun:
        """Train for ``steps`` from theta_S with ``method``, or plainly."""
        model, methods = self.model, Stack([method] if method else [])
        g, d = networks_of(model, self.config.seed, self.device)
        start = {name: value.detach().clone() for name, value in g.named_parameters()}
        methods.add_modules(g, d)
        trains = partial(methods.trains_parameter, model.family, model.spec)
        state = loop.begin(model.family, g, d, self.recipe, trains)

        def report(state: TrainingState, losses: dict[str, Tensor]) -> bool:
            self.progress("trial run", state.step, steps)
            return False

        loop.train_steps(
            state, family=model.family, methods=methods, real_batches=self.real_batches, recipe=self.recipe,
            steps=steps, seed=self.config.seed, draw=self.data.draw(g), after=report,
        )  # fmt: skip
        end = dict(state.g.named_parameters())
        adam = state.opt_g.state
        return TrialRun(
            state.g_ema, state.d,
            {name: (end[name] - start[name]).detach() for name in start.keys() & end.keys()},
            {name: adam[p]["exp_avg_sq"].sqrt() for name, p in end.items() if p in adam},
        )  # fmt: skip

    def information(
        self, g: Generator, d: Discriminator, samples: int, seed: int, *, report_progress: bool = False
    ) -> dict[NetworkName, dict[str, Tensor]]:
        """The diagonal Fisher information of both networks as they are, by parameter name."""
        draw = self.data.draw(g)

        def batches() -> Iterator[tuple[Inputs, Tensor]]:
            for done in range(0, samples, TOGETHER):
                if report_progress:
                    self.progress("Fisher", done, samples)
                rng = random.generator(seed, "information", done, device=self.device)
                inputs = draw(min(TOGETHER, samples - done), rng).to(self.device)
                yield inputs, self.real_batches(min(TOGETHER, samples - done), rng, inputs)

        # In training mode normalisations would use, and keep, the statistics of single samples.
        frozen_g, frozen_d = copy.deepcopy(g).eval(), copy.deepcopy(d).eval()
        return fisher.of_both(self.family, frozen_g, frozen_d, batches())

    def frozen_network(self, name: str, **options: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        """The frozen network called ``name``: images [n, C, H, W] in [-1, 1] -> feature maps by layer."""
        if name != "vgg16":
            raise FsgenError(f"there is no frozen network '{name}'", code=Code.UNKNOWN_NAME, where=name)
        return Vgg(
            vgg16(self.weights_dir), options["layers"], self.model.spec["resolution"], self.device,
            average=options.get("average", False),
        )  # fmt: skip

    def progress(self, task: str, done: int, total: int) -> None:
        self.callbacks.progress(task, done, total)
        if self.callbacks.stop():
            raise Interrupted(
                "stopped before the first step; nothing was trained yet",
                where=task, hint="start the run again",
            )  # fmt: skip


def method_context(
    source: Model, data: TrainingInputs, real_batches: RealBatches, *, recipe: Any, config: RunConfig,
    shots: int, device: torch.device, weights_dir: Path | None, callbacks: Callbacks,
) -> MethodContext:  # fmt: skip
    """The context of a run; nothing is computed until a method asks for it.

    ``source`` is the source as it was found: the run may start with one class more.
    """
    sources = _Sources(source, data, real_batches, recipe, config, device, weights_dir, callbacks)
    model = data.model
    pretrained: frozenset[NetworkName] = frozenset()
    if config.fresh is None:
        pretrained = frozenset({"g", "d"}) if "d" in source.networks else frozenset({"g"})
    return MethodContext(
        model.family, model.spec, model.generator(model.start, device).requires_grad_(False), recipe,
        config.steps, shots, device, config.seed, sources.fisher, sources.trial_run, sources.information,
        sources.frozen_network, callbacks.say, pretrained,
    )  # fmt: skip


def networks_of(model: Model, seed: int, device: torch.device) -> tuple[Generator, Discriminator]:
    """G at theta_S and D; a fresh D where the model has none."""
    d = model.discriminator(device)
    return model.generator(model.start, device), d or model.fresh_discriminator(seed, device)


def vgg16(weights_dir: Path | None) -> Path:
    """The weight file of VGG16.

    Raises:
        FsgenError: it is not on this machine.
    """
    try:
        return locate_file("vgg16", weights_dir)
    except FsgenError:
        raise FsgenError(
            "VGG16's weights are not on this machine",
            code=Code.MISSING_WEIGHTS, where="vgg16", hint="fsgen pull metrics",
        ) from None  # fmt: skip
