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
from functools import partial
from pathlib import Path
from statistics import quantiles

import torch
from fsgen.training.data_source import make_data_source
from fsgen.training.settings import STEPS, Settings

import fsgen
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.models import model as models
from fsgen.nn import per_sample_fisher as estimator
from fsgen.training import fisher as fishers
from fsgen.training import loop
from fsgen.training.adapt import technique_of
from fsgen.training.method_context import make_method_context
from fsgen.training.trainer import read_shots, resolved, start_of

SHOTS = Path(__file__).parent.parent / "ten_sketches"
METHODS = "finetune;ewc;diffaugment;ewc,diffaugment"
BATCH = 16  # of Fisher samples


def stepper(
    model: models.Model, name: str, device: torch.device, batch: int | None
) -> tuple[Callable[[], float], int]:
    """A function that does one more step of a run of its own and tells how long it took; images a step."""
    methods = technique_of(
        name, {"ewc": {"lambda": 500, "samples": BATCH}} if "ewc" in name.split(",") else {}
    )
    methods.check(model.family)
    model = start_of(model, "", methods)
    shots = read_shots(model, SHOTS, "crop", Callbacks())
    usual = methods.recipe(model.family, model.spec, len(shots))
    recipe = resolved(model, usual | ({"batch": batch} if batch else {}))
    settings = Settings(images=str(SHOTS), method=methods.name, device=str(device))
    data = make_data_source(model, shots, settings, methods, device, Callbacks())
    methods.setup(make_method_context(
        model, data, recipe=recipe, steps=STEPS, shots=len(shots), seed=0, device=device, weights_dir=None,
        callbacks=Callbacks(), scratch=False,
    ))  # fmt: skip
    g, d = model.generator(model.start, device), model.discriminator(device)
    methods.add_modules(g, d)
    trains = partial(methods.trains, model.family, model.spec)
    state = loop.begin(model.family, g, d, recipe, trains)

    def step() -> float:
        began = time.perf_counter()
        loop.train(
            state, family=model.family, methods=methods, real_batches=data.real_batches, recipe=recipe,
            steps=state.step + 1, seed=0, draw=data.drawing(g),
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
    model = models.load(given.source)
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
    steppers = {name: stepper(model, name, device, given.batch) for name in names}
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
