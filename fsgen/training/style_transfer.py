"""A run that ends in pictures instead of a model: its source's, redrawn after one of the images."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fsgen import rng as random
from fsgen.data import image_output
from fsgen.data.images import load_images
from fsgen.errors import Interrupted
from fsgen.features import weight_files
from fsgen.io import report_json
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import REDRAWN
from fsgen.sampling.sampler import Loaded, ready
from fsgen.training import domain_gap, results
from fsgen.training.data_source import SHOWN, make_data_source
from fsgen.training.method_context import make_method_context
from fsgen.training.trainer import Job, config_of


def go(job: Job) -> Path:
    settings, run, callbacks = job.settings, job.run, job.callbacks
    device, (method,) = torch.device(settings.device), job.methods.methods
    data = make_data_source(job.model, job.shots, settings, job.methods, device, callbacks, job.extractor)
    tools = make_method_context(
        job.source, data, recipe=job.recipe, steps=0, shots=len(job.shots), seed=settings.seed, device=device,
        weights_dir=weight_files.user_dir(settings.weights_dir), callbacks=callbacks, scratch=False,
    )  # fmt: skip
    domain_gap.announce(data.model, job.shots, device, callbacks.say)
    method.enter(tools)
    if not job.resumed:
        run.begin(config_of(settings, job.recipe, job.methods))
    row = int(torch.randint(len(job.shots), [], generator=random.generator(settings.seed, "target")))
    name, target = job.shots.names[row], job.shots.floats([row])
    callbacks.say(f"redrawn after {name}, which the seed has chosen")
    source, count = ready(data.model, settings.device), method.options.pictures
    licence = str(data.model.about.get("licence") or "unknown")
    text = {"source": data.model.hash, "target": name, "licence": licence, "Software": "fsgen"}
    for seed in range(count):
        _redraw(job, source, seed, target.to(device), text)
    grid = _grid(job, source, min(count, SHOWN), run.samples / f"{count:06d}.png", text)
    image_output.save_png(image_output.picture(target[0]), run.samples / "target.png", {"target": name})
    seconds = sum(line["seconds"] for line in run.history())
    facts = results.facts(
        job.source, dataclasses.asdict(settings), job.methods.options(), len(job.shots), seconds
    )
    redrawn = {"folder": REDRAWN, "count": count, "target": name}
    grid_name = str(grid.relative_to(run.path))
    report_json.update(run.path, {"run": {"model": None, "pictures": redrawn, **facts, "grid": grid_name}})
    return run.path


def _redraw(job: Job, source: Loaded, seed: int, target: Tensor, text: Mapping[str, str]) -> None:
    """The picture of ``seed``, unless it lies in the folder already; a line of the log says what it took."""
    path = make_folder(job.run.path / REDRAWN) / f"{seed:05d}.png"
    if path.exists():
        return
    (method,), callbacks, began = job.methods.methods, job.callbacks, time.perf_counter()
    count = method.options.pictures

    def told() -> None:
        if callbacks.stop():
            raise Interrupted(
                f"stopped at picture {seed + 1} of {count}; those before it are saved",
                hint=f"go on: fsgen adapt --resume {shlex.quote(str(job.run.path))}",
            )

    image = next(source.images([seed])).to(source.device)
    callbacks.progress("pictures", seed, count)
    redrawn, losses = method.redraw(image, target, told)
    job.run.log(seed + 1, {**losses, "seconds": round(time.perf_counter() - began, 3)})
    image_output.save_png(image_output.picture(redrawn[0]), path, {**text, "seed": str(seed)})


def _grid(job: Job, source: Loaded, count: int, path: Path, text: Mapping[str, str]) -> Path:
    """The first pictures, each below the source's own."""
    spec = source.model.spec
    drawn = load_images(
        job.run.path / REDRAWN, spec["resolution"], channels=spec["channels"], limit=count
    ).floats()
    own = torch.cat(list(source.images(range(count))))
    image_output.save_png(
        image_output.pairs(own, drawn, columns=8), path, {**text, "seeds": f"0-{count - 1}"}
    )
    return path
