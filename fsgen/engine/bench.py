"""What methods may ask of the engine before step 0."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsgen.engine import fisher, loop
from fsgen.engine.supply import Supply
from fsgen.engine.watch import Watch
from fsgen.errors import Interrupted
from fsgen.methods.stack import Stack
from fsgen.models.classes import with_class_fisher
from fsgen.models.model import Model
from fsgen.types import Bench, Pilot


def bench(
    known: Model, fed: Supply, *, recipe: Any, steps: int, shots: int, seed: int, device: torch.device,
    weights_dir: Path | None, watch: Watch,
) -> Bench:  # fmt: skip
    """The bench of a run that is ``fed``; nothing is computed until a method asks for it.

    ``known`` is the source as it was found: the run may start with a class more, which it knows nothing of.
    """
    model = fed.model
    source = model.generator(model.start, device).requires_grad_(False)

    def watched(task: str, done: int, total: int) -> None:
        watch.progress(task, done, total)
        if watch.stop():
            raise Interrupted(
                "stopped before the first step; nothing was trained yet", hint="start again when you like"
            )

    def diagonal(samples: int, proxy: str) -> dict[str, Tensor]:
        found = fisher.of_model(
            known, samples=samples, proxy=proxy, seed=seed, device=device, weights_dir=weights_dir,
            progress=partial(watched, "Fisher"),
        ).diagonal  # fmt: skip
        if known.spec != model.spec:
            found = with_class_fisher(found, model.family, known.spec["c_dim"])
        return {name: value.to(device) for name, value in found.items()}

    def pilot(steps: int) -> Pilot:
        d = model.discriminator(device) or model.fresh_discriminator(seed, device)
        trial = loop.begin(model.family, model.generator(model.start, device), d, recipe)

        def report(state: loop.State, losses: dict[str, Tensor]) -> bool:
            watched("pilot", state.step, steps)
            return False

        loop.train(
            trial, family=model.family, methods=Stack(), reals=fed.reals, recipe=recipe, steps=steps,
            seed=seed, draw=fed.drawing(trial.g), after=report,
        )  # fmt: skip
        start = dict(source.named_parameters())
        return Pilot(
            {name: (p - start[name]).detach() for name, p in trial.g.named_parameters()},
            {name: trial.opt_g.state[p]["exp_avg_sq"].sqrt() for name, p in trial.g.named_parameters()},
        )

    layers = model.family.layers(model.spec)
    return Bench(model.family, source, layers, recipe, steps, shots, device, seed, diagonal, pilot, watch.say)
