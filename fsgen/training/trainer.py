"""A run from its first step to its last: prepare, train, finish."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from fsgen.errors import FsgenError, Interrupted
from fsgen.features import weight_files
from fsgen.interfaces import MethodContext, TrainingState, Trait
from fsgen.sampling.conditioning import TrainingInputs, conditioning_of
from fsgen.training import domain_gap, loop, results, state_file, step_callbacks
from fsgen.training.batches import RealBatches, real_batches
from fsgen.training.job import TrainingJob
from fsgen.training.method_context import method_context, networks_of
from fsgen.training.start import full_config


@dataclass
class Prepared:
    """A run ready for its next step."""

    job: TrainingJob
    data: TrainingInputs
    real_batches: RealBatches
    context: MethodContext
    state: TrainingState
    preview: results.Preview
    clock: step_callbacks.Clock
    ended: bool = False  # by early stopping, in an earlier process


def run(job: TrainingJob) -> Path:
    """Train and write the results; the run folder.

    Raises:
        Interrupted: ``callbacks.stop`` returned True; the state is saved.
    """
    prepared = prepare(job)
    train_run(prepared)
    finish(prepared)
    return job.folder.path


def prepare(job: TrainingJob) -> Prepared:
    """Build data, networks and methods, or restore them from the saved state."""
    clock = step_callbacks.Clock(time.perf_counter())
    callbacks, methods, device = job.callbacks, job.methods, job.device
    if "d" not in job.model.networks and methods.adversarial:
        callbacks.say("the source has no discriminator: training starts with a fresh one")
    data = job.training_inputs()
    model = data.model
    labels = conditioning_of(model).labels(job.shots)
    batches = real_batches(job.shots, device, mirror=job.config.mirror, classes=labels)
    context = method_context(
        job.source, data, batches, recipe=job.recipe, config=job.config, shots=len(job.shots), device=device,
        weights_dir=job.config.weights_path, callbacks=callbacks,
    )  # fmt: skip
    saved = job.folder.saved() if job.resumed else None
    if saved is None:
        if job.config.fresh is None:
            domain_gap.announce(model, job.shots, device, callbacks.say)
        else:
            callbacks.say(f"training {model.about['title']} from scratch on {len(job.shots)} images")
        methods.setup(context)  # may refuse, so an earlier run in the folder stays until it is done
        job.folder.begin(full_config(job.config, job.recipe, methods))
    else:
        buffers = {key: value.to(device) for key, value in saved.parts.get("method", {}).items()}
        methods.resume(buffers, context)
    g, d = networks_of(model, job.config.seed, device)
    methods.add_modules(g, d)
    trains = partial(methods.trains_parameter, model.family, model.spec)
    state = loop.begin(model.family, g, d, job.recipe, trains)
    prepared = Prepared(job, data, batches, context, state, results.Preview(data, job), clock)
    if saved is not None:
        state_file.restore(state, saved)
        clock.before = saved.header.get("seconds", 0.0)
        job.folder.truncate_log(state.step)
        prepared.ended = bool(saved.header.get("enough"))
        callbacks.say(f"resuming at step {state.step} of {job.config.steps}")
        if prepared.ended:
            callbacks.say(
                f"early stopping has ended the run at step {state.step}; without --stop auto it goes on"
            )
    return prepared


def train_run(prepared: Prepared) -> None:
    """Run the loop with its callbacks; save the state at the end.

    Raises:
        Interrupted: ``callbacks.stop`` returned True before the last step.
    """
    job, state, model = prepared.job, prepared.state, prepared.data.model
    stop = step_callbacks.StopEarly(job, model, prepared.ended)
    save = step_callbacks.SaveState(job, prepared.clock, stop)
    every_step: list[step_callbacks.StepCallback] = [
        step_callbacks.LogLosses(job, state.step),
        step_callbacks.PreviewGrid(job, prepared.preview),
        stop,
        save,
    ]
    interrupted = False

    def after(state: TrainingState, losses: dict[str, Tensor]) -> bool:
        nonlocal interrupted
        interrupted = job.callbacks.stop()
        status = step_callbacks.Status(last=state.step == job.config.steps, interrupted=interrupted)
        return any([callback(state, losses, status) for callback in every_step]) or interrupted

    if not job.resumed or not state.step:
        save.write(state)
    loop.train_steps(
        state, family=model.family, methods=job.methods, real_batches=prepared.real_batches,
        recipe=job.recipe, steps=state.step if prepared.ended else job.config.steps, seed=job.config.seed,
        draw=prepared.data.draw(state.g), perceptual=_perceptual(job), after=after,
    )  # fmt: skip
    save.write(state)
    prepared.ended = stop.ended
    if interrupted and not stop.ended and state.step < job.config.steps:
        verb = "adapt" if job.config.fresh is None else "train"
        raise Interrupted(
            f"stopped after step {state.step} of {job.config.steps}; everything is saved",
            where=job.folder.path, hint=f"resume: fsgen {verb} --resume {shlex.quote(str(job.folder.path))}",
        )  # fmt: skip


def finish(prepared: Prepared) -> None:
    """Write model, plots, report and the last grid."""
    job, state = prepared.job, prepared.state
    grid = prepared.preview.write(state, job.folder.samples / f"{state.step:06d}.png")
    results.write(
        job, prepared.data, state, source_g=prepared.context.source, ended_early=prepared.ended,
        seconds=prepared.clock.seconds, grid=grid,
    )  # fmt: skip


def _perceptual(job: TrainingJob) -> Callable[[Tensor, Tensor], Tensor] | None:
    """LPIPS (VGG) for families that rebuild images, if its weights are on this machine; said either way."""
    if Trait.RECONSTRUCTION not in job.model.family.traits or not job.recipe.reconstruction:
        return None
    from fsgen.features.lpips_network import Lpips

    try:
        path = weight_files.locate_file("vgg16", job.config.weights_path)
    except FsgenError:
        job.callbacks.say("reconstructions are compared by L1: LPIPS needs fsgen pull metrics vgg16")
        return None
    job.callbacks.say("reconstructions are compared by LPIPS")
    return Lpips("vgg", path, job.device)
