"""What methods may ask of the engine before step 0."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.errors import FsgenError, Interrupted
from fsgen.features.vgg import Vgg
from fsgen.features.weight_files import locate_file
from fsgen.interfaces import Inputs, Method, MethodContext, NetworkName, TrialRun
from fsgen.methods.stack import Stack
from fsgen.models.classes import with_class_fisher
from fsgen.models.model import Model
from fsgen.training import fisher, loop
from fsgen.training.data_source import DataSource

TOGETHER = 32  # samples drawn at a time for the information of two networks


def make_method_context(
    known: Model, data: DataSource, *, recipe: Any, steps: int, shots: int, seed: int, device: torch.device,
    weights_dir: Path | None, callbacks: Callbacks, scratch: bool,
) -> MethodContext:  # fmt: skip
    """The bench of a run that is ``fed``; nothing is computed until a method asks for it.

    ``known`` is the source as it was found: the run may start with a class more, which it knows nothing of.
    ``scratch``: nothing was trained before.
    """
    model = data.model
    source = model.generator(model.start, device).requires_grad_(False)
    watched = partial(_watched, callbacks)

    def diagonal(samples: int, proxy: str) -> dict[str, Tensor]:
        found = fisher.of_model(
            known, samples=samples, proxy=proxy, seed=seed, device=device, weights_dir=weights_dir,
            progress=partial(watched, "Fisher"),
        ).diagonal  # fmt: skip
        if known.spec != model.spec:
            found = with_class_fisher(found, model.family, known.spec["c_dim"])
        return {name: value.to(device) for name, value in found.items()}

    def trial_run(steps: int, method: Method | None = None) -> TrialRun:
        methods = Stack([method] if method else [])
        g = model.generator(model.start, device)
        d = model.discriminator(device) or model.fresh_discriminator(seed, device)
        methods.fit(g, d)
        trial = loop.begin(model.family, g, d, recipe, partial(methods.trains, model.family, model.spec))

        def report(state: loop.TrainingState, losses: dict[str, Tensor]) -> bool:
            watched("pilot", state.step, steps)
            return False

        loop.train(
            trial, family=model.family, methods=methods, real_batches=data.real_batches, recipe=recipe,
            steps=steps, seed=seed, draw=data.drawing(trial.g), after=report,
        )  # fmt: skip
        start, end = dict(source.named_parameters()), dict(trial.g.named_parameters())
        return TrialRun(
            trial.g_ema, trial.d,
            {name: (end[name] - start[name]).detach() for name in start.keys() & end.keys()},
            {name: trial.opt_g.state[p]["exp_avg_sq"].sqrt() for name, p in end.items()
             if p in trial.opt_g.state},
        )  # fmt: skip

    def information(
        g: nn.Module, d: nn.Module, samples: int, seed: int, *, waiting: bool = False
    ) -> dict[NetworkName, dict[str, Tensor]]:
        """Of both as they are, by parameter name. ``waiting``: before step 0, when a person watches."""
        draw = data.drawing(g)

        def batches() -> Iterator[tuple[Inputs, Tensor]]:
            for done in range(0, samples, TOGETHER):
                if waiting:
                    watched("Fisher", done, samples)
                rng = random.generator(seed, "information", done, device=device)
                inputs = draw(min(TOGETHER, samples - done), rng).to(device)
                yield inputs, data.real_batches(min(TOGETHER, samples - done), rng, inputs)

        # A network in training mode would measure its normalisations on single samples, and keep that.
        still_g, still_d = (copy.deepcopy(net).eval() for net in (g, d))
        return fisher.of_players(model.family, still_g, still_d, batches())

    return MethodContext(
        model.family, model.spec, source, model.family.layers(model.spec), recipe, steps, shots, device, seed,
        diagonal, trial_run, information, callbacks.say,
        frozenset() if scratch else frozenset({"g"} | {"d"} & known.networks.keys()),
        partial(_vgg, weights_dir, model.spec["resolution"], device),
    )  # fmt: skip


def _watched(callbacks: Callbacks, task: str, done: int, total: int) -> None:
    callbacks.progress(task, done, total)
    if callbacks.stop():
        raise Interrupted(
            "stopped before the first step; nothing was trained yet", hint="start again when you like"
        )


def _vgg(
    weights_dir: Path | None, size: int, device: torch.device, layers: Sequence[str], *, average: bool = False
) -> Vgg:
    return Vgg(vgg16(weights_dir), layers, size, device, average=average)


def vgg16(weights_dir: Path | None) -> Path:
    """The weights of VGG16.

    Raises:
        FsgenError: they are not on this machine.
    """
    try:
        return locate_file("vgg16", weights_dir)
    except FsgenError:
        raise FsgenError("VGG16's weights are not on this machine", hint="fsgen pull metrics") from None
