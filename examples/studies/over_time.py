"""What more steps do, with the penalty of EWC and without it, and where `--stop auto` ends a run.

    python examples/studies/over_time.py run --avatars DIR --out RUNS [--targets sketches] [--seeds 3]
    python examples/studies/over_time.py table
    python examples/studies/over_time.py plot --seeds 3
    python examples/studies/over_time.py picture --out RUNS --seeds 3

`fsgen adapt` of peeps64 to ten pictures, with finetune and with ewc. At each look of --stop auto, which is
kept from ending the run here so that the rest is seen as well, 500 samples are judged in the avatars'
features.pt by 5,000 pictures that the run knows nothing of. This test set tells which step was best; where
the run would have ended is told without it. "penalty" is that of EWC without its lambda, sum_i F_i (theta_i -
theta_S,i)^2, of either method's generator by the same F. ``plot`` draws over_time.png; ``picture``, of runs
of 800 steps, over_time_samples.png: for each target finetune after 100, 400 and 800 steps, then ewc.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from adaptations import SAMPLES, SIZE, TARGETS, Judge, rows, write
from PIL import Image

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.data.images import load_images
from fsgen.io import checkpoint
from fsgen.methods.ewc import EWC
from fsgen.methods.stack import Stack
from fsgen.models import model as models
from fsgen.nn.losses import ewc_penalty
from fsgen.sampling.sampler import ready
from fsgen.training import early_stopping
from fsgen.training.fisher import fisher
from fsgen.training.run_options import AdaptOptions

RESULTS = Path(__file__).with_suffix(".jsonl")
METHODS = ("finetune", "ewc")
STEPS = AdaptOptions.steps


class Judged:
    """Judges the states that a run saves, each while the next step is being made."""

    def __init__(self, run: Path, judge: Judge) -> None:
        self.run, self.judge, self.source = run, judge, models.load_model("peeps64")
        start = self.source.networks[self.source.start]
        importance = fisher("peeps64", samples=EWC.Options().samples, device="cpu").diagonal
        self.start, self.importance = start, importance  # theta_S and F
        self.figures: dict[int, dict[str, float]] = {}

    def step(self, step: int, *_: Any) -> None:
        if step > 1 and step % early_stopping.EVERY == 1:
            self.look()

    def look(self) -> None:
        """At the average in the state saved last, and at how far its weights are."""
        tensors, header = checkpoint.read_file(self.run / "state" / "latest.safetensors")
        networks = checkpoint.split(tensors)
        model = ready(dataclasses.replace(self.source, networks={"g_ema": networks["g_ema"]}), "cpu")
        weights = ([some[name] for name in self.importance] for some in (networks["g"], self.start))
        penalty = ewc_penalty(*weights, list(self.importance.values()))
        self.figures[header["step"]] = {
            **self.judge.figures(model.sample(SAMPLES, seed=0), copies=False), "penalty": penalty.item(),
        }  # fmt: skip


def run(
    avatars: Path, out: Path, targets: list[str], methods: list[str], seeds: list[int], steps: int
) -> None:  # fmt: skip
    early_stopping.BUDGET = -1.0  # never enough
    for target in targets:
        judge, few = Judge.of(avatars, target), load_images(avatars / f"ten_{target}", 64)
        start = early_stopping.EarlyStopping(
            models.load_model("peeps64"), few, Stack(), torch.device("cpu")
        ).start
        for seed in seeds:
            for method in methods:
                made = out / f"{target}-{method}-{seed}"
                judged = Judged(made, judge)
                fsgen.adapt(
                    avatars / f"ten_{target}", out=made, method=method, seed=seed, steps=steps, stop="auto",
                    save_every=early_stopping.EVERY, device="cpu", force=True,
                    callbacks=Callbacks(step=judged.step),
                )  # fmt: skip
                judged.look()
                log = (json.loads(line) for line in (made / "log.jsonl").read_text().splitlines())
                for line in log:
                    if "distance" in line:
                        write(RESULTS, {
                            "target": target, "method": method, "seed": seed, "steps": steps,
                            **judged.figures[line["step"]], **line, "share": line["distance"] / start,
                            "threads": torch.get_num_threads(),
                        })  # fmt: skip


def groups() -> dict[tuple[str, str, int, int], list[dict[str, Any]]]:
    """By target, method, seed and number of steps."""
    found = defaultdict(list)
    for row in rows(RESULTS):
        found[row["target"], row["method"], row["seed"], row["steps"]].append(row)
    return found


def ended(some: list[dict[str, Any]]) -> dict[str, Any]:
    """The look that ends a run, or the last."""
    return next((row for row in some if row["share"] <= early_stopping.BUDGET), some[-1])


def table() -> None:
    print("| | | seed | steps | ends at | distance | diversity | leakage | best at | distance | farther by |")
    print("|---" * 11 + "|")
    for (target, method, seed, steps), every in sorted(groups().items(), key=lambda group: group[0][2]):
        for most in sorted({STEPS, steps}):
            some = [row for row in every if row["step"] <= most]  # a longer run begins as a shorter one
            end, best = ended(some), min(some, key=lambda row: row["frechet"])
            print(
                f"| {target} | {method} | {seed} | {most} | {end['step']} | {end['frechet']:.0f} "
                f"| {end['diversity']:.1f} | {end['leakage']:.1%} | {best['step']} | {best['frechet']:.0f} "
                f"| {end['frechet'] / best['frechet'] - 1:.1%} |"
            )


def plot(seeds: list[int]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {"frechet": "Frechet distance", "diversity": "diversity", "leakage": "leakage",
             "penalty": "penalty / lambda", "share": "energy distance (source: 1)"}  # fmt: skip
    figure = Figure(figsize=(11, 12), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), len(TARGETS), sharex=True, sharey="row")
    for (target, method, seed, _), some in groups().items():
        if seed not in seeds:
            continue
        color = {"finetune": "tab:orange", "ewc": "tab:blue"}[method]
        for row, (name, title) in enumerate(shown.items()):
            place = axes[row][TARGETS.index(target)]
            place.plot([x["step"] for x in some], [x[name] for x in some], color=color, lw=1.2, label=method)
            place.plot(ended(some)["step"], ended(some)[name], "o", color=color)
            axes[row][0].set_ylabel(title)
    for place, target in zip(axes[0], TARGETS, strict=True):
        place.set_title(target)
    for above, place in zip(axes[-2], axes[-1], strict=True):
        above.set_yscale("log"), place.set_yscale("log")
        place.axhline(early_stopping.BUDGET, color="grey", lw=0.8)
        place.set_xlabel("step")
    lines, names = axes[0][0].get_legend_handles_labels()
    named = dict(zip(names, lines, strict=True))  # each method once, whatever the number of seeds
    axes[0][0].legend(named.values(), named.keys(), frameon=False)
    figure.savefig(RESULTS.with_suffix(".png"))


def picture(out: Path, targets: list[str], methods: list[str], seed: int) -> None:
    """Of the second row of each grid: what became of the first six samples of the source."""
    grids = [
        out / f"{target}-{method}-{seed}" / "samples" / f"{step:06d}.png"
        for target in targets for method in methods for step in (100, 400, 800)
    ]  # fmt: skip
    row = SIZE + 2  # px, with the line between
    sheet = Image.new("RGB", (6 * row, len(grids) * row))
    for place, path in enumerate(grids):
        sheet.paste(Image.open(path).crop((0, row, 6 * row, 2 * row)), (0, place * row))
    sheet.save(RESULTS.with_name("over_time_samples.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "plot", "picture"))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if given.command == "table":
        return table()
    if given.command == "plot":
        return plot(seeds)
    if not given.out or not (given.avatars or given.command == "picture"):
        parser.error("--avatars and --out are needed")
    if given.command == "picture":
        return picture(given.out, given.targets.split(","), given.methods.split(","), seeds[0])
    torch.set_num_threads(1)
    run(given.avatars, given.out, given.targets.split(","), given.methods.split(","), seeds, given.steps)


if __name__ == "__main__":
    main()
