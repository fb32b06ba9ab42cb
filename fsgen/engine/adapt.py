"""``fsgen adapt``: pull a source generator to the domain of a few images."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fsgen
from fsgen import config as configs
from fsgen.data.images import ImageSet, load_images
from fsgen.engine import device as devices
from fsgen.engine import fisher, loop, nearness, outcome
from fsgen.engine.run import Run
from fsgen.engine.watch import Watch
from fsgen.errors import FsgenError, Interrupted
from fsgen.io.home import made
from fsgen.methods.stack import Stack
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.types import Bench, Pilot

LOG_EVERY = 10  # steps between lines of log.jsonl
STEPS = 400
RESIDENT = 512  # images that are kept on the device as floats


@dataclass(frozen=True)
class Settings:
    """What was asked for, resolved: the config.toml of a run."""

    images: str = ""
    images_digest: str = ""  # SHA-256 over the files' own
    source: str = "peeps64"
    source_hash: str = ""
    method: str = "ewc"
    steps: int = STEPS
    seed: int = 0
    device: str = "cpu"
    fit: str = "crop"  # crop | pad
    mirror: bool = False  # show each image also flipped left to right
    sample_every: int = 100  # steps between grids in samples/
    save_every: int = 100  # steps between saved states
    fsgen: str = fsgen.__version__


@dataclass(frozen=True)
class Job:
    """A run that is ready to go: everything checked, nothing trained."""

    settings: Settings
    model: Model
    shots: ImageSet
    methods: Stack
    recipe: Any
    run: Run
    watch: Watch
    resumed: bool = False  # goes on from the state in the run folder


def adapt(
    images: str | Path,
    *,
    out: str | Path,
    source: str | Path = "peeps64",
    method: str = "ewc",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    fit: str = "crop",
    mirror: bool = False,
    sample_every: int = 100,
    save_every: int = 100,
    force: bool = False,
    dry_run: bool = False,
    watch: Watch | None = None,
) -> Path | dict[str, Any]:
    """Adapt ``source`` to ``images`` and leave everything in the run folder ``out``.

    Args:
        images: a folder (recursive), a zip, or one image; 1 to thousands.
        out: the run folder; must be new or empty, or hold a run to be replaced with ``force``.
        source: a run folder, a native file, or a name.
        method: one method or several joined by commas, as in ``"ewc,diffaugment"``.
        options: by method, what differs from its defaults: ``{"ewc": {"lambda": 500}}``.
        recipe: what differs from the family's training recipe: ``{"batch": 8, "lr": 0.001}``.
        steps: generator steps.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        fit: how a picture becomes square: ``crop`` or ``pad`` (white).
        mirror: also show the critic flipped images; only for domains without a left and right.
        sample_every, save_every: steps between grids and between saved states.
        force: replace a run that is in ``out``.
        dry_run: check everything, change nothing, return the resolved configuration.
        watch: callbacks.

    Returns:
        The run folder; the resolved configuration as plain values with ``dry_run``.

    Raises:
        FsgenError: refused input (code 2), a failure such as a full disk (1).
        Interrupted: ``watch.stop`` returned True; the state is saved.
    """
    watch = watch or Watch()
    if steps < 1 or sample_every < 1 or save_every < 1:
        raise FsgenError("steps, sample-every and save-every are whole numbers of at least 1")
    if fit not in ("crop", "pad"):
        raise FsgenError(f"there is no fit '{fit}'", hint="crop or pad")
    model = models.load(source)
    methods = Stack.parse(method, {name: dict(values) for name, values in (options or {}).items()})
    methods.check(model.family)
    resolved = _recipe(model, recipe or {})
    target = devices.pick(device)
    run = Run.plan(Path(out), force=force)
    _keep_apart(run.path, images, models.find(str(source)))
    shots = _shots(model, images, fit, watch)
    settings = Settings(
        images=str(Path(images).resolve()), images_digest=shots.digest, source=_lasting(source),
        source_hash=model.hash, method=methods.name, steps=steps, seed=seed, device=str(target), fit=fit,
        mirror=mirror, sample_every=sample_every, save_every=save_every,
    )  # fmt: skip
    config = _config(settings, resolved, methods)
    if dry_run:
        return config
    made(run.path)  # better refused now than after the preparations
    return _go(Job(settings, model, shots, methods, resolved, run, watch))


def resume(run: str | Path, *, steps: int | None = None, watch: Watch | None = None) -> Path:
    """Go on with a run that was interrupted or killed, exactly as if it had not been.

    Args:
        run: its folder.
        steps: go on to this many steps in all, instead of those first asked for.

    Raises:
        FsgenError: no run there, its images or its source have changed, or it is beyond ``steps`` already.
    """
    watch = watch or Watch()
    folder = Run.open(Path(run))
    config = folder.config()
    settings = configs.build(Settings, config.get("run", {}), where=f"[run] in {folder.path / 'config.toml'}")
    _can_go_on(folder, steps)
    if steps is not None:
        settings = dataclasses.replace(settings, steps=steps)
    model = models.load(settings.source)
    if model.hash != settings.source_hash:
        raise FsgenError(
            f"the source {settings.source} is not the one this run was begun with",
            hint="restore it, or start a new run",
        )
    shots = _shots(model, settings.images, settings.fit, watch)
    if shots.digest != settings.images_digest:
        raise FsgenError(
            f"the images in {settings.images} are not those this run was begun with",
            hint="restore them, or start a new run",
        )
    methods = Stack.parse(settings.method, config.get("method", {}))
    recipe = _recipe(model, config.get("recipe", {}))
    devices.pick(settings.device)
    if steps is not None:
        folder.write_config(_config(settings, recipe, methods))
    return _go(Job(settings, model, shots, methods, recipe, folder, watch, resumed=True))


# ---- the run, from its first step to its last ----------------------------------------------------------


def _go(job: Job) -> Path:
    began = time.perf_counter()
    device = torch.device(job.settings.device)
    model, watch = job.model, job.watch
    d = model.discriminator(device)
    if d is None:
        watch.say("the source has no discriminator: training starts with a fresh one")
        d = model.fresh_discriminator(job.settings.seed, device)
    state = loop.begin(model.generator(model.start, device), d, job.recipe)
    bench = _bench(job, device)
    saved = job.run.restore(state) if job.resumed else None
    if saved is None:
        nearness.announce(model, job.shots, device, watch.say)
        job.methods.enter(bench)  # may refuse, so an earlier run in the folder stays until it is done
        job.run.begin(_config(job.settings, job.recipe, job.methods))
    else:
        job.methods.restore(saved, bench)
        watch.say(f"resuming at step {state.step} of {job.settings.steps}")
    follow = _Follow(job, state, device, began)
    if saved is None:
        follow.save(state)
    loop.train(
        state, family=model.family, methods=job.methods, reals=_reals(job, device), recipe=job.recipe,
        steps=job.settings.steps, seed=job.settings.seed, after=follow,
    )  # fmt: skip
    follow.save(state)
    if follow.interrupted and state.step < job.settings.steps:
        raise Interrupted(
            f"stopped after step {state.step} of {job.settings.steps}; everything is saved",
            hint=f"go on: fsgen adapt --resume {shlex.quote(str(job.run.path))}",
        )
    outcome.write(
        model, state, job.run, settings=dataclasses.asdict(job.settings),
        recipe=dataclasses.asdict(job.recipe), options=job.methods.options(), source_g=bench.source,
        shots=len(job.shots), seconds=follow.seconds, grid=follow.grid(state),
    )  # fmt: skip
    return job.run.path


class _Follow:
    """What happens after each step besides training: log, grid, save, stop."""

    def __init__(self, job: Job, state: loop.State, device: torch.device, began: float) -> None:
        self.job = job
        self.interrupted = False
        self.window: dict[str, list[Tensor]] = {}  # losses not logged yet
        self.means: dict[str, float] = {}  # of the last line of the log
        self.before = began - job.run.seconds
        self.began = time.perf_counter()
        self.first = state.step
        self.preview = outcome.Preview(job.model, device)

    @property
    def seconds(self) -> float:
        """Wall time spent on the run, preparations and earlier processes included."""
        return time.perf_counter() - self.before

    def __call__(self, state: loop.State, losses: dict[str, Tensor]) -> bool:
        settings = self.job.settings
        last = state.step == settings.steps
        self.interrupted = self.job.watch.stop()
        for name, value in losses.items():
            self.window.setdefault(name, []).append(value)
        # Reading a loss makes the device wait, so it is done now and then, for the mean since the last time.
        if state.step % LOG_EVERY == 0 or state.step == 1 or last or self.interrupted:
            self.means = {name: torch.stack(seen).mean().item() for name, seen in self.window.items()}
            self.window = {}
            _refuse_nan(self.means, state.step, self.job.run)
            self.job.run.log(state.step, self.means)
        speed = (state.step - self.first) * self.job.recipe.batch / (time.perf_counter() - self.began)
        self.job.watch.step(state.step, settings.steps, self.means, speed)
        if state.step % settings.sample_every == 0 and not last:
            self.grid(state)
        if state.step % settings.save_every == 0 and not last and not self.interrupted:
            self.save(state)
        return self.interrupted

    def save(self, state: loop.State) -> None:
        """Replace the state on disk, unless what would be saved is not worth going on with."""
        sums = {f"weights of {name}": sum(p.detach().double().sum() for p in net.parameters()).item()
                for name, net in (("g", state.g), ("d", state.d))}  # fmt: skip
        _refuse_nan(sums, state.step, self.job.run)
        header = {"source_hash": self.job.settings.source_hash, "seconds": round(self.seconds, 1)}
        self.job.run.save(state, self.job.methods.state(), header)

    def grid(self, state: loop.State) -> Path:
        return self.preview.write(state.g_ema, self.job.run.samples / f"{state.step:06d}.png", state.step)


def _refuse_nan(values: dict[str, float], step: int, run: Run) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FsgenError(
            f"training broke down at step {step}: '{bad[0]}' is not a finite number; "
            f"the state saved in {run.path} is from before",
            hint="start again with a smaller --lr, or a smaller weight of what the method adds",
            code=1,
        )


def _reals(job: Job, device: torch.device) -> loop.Reals:
    """Batches of shots, drawn with replacement."""
    resident = job.shots.floats().to(device) if len(job.shots) <= RESIDENT else None

    def batch(n: int, rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(job.shots), (n,), generator=rng, device=rng.device)
        images = resident[rows] if resident is not None else job.shots.floats(rows.cpu()).to(device)
        if job.settings.mirror:
            flip = torch.rand(n, generator=rng, device=rng.device) < 0.5
            images = torch.where(flip.to(device)[:, None, None, None], images.flip(3), images)
        return images

    return batch


def _bench(job: Job, device: torch.device) -> Bench:
    """What the methods may ask for before step 0."""
    model, settings = job.model, job.settings
    source = model.generator(model.start, device).requires_grad_(False)

    def watched(task: str, done: int, total: int) -> None:
        job.watch.progress(task, done, total)
        if job.watch.stop():
            raise Interrupted(
                "stopped before the first step; nothing was trained yet", hint="start again when you like"
            )

    def diagonal(samples: int, proxy: str) -> dict[str, Tensor]:
        found = fisher.of_model(
            model, samples=samples, proxy=proxy, seed=settings.seed, device=device,
            progress=partial(watched, "Fisher"),
        )  # fmt: skip
        return {name: value.to(device) for name, value in found.diagonal.items()}

    def pilot(steps: int) -> Pilot:
        d = model.discriminator(device) or model.fresh_discriminator(settings.seed, device)
        trial = loop.begin(model.generator(model.start, device), d, job.recipe)

        def report(state: loop.State, losses: dict[str, Tensor]) -> bool:
            watched("pilot", state.step, steps)
            return False

        loop.train(
            trial, family=model.family, methods=Stack(), reals=_reals(job, device), recipe=job.recipe,
            steps=steps, seed=settings.seed, after=report,
        )  # fmt: skip
        start = dict(source.named_parameters())
        return Pilot(
            {name: (p - start[name]).detach() for name, p in trial.g.named_parameters()},
            {name: trial.opt_g.state[p]["exp_avg_sq"].sqrt() for name, p in trial.g.named_parameters()},
        )

    return Bench(
        model.family, source, model.family.layers(model.spec), job.recipe, settings.steps, len(job.shots),
        device, settings.seed, diagonal, pilot, job.watch.say,
    )  # fmt: skip


def _shots(model: Model, images: str | Path, fit: str, watch: Watch) -> ImageSet:
    spec = model.spec
    return load_images(images, spec["resolution"], fit=fit, channels=spec["channels"], say=watch.say)


def _recipe(model: Model, changes: Mapping[str, Any]) -> Any:
    base = dataclasses.asdict(model.family.recipe(model.spec))
    known = {key: value for key, value in changes.items() if value is not None}
    resolved = configs.build(model.family.Recipe, base | known, where=f"the recipe of {model.family.name}")
    if resolved.batch < 1 or not 0 < resolved.lr < math.inf:
        raise FsgenError("--batch is at least 1 and --lr is above 0")
    return resolved


def _config(settings: Settings, recipe: Any, methods: Stack) -> dict[str, Any]:
    return {
        "run": dataclasses.asdict(settings),
        "recipe": dataclasses.asdict(recipe),
        "method": methods.options(),
    }


def _lasting(source: str | Path) -> str:
    """A path that survives a change of the working directory; a name stays a name."""
    is_path = models.find(str(source)).is_relative_to(source)
    return str(Path(source).resolve()) if is_path else str(source)


def _keep_apart(out: Path, *inputs: str | Path) -> None:
    """What a run is made from must not lie where the run before it is removed."""
    for path in inputs:
        if Path(path).resolve().is_relative_to(out.resolve()):
            raise FsgenError(f"{path} lies inside the run folder {out}", hint="choose another --out")


def _can_go_on(run: Run, steps: int | None) -> None:
    done = run.step
    if done is None and run.model.exists():
        raise FsgenError(f"the run in {run.path} is done and its state/ is gone, so it cannot go on")
    if steps is not None and steps < max(1, done or 0):
        raise FsgenError(f"the run in {run.path} has done {done or 0} steps: --steps {steps} is behind it")
