"""What a training step and a Fisher cost on this machine, compared inside one run.

    python examples/bench/cost.py [--steps 200] [--device cpu] [--out cost.json]

Steps of each method are interleaved, so that whatever else the machine does hits all alike; medians are given
with the 10th and 90th percentile. The Fisher is timed vectorised over samples and one sample at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

import torch

import fsgen
from fsgen import rng as random
from fsgen.data.images import load_images
from fsgen.engine import fisher as fishers
from fsgen.engine import loop
from fsgen.methods.stack import Stack
from fsgen.models import model as models
from fsgen.nn import fisher as estimator
from fsgen.types import Bench

SHOTS = Path(__file__).parent.parent / "ten_sketches"
METHODS = ("finetune", "ewc", "diffaugment", "ewc,diffaugment")
BATCH = 16  # of Fisher samples


def stepper(model: models.Model, name: str, device: torch.device, diagonal: dict) -> Callable[[], float]:
    """A function that does one more step of a run of its own and tells how long it took."""
    source = model.generator(model.start, device).requires_grad_(False)
    recipe = model.family.recipe(model.spec)
    methods = Stack.parse(name, {"ewc": {"lambda": 500}} if "ewc" in name else {})
    methods.enter(
        Bench(
            model.family, source, model.family.layers(model.spec), recipe, 0, 10, device, 0,
            lambda samples, proxy: diagonal, lambda steps: None, lambda line: None,
        )
    )  # fmt: skip
    state = loop.begin(model.generator(model.start, device), model.discriminator(device), recipe)
    shots = load_images(SHOTS, model.spec["resolution"]).floats().to(device)

    def reals(n: int, rng: torch.Generator) -> torch.Tensor:
        return shots[torch.randint(len(shots), (n,), generator=rng, device=rng.device)]

    def step() -> float:
        began = time.perf_counter()
        loop.train(
            state, family=model.family, methods=methods, reals=reals, recipe=recipe,
            steps=state.step + 1, seed=0,
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return step


def spread(times: list[float]) -> dict[str, float]:
    tenths = quantiles(times, n=10)
    return {"median_ms": tenths[4] * 1e3, "p10_ms": tenths[0] * 1e3, "p90_ms": tenths[8] * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--source", default="peeps64")
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
            diagonal = how(g, score, batch)
            times[name].append((time.perf_counter() - began) / BATCH)
    diagonal = {name: value.detach() for name, value in diagonal.items()}
    steppers = {name: stepper(model, name, device, diagonal) for name in METHODS}
    taken: dict[str, list[float]] = {name: [] for name in METHODS}
    for step in steppers.values():
        step()  # warm up
    for _ in range(given.steps):
        for name, step in steppers.items():
            taken[name].append(step())
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(), "system": platform.platform(),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
        "fsgen": fsgen.__version__, "date": time.strftime("%Y-%m-%d"), "source": given.source,
        "steps": given.steps, "batch": model.family.recipe(model.spec).batch,
        "step": {name: spread(some) for name, some in taken.items()},
        "fisher_sample": {name: spread(some) for name, some in times.items()},
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
