"""Runs that train nothing: new conditions for the source, or its images in another style."""

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
from fsgen.interfaces import TrainingFree
from fsgen.io.cache_folders import make_folder
from fsgen.io.run_folder import REDRAWN
from fsgen.models.model import Model
from fsgen.sampling.conditioning import PREVIEW, conditioning_of
from fsgen.sampling.sampler import Loaded, ready
from fsgen.training import domain_gap, results
from fsgen.training.batches import real_batches
from fsgen.training.job import TrainingJob
from fsgen.training.method_context import method_context
from fsgen.training.start import full_config
from fsgen.training_free.style_transfer import StyleTransfer


def run(job: TrainingJob, technique: TrainingFree) -> Path:
    """Write the results of ``technique``; the run folder. The job's stack of methods is empty."""
    if isinstance(technique, StyleTransfer):
        return _style_transfer(job, technique)
    if job.resumed and job.folder.model.exists():
        return job.folder.path
    began = time.perf_counter()
    data = conditioning_of(job.model).conditioned_on(job.shots, Path(job.config.images).stem, job.request())
    folder, model = job.folder, data.model
    domain_gap.announce(model, job.shots, job.device, job.callbacks.say)
    config = full_config(job.config, job.recipe, technique)
    folder.begin(config)
    options = config["method"]
    g = model.generator(device=job.device)
    finished = Model(
        model.family, model.spec, model.networks, results.about_of(model, job.config, options), data.stored(g)
    )
    finished.save(folder.model)
    with torch.no_grad():
        inputs = data.preview(g)
        images = g(inputs).cpu()
        above = images if inputs.content is None else inputs.content.cpu()
        grid = results.write_grid(above, images, folder.samples / "000000.png", 0, model.hash)
    results.write_report(job, grid, {
        "model": {"file": folder.model.name, "hash": finished.hash},
        **results.facts(job.source, job.config, options, len(job.shots), time.perf_counter() - began),
        "steps": 0, "ended_by_itself": False, "recipe": dataclasses.asdict(job.recipe),
        "trained_parameters": 0, "rate_of_change": {},
    })  # fmt: skip
    return folder.path


def _style_transfer(job: TrainingJob, method: StyleTransfer) -> Path:
    """Redraw the source's images in the style of one shot; a resumed run goes on with the missing ones."""
    config, folder, callbacks, device = job.config, job.folder, job.callbacks, job.device
    data = job.training_inputs()
    batches = real_batches(job.shots, device, mirror=config.mirror)
    method.setup(method_context(
        job.source, data, batches, recipe=job.recipe, config=config, shots=len(job.shots), device=device,
        weights_dir=config.weights_path, callbacks=callbacks,
    ))  # fmt: skip
    domain_gap.announce(data.model, job.shots, device, callbacks.say)
    about = full_config(config, job.recipe, method)
    if not job.resumed:
        folder.begin(about)
    row = int(torch.randint(len(job.shots), [], generator=random.generator(config.seed, "target")))
    name, target = job.shots.names[row], job.shots.floats([row])
    callbacks.say(f"redrawing in the style of {name}, chosen by the seed")
    source, count = ready(data.model, config.device), method.options.pictures
    licence = str(data.model.about.get("licence") or "unknown")
    text = {"source": data.model.hash, "target": name, "licence": licence, "Software": "fsgen"}
    for seed in range(count):
        _redraw(job, method, source, seed, target.to(device), text)
    grid = _grid(job, source, min(count, PREVIEW), folder.samples / f"{count:06d}.png", text)
    image_output.save_png(image_output.picture(target[0]), folder.samples / "target.png", {"target": name})
    seconds = sum(line["seconds"] for line in folder.history())
    results.write_report(job, grid, {
        "model": None, "pictures": {"folder": REDRAWN, "count": count, "target": name},
        **results.facts(job.source, config, about["method"], len(job.shots), seconds),
    })  # fmt: skip
    return folder.path


def _redraw(
    job: TrainingJob, method: StyleTransfer, source: Loaded, seed: int, target: Tensor,
    text: Mapping[str, str],
) -> None:  # fmt: skip
    """Redraw the image of ``seed``, unless the folder has it already; log losses and seconds."""
    path = make_folder(job.folder.path / REDRAWN) / f"{seed:05d}.png"
    if path.exists():
        return
    callbacks, began = job.callbacks, time.perf_counter()
    count = method.options.pictures

    def check_interrupted() -> None:
        if callbacks.stop():
            raise Interrupted(
                f"stopped at image {seed + 1} of {count}; those before it are saved",
                where=job.folder.path,
                hint=f"resume: fsgen adapt --resume {shlex.quote(str(job.folder.path))}",
            )

    image = next(source.images([seed])).to(source.device)
    callbacks.progress("pictures", seed, count)
    redrawn, losses = method.redraw(image, target, check_interrupted)
    job.folder.log(seed + 1, {**losses, "seconds": round(time.perf_counter() - began, 3)})
    image_output.save_png(image_output.picture(redrawn[0]), path, {**text, "seed": str(seed)})


def _grid(job: TrainingJob, source: Loaded, count: int, path: Path, text: Mapping[str, str]) -> Path:
    """The first images, each below the source's own."""
    spec = source.model.spec
    drawn = load_images(
        job.folder.path / REDRAWN, spec["resolution"], channels=spec["channels"], limit=count
    ).floats()
    own = torch.cat(list(source.images(range(count))))
    image_output.save_png(
        image_output.pairs(own, drawn, columns=8), path, {**text, "seeds": f"0-{count - 1}"}
    )
    return path
