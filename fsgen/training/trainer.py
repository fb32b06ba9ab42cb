"""A run, from its first step to its last: what ``adapt`` and ``train`` have in common."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsgen import config as configs
from fsgen.callbacks import Callbacks
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import Code, FsgenError, Interrupted
from fsgen.features import weight_files
from fsgen.features.base_extractor import Extractor
from fsgen.io.run_folder import Run
from fsgen.methods.stack import Stack
from fsgen.models import model as models
from fsgen.models.classes import with_class
from fsgen.models.model import Model
from fsgen.training import domain_gap, early_stopping, loop, results, state_file
from fsgen.training.data_source import DataSource, make_data_source
from fsgen.training.method_context import make_method_context
from fsgen.training.settings import Settings

LOG_EVERY = 10  # steps between lines of log.jsonl


@dataclass(frozen=True)
class Job:
    """A run that is ready to go: everything checked, nothing trained."""

    settings: Settings
    source: Model  # as it was found
    model: Model  # what the run starts from: perhaps with a class more
    shots: ImageSet
    methods: Stack
    recipe: Any
    run: Run
    callbacks: Callbacks
    extractor: Extractor | None = None  # of the features that a model of instances draws after
    resumed: bool = False  # goes on from the state in the run folder


def go(job: Job) -> Path:
    began = time.perf_counter()
    device = torch.device(job.settings.device)
    model, callbacks = job.model, job.callbacks
    d = model.discriminator(device)
    if d is None:
        if job.methods.adversarial:
            callbacks.say("the source has no discriminator: training starts with a fresh one")
        d = model.fresh_discriminator(job.settings.seed, device)
    data = make_data_source(model, job.shots, job.settings, job.methods, device, callbacks, job.extractor)
    model = data.model
    tools = make_method_context(
        job.source, data, recipe=job.recipe, steps=job.settings.steps, shots=len(job.shots),
        seed=job.settings.seed, device=device, weights_dir=weight_files.user_dir(job.settings.weights_dir),
        callbacks=callbacks, scratch=job.settings.fresh is not None,
    )  # fmt: skip
    saved = job.run.saved() if job.resumed else None
    if saved is None:
        if job.settings.fresh is None:
            domain_gap.announce(model, job.shots, device, callbacks.say)
        else:
            callbacks.say(f"training {model.about['title']} from scratch on {len(job.shots)} images")
        job.methods.enter(tools)  # may refuse, so an earlier run in the folder stays until it is done
        job.run.begin(config_of(job.settings, job.recipe, job.methods))
    else:
        kept = {key: value.to(device) for key, value in saved.parts.get("method", {}).items()}
        job.methods.restore(kept, tools)
    g = model.generator(model.start, device)
    job.methods.fit(g, d)
    trains = partial(job.methods.trains, model.family, model.spec)
    state = loop.begin(model.family, g, d, job.recipe, trains)
    if saved is not None:
        state_file.restore(state, saved)
        job.run.seconds = saved.header.get("seconds", 0.0)
        job.run.truncate_log(state.step)
        callbacks.say(f"resuming at step {state.step} of {job.settings.steps}")
    follow = _Follow(job, data, state, device, began)
    if saved is None:
        follow.save(state)
    elif saved.header.get("enough"):
        follow.enough = True
        callbacks.say(
            f"the run has ended by itself at step {state.step}; without --stop auto it goes further"
        )
    loop.train(
        state, family=model.family, methods=job.methods, real_batches=data.real_batches, recipe=job.recipe,
        steps=state.step if follow.enough else job.settings.steps, seed=job.settings.seed,
        draw=data.drawing(state.g), perceptual=_perceptual(job, device), after=follow,
    )  # fmt: skip
    follow.save(state)
    if follow.interrupted and not follow.enough and state.step < job.settings.steps:
        verb = "adapt" if job.settings.fresh is None else "train"
        raise Interrupted(
            f"stopped after step {state.step} of {job.settings.steps}; everything is saved",
            hint=f"go on: fsgen {verb} --resume {shlex.quote(str(job.run.path))}",
        )
    results.write(
        data, state, job.methods, job.run, enough=follow.enough, settings=dataclasses.asdict(job.settings),
        recipe=dataclasses.asdict(job.recipe), source_g=tools.source,
        shots=len(job.shots), seconds=follow.seconds, grid=follow.grid(state),
    )  # fmt: skip
    return job.run.path


class _Follow:
    """What happens after each step besides training: log, grid, save, stop."""

    def __init__(
        self, job: Job, data: DataSource, state: loop.TrainingState, device: torch.device, began: float
    ) -> None:  # fmt: skip
        self.job = job
        self.interrupted = False
        self.enough = False  # samples are as near to the images as they should come: see ``stopping``
        self.window: dict[str, list[Tensor]] = {}  # losses not logged yet
        self.means: dict[str, float] = {}  # of the last line of the log
        self.before = began - job.run.seconds
        self.began = time.perf_counter()
        self.first = state.step
        self.preview = results.Preview(data, job.methods, device, beside=job.settings.fresh is None)
        self.early_stopping = early_stopping.EarlyStopping(data.model, job.shots, job.methods, device)

    @property
    def seconds(self) -> float:
        """Wall time spent on the run, preparations and earlier processes included."""
        return time.perf_counter() - self.before

    def __call__(self, state: loop.TrainingState, losses: dict[str, Tensor]) -> bool:
        settings = self.job.settings
        last = state.step == settings.steps
        self.interrupted = self.job.callbacks.stop()
        for name, value in losses.items():
            self.window.setdefault(name, []).append(value)
        # Reading a loss makes the device wait, so it is done now and then, for the mean since the last time.
        if state.step % LOG_EVERY == 0 or state.step == 1 or last or self.interrupted:
            self.means = {name: torch.stack(seen).mean().item() for name, seen in self.window.items()}
            self.window = {}
            _refuse_nan(self.means, state.step, self.job.run)
            self.job.run.log(state.step, self.means)
        speed = (state.step - self.first) * self.job.recipe.batch / (time.perf_counter() - self.began)
        self.job.callbacks.step(state.step, settings.steps, self.means, speed)
        if state.step % settings.sample_every == 0 and not last:
            self.grid(state)
        if settings.stop == "auto" and state.step % early_stopping.EVERY == 0:
            distance = self.early_stopping.look(state)
            self.enough = self.early_stopping.enough(distance)
            self.job.run.log(state.step, {"distance": distance})
            if self.enough or last:
                self.job.callbacks.say(self.early_stopping.verdict(distance, state.step))
        if state.step % settings.save_every == 0 and not last and not self.interrupted:
            self.save(state)
        return self.interrupted or self.enough

    def save(self, state: loop.TrainingState) -> None:
        """Replace the state on disk, unless what would be saved is not worth going on with."""
        sums = {f"weights of {name}": sum(p.detach().double().sum() for p in net.parameters()).item()
                for name, net in (("g", state.g), ("d", state.d))}  # fmt: skip
        _refuse_nan(sums, state.step, self.job.run)
        header = {"step": state.step, "source_hash": self.job.settings.source_hash,
                  "seconds": round(self.seconds, 1), "enough": self.enough}  # fmt: skip
        self.job.run.save(state_file.to_tensors(state, self.job.methods.state()), header)

    def grid(self, state: loop.TrainingState) -> Path:
        return self.preview.write(state, self.job.run.samples / f"{state.step:06d}.png")


def _refuse_nan(values: dict[str, float], step: int, run: Run) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FsgenError(
            f"training broke down at step {step}: '{bad[0]}' is not a finite number; "
            f"the state saved in {run.path} is from before",
            hint="start again with a smaller --lr, or a smaller weight of what the method adds",
            code=Code.DIVERGED,
        )


def source_of(settings: Settings) -> Model:
    """What a run is made from: its source, or an untrained model."""
    if settings.fresh is None:
        return models.load(settings.source)
    shape = {"width": None} | settings.fresh  # a TOML file has no None
    return models.fresh(**shape, features=settings.features, seed=settings.seed)


def start_of(source: Model, new_class: str, methods: Stack) -> Model:
    """What an adaptation begins with: ``source``, with a class more if asked for, as the methods want it.

    Raises:
        FsgenError: there can be no new class, the methods would train nothing of it, or undo their own work.
    """
    title = source.about.get("title", "this source")
    for name in methods.name.split(","):
        if any(key.startswith(f"{name}.") for key in source.extra):
            raise FsgenError(f"{title} holds what {name} left there, and a second run of it would lose that",
                             hint="start from its source, or use another method")  # fmt: skip
    model = with_class(source, new_class) if new_class else source
    model = dataclasses.replace(model, from_average=methods.starts == "g_ema")
    if not methods.conditions and not any(
        methods.trains(model.family, model.spec, "g", name) for name in model.networks[model.start]
    ):
        raise FsgenError(
            f"{methods.name} would train nothing of {title}",
            hint="embedding takes a source with classes",
        )
    return model


def _perceptual(job: Job, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """LPIPS (VGG) for families that rebuild pictures, if its weights are on this machine; said either way."""
    if "reconstruction" not in job.model.family.traits or not job.recipe.reconstruction:
        return None
    from fsgen.features.lpips_network import Lpips

    try:
        path = weight_files.locate_file("vgg16", weight_files.user_dir(job.settings.weights_dir))
    except FsgenError:
        job.callbacks.say("reconstructions are compared by L1: LPIPS needs fsgen pull metrics vgg16")
        return None
    job.callbacks.say("reconstructions are compared by LPIPS")
    return Lpips("vgg", path, device)


def read_shots(model: Model, images: str | Path, fit: str, callbacks: Callbacks) -> ImageSet:
    spec = model.spec
    return load_images(images, spec["resolution"], fit=fit, channels=spec["channels"], say=callbacks.say)


def resolved(model: Model, changes: Mapping[str, Any]) -> Any:
    base = dataclasses.asdict(model.family.recipe(model.spec))
    known = {key: value for key, value in changes.items() if value is not None}
    resolved = configs.options(model.family.Recipe, base | known, where=f"the recipe of {model.family.name}")
    if resolved.batch < 1 or not 0 < resolved.lr < math.inf:
        raise FsgenError("--batch is at least 1 and --lr is above 0")
    return resolved


def config_of(settings: Settings, recipe: Any, methods: Stack) -> dict[str, Any]:
    return {
        "run": dataclasses.asdict(settings),
        "recipe": dataclasses.asdict(recipe),
        "method": methods.options(),
    }


def check_times(steps: int, sample_every: int, save_every: int, fit: str, stop: str = "steps") -> None:
    """Refuse what no run can be asked for."""
    if stop not in ("steps", "auto"):
        raise FsgenError(f"there is no stop '{stop}'", hint="steps or auto")
    if steps < 1 or sample_every < 1 or save_every < 1:
        raise FsgenError("steps, sample-every and save-every are whole numbers of at least 1")
    if fit not in ("crop", "pad"):
        raise FsgenError(f"there is no fit '{fit}'", hint="crop or pad")


def lasting(source: str | Path) -> str:
    """A path that survives a change of the working directory; a name stays a name."""
    is_path = models.find(str(source)).is_relative_to(source)
    return str(Path(source).resolve()) if is_path else str(source)


def keep_apart(out: Path, *inputs: str | Path) -> None:
    """What a run is made from must not lie where the run before it is removed."""
    for path in inputs:
        if Path(path).resolve().is_relative_to(out.resolve()):
            raise FsgenError(f"{path} lies inside the run folder {out}", hint="choose another --out")


def can_go_on(run: Run, steps: int | None) -> None:
    done = run.step
    if done is None and run.model.exists():
        raise FsgenError(f"the run in {run.path} is done and its state/ is gone, so it cannot go on")
    if steps is not None and steps < max(1, done or 0):
        raise FsgenError(f"the run in {run.path} has done {done or 0} steps: --steps {steps} is behind it")
