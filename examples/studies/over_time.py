"""What more steps do, with the penalty of EWC and without it, and which step `--stop auto` keeps.

    python examples/studies/over_time.py run --avatars DIR --out RUNS [--targets sketches] [--seeds 0]
    python examples/studies/over_time.py table
    python examples/studies/over_time.py plot

`fsgen adapt --stop auto` of peeps64 to ten pictures, with finetune and with ewc, for at most 800 steps. Every
50 steps 500 samples are judged in the avatars' features.pt by 5,000 pictures that the run knows nothing of.
That test set tells which step was best; the kept one is chosen without it. ``plot`` draws over_time.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from adaptations import SAMPLES, TARGETS, Judge, drawn, rows, write

import fsgen
from fsgen.engine.sample import ready
from fsgen.engine.watch import Watch
from fsgen.io import checkpoint
from fsgen.models import model as models

RESULTS = Path(__file__).with_suffix(".jsonl")
METHODS = ("finetune", "ewc")
STEPS, EVERY = 800, 50


class Judged:
    """Judges the states that a run saves, each while the next step is being made."""

    def __init__(self, run: Path, judge: Judge) -> None:
        self.run, self.judge = run, judge
        self.figures: dict[int, dict[str, float]] = {}

    def step(self, step: int, *_: Any) -> None:
        if step > 1 and step % EVERY == 1:
            self.look()

    def look(self) -> None:
        """At the average in the state saved last."""
        tensors, header = checkpoint.read(self.run / "state" / "latest.safetensors")
        source = models.load("peeps64")
        average = {"g_ema": checkpoint.split(tensors)["g_ema"]}
        model = ready(dataclasses.replace(source, networks=average), "cpu")
        self.figures[header["step"]] = self.judge.figures(model.sample(SAMPLES, seed=0))


def run(avatars: Path, out: Path, targets: list[str], methods: list[str], seeds: list[int]) -> None:
    for target in targets:
        judge = Judge.of(avatars, target)
        for seed in seeds:
            for method in methods:
                made = out / f"{target}-{method}-{seed}"
                judged = Judged(made, judge)
                fsgen.adapt(
                    avatars / f"ten_{target}", out=made, method=method, seed=seed, steps=STEPS, stop="auto",
                    save_every=EVERY, device="cpu", force=True, watch=Watch(step=judged.step),
                )  # fmt: skip
                judged.look()
                told = json.loads((made / "report.json").read_text())["run"]["stop"]
                log = (json.loads(line) for line in (made / "log.jsonl").read_text().splitlines())
                seen = {line["step"]: line for line in log if "spread" in line}
                if told["step"] not in judged.figures:
                    judged.figures[told["step"]] = judge.figures(drawn(made))
                for step, figures in sorted(judged.figures.items()):
                    write(RESULTS, {
                        "target": target, "method": method, "seed": seed, **figures, **seen[step],
                        "kept": told["step"], "done": told["done"], "threads": torch.get_num_threads(),
                    })  # fmt: skip


def groups() -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows(RESULTS):
        found[row["target"], row["method"], row["seed"]].append(row)
    return found


def table() -> None:
    print("| | | seed | ended | kept | its distance | diversity | best step | its distance | farther by |")
    print("|---" * 10 + "|")
    for (target, method, seed), some in groups().items():
        (kept,) = [row for row in some if row["step"] == row["kept"]]
        best = min(some, key=lambda row: row["frechet"])
        print(
            f"| {target} | {method} | {seed} | {kept['done']} | {kept['step']} | {kept['frechet']:.0f} "
            f"| {kept['diversity']:.1f} | {best['step']} | {best['frechet']:.0f} "
            f"| {kept['frechet'] / best['frechet'] - 1:.1%} |"
        )


def plot() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {"frechet": "Frechet distance", "diversity": "diversity", "spread": "spread (images: 1)"}
    figure = Figure(figsize=(11, 8), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), len(TARGETS), sharex=True, sharey="row")
    for (target, method, seed), some in groups().items():
        color = {"finetune": "tab:orange", "ewc": "tab:blue"}[method]
        for row, name in enumerate(shown):
            place = axes[row][TARGETS.index(target)]
            label = method if seed == 0 else None
            place.plot([x["step"] for x in some], [x[name] for x in some], color=color, lw=1.2, label=label)
            (kept,) = [x for x in some if x["step"] == x["kept"]]
            place.plot(kept["step"], kept[name], "o", color=color)
    for row, label in enumerate(shown.values()):
        axes[row][0].set_ylabel(label)
    for place, target in zip(axes[0], TARGETS, strict=True):
        place.set_title(target)
    for place in axes[2]:
        place.axhline(1, color="grey", lw=0.8), place.set_xlabel("step")
    axes[0][0].legend(frameon=False)
    figure.savefig(RESULTS.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "plot"))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    if given.command == "table":
        return table()
    if given.command == "plot":
        return plot()
    if not given.avatars or not given.out:
        parser.error("--avatars and --out are needed")
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    run(given.avatars, given.out, given.targets.split(","), given.methods.split(","), seeds)


if __name__ == "__main__":
    main()
