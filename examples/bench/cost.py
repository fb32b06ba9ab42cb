"""What a training step and a Fisher cost on this machine, compared inside one run.

    python examples/bench/cost.py [--steps 200] [--methods "finetune;ewc"] [--batch 4] [--out cost.json]

Steps of each method are interleaved, so that whatever else the machine does hits all alike; medians are given
with the 10th and 90th percentile. With --batch all take so many images a step; without it each takes its own
number, bsa all of the ten. The Fisher is timed vectorised over samples and one sample at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import torch

import fsgen
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.io.run_folder import RunFolder
from fsgen.methods.stack import Stack, parse_methods
from fsgen.models import model as models
from fsgen.nn import per_sample_fisher as estimator
from fsgen.training import fisher as fishers
from fsgen.training import loop, trainer
from fsgen.training.run_options import AdaptOptions, RunConfig
from fsgen.training.start import read_shots, resolve_recipe, starting_model

SHOTS = Path(__file__).parent.parent / "ten_sketches"
METHODS = "finetune;ewc;diffaugment;ewc,diffaugment"
BATCH = 16  # of Fisher samples


def stepper(
    model: models.Model, name: str, device: torch.device, batch: int | None, folder: Path
) -> tuple[Callable[[], float], int]:
    """Prepare a run; return a function that does one step and returns its seconds, and the batch size."""
    options = {"ewc": {"lambda": 500, "samples": BATCH}} if "ewc" in name.split(",") else {}
    methods = Stack(parse_methods(name, options))
    methods.check(model.family)
    model = starting_model(model, "", methods)
    shots = read_shots(model, SHOTS, "crop", Callbacks())
    usual = methods.recipe(model.family, model.spec, len(shots))
    recipe = resolve_recipe(model, usual | ({"batch": batch} if batch else {}))
    config = RunConfig.of(AdaptOptions(method=name), images=str(SHOTS), device=str(device), mirror=False)
    prepared = trainer.prepare(trainer.TrainingJob(
        config, model, model, shots, methods, recipe, RunFolder.plan(folder, force=False), Callbacks()
    ))  # fmt: skip
    state = prepared.state

    def step() -> float:
        began = time.perf_counter()
        loop.train_steps(
            state, family=model.family, methods=methods, real_batches=prepared.real_batches, recipe=recipe,
            steps=state.step + 1, seed=0, draw=prepared.data.draw(state.g),
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return step, recipe.batch


def spread(times: list[float]) -> dict[str, float]:
    tenths = quantiles(times, n=10)
    return {"median_ms": tenths[4] * 1e3, "p10_ms": tenths[0] * 1e3, "p90_ms": tenths[8] * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--source", default="peeps64")
    parser.add_argument("--methods", default=METHODS, help="stacks of them, with ; between")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    model = models.load_model(given.source)
    g = model.generator(model.start, device)
    score = fishers.likelihood(model, "adversarial", device)
    batch = [(g.draw(BATCH, random.generator(0, "bench")).to(device), None)]
    times: dict[str, list[float]] = {"vectorised": [], "loop": []}
    for _ in range(5):
        for name, how in (("vectorised", estimator.diagonal), ("loop", estimator.diagonal_by_loop)):
            began = time.perf_counter()
            how(g, score, batch)
            times[name].append((time.perf_counter() - began) / BATCH)
    names = given.methods.split(";")
    with TemporaryDirectory() as folder:
        steppers = {
            name: stepper(model, name, device, given.batch, Path(folder) / str(row))
            for row, name in enumerate(names)
        }
    taken: dict[str, list[float]] = {name: [] for name in names}
    for step, _ in steppers.values():
        step()  # warm up
    for _ in range(given.steps):
        for name, (step, _) in steppers.items():
            taken[name].append(step())
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(), "system": platform.platform(),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
        "fsgen": fsgen.__version__, "date": time.strftime("%Y-%m-%d"), "source": given.source,
        "steps": given.steps,
        "step": {name: {"batch": steppers[name][1], **spread(some)} for name, some in taken.items()},
        "fisher_sample": {name: spread(some) for name, some in times.items()},
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
