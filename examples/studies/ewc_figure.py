"""The first figure of Li et al. 2020: where weights change with plenty of images, and where Fisher is large.

    python examples/studies/ewc_figure.py run --avatars DIR --out RUNS
    python examples/studies/ewc_figure.py draw

A five-layer DCGAN is trained on the 20,000 peeps and fine-tuned on the 5,000 sketches, everything anew for
each seed. By layer (a transposed convolution with its batch normalisation), first to last:

    rate of change  mean |theta - theta_S| / mean |theta_S| of the fine-tuned G, as in the report of a run
    Fisher          mean over the layer's parameters, at theta_S, as fsgen fisher prints it

and beside them what could explain them: the two parts of the rate, its median over single weights, Fisher per
layer and of relative changes, convolutions alone, and as many steps more on the peeps instead. Frechet
distances are in the avatars' features.pt: for development, not FID. ``run`` writes ewc_figure.json and
ewc_figure_samples.png beside this file, ``draw`` ewc_figure.png, and prints the tables.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import fsgen
from fsgen.data.image_output import pairs, save_png
from fsgen.data.images import load_images
from fsgen.metrics.frechet import frechet
from fsgen.training.adapt import resume
from fsgen.training.results import rate_of_change
from fsgen.training.train import train

HERE = Path(__file__)
WIDTH, BATCH = 24, 32  # a third of the published width: a core's minutes, not hours
STEPS, MARKS = 1600, (100, 200, 400, 600)  # of the source; of fine-tuning, where it is looked at
FISHER, SAMPLES, REALS = 1000, 1000, 5000


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text())["run"]


def by_layer(source: Path, tuned: Path, fisher: Any, *, convolutions: bool) -> dict[str, dict[str, float]]:
    """All figures of a layer, of its convolution alone or with its normalisation."""
    before, after = (fsgen.load(run, device="cpu").model.generator("g") for run in (source, tuned))
    layers = {layer: names[:1] if convolutions else names for layer, names in fisher.layers.items()}
    rates = rate_of_change(before, after, layers)
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    rows = {}
    with torch.no_grad():
        for layer, names in layers.items():
            theta, moved, information = (
                torch.cat([values[name].double().flatten() for name in names])
                for values in (old, {name: new[name] - old[name] for name in names}, fisher.diagonal)
            )
            rows[layer] = {
                "parameters": len(theta), "rate_of_change": rates[layer],
                "median_of_each": (moved / theta).abs().median().item(),
                "mean_change": moved.abs().mean().item(), "mean_weight": theta.abs().mean().item(),
                "fisher_mean": information.mean().item(), "fisher_sum": information.sum().item(),
                "fisher_relative_mean": (information * theta.square()).mean().item(),
            }  # fmt: skip
    return rows


def chain(seed: int, avatars: Path, out: Path, steps: int, marks: list[int]) -> dict[str, Any]:
    """Source, fine-tuning and Fisher of one seed."""
    shared = {"recipe": {"batch": BATCH}, "seed": seed, "device": "cpu", "force": True}
    source = train(
        avatars / "peeps64.zip", out=out / f"peeps_{seed}", family="dcgan", size=64, width=WIDTH,
        steps=steps, **shared,
    )  # fmt: skip

    def finetune(images: str, steps: int) -> Path:
        return fsgen.adapt(
            avatars / f"{images}64.zip", out=out / f"peeps_{seed}_to_{images}", source=source,
            method="finetune", steps=steps, **shared,
        )  # fmt: skip

    tuned, along = finetune("sketches", marks[0]), {}
    for mark in marks:
        tuned = resume(tuned, steps=mark)
        along[mark] = report(tuned)["rate_of_change"]
    on = finetune("peeps", marks[-1])
    began = time.perf_counter()
    fisher = fsgen.fisher(source, samples=FISHER, seed=seed, device="cpu")
    seconds = time.perf_counter() - began
    return {
        "layers": by_layer(source, tuned, fisher, convolutions=False),
        "convolutions": by_layer(source, tuned, fisher, convolutions=True),
        "rate_of_change_along_the_way": along,
        "rate_of_change_on_the_peeps": report(on)["rate_of_change"],
        "frechet_to_peeps": distance(source, avatars, "peeps"),
        "frechet_to_sketches": distance(tuned, avatars, "sketches"),
        "seconds": {
            "source": report(source)["cost"]["seconds"], "sketches": report(tuned)["cost"]["seconds"],
            "peeps": report(on)["cost"]["seconds"], "fisher": round(seconds, 1),
        },
    }  # fmt: skip


def distance(run: Path, avatars: Path, name: str) -> float:
    network = torch.jit.load(avatars / "features.pt").eval()
    real_images = load_images(avatars / f"{name}64.zip", 64, limit=REALS).pixels
    drawn = fsgen.load(run, device="cpu").sample(SAMPLES)
    with torch.no_grad():
        points = [
            torch.cat([network(part.float() / 127.5 - 1) for part in images.split(250)])
            for images in (drawn, real_images)
        ]
    return round(frechet(*points), 1)


def run(avatars: Path, out: Path, seeds: list[int], steps: int, marks: list[int]) -> None:
    began, chains = time.perf_counter(), {}
    for seed in seeds:
        chains[seed] = chain(seed, avatars, out, steps, marks)
        result = {
            "width": WIDTH, "batch": BATCH, "source_steps": steps, "steps": marks[-1],
            "fisher_samples": FISHER, "seeds": chains, "seconds": round(time.perf_counter() - began),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "fsgen": fsgen.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        HERE.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    names = (f"peeps_{seeds[0]}", f"peeps_{seeds[0]}_to_sketches")
    above, below = (fsgen.load(out / name, device="cpu").sample(24) for name in names)
    save_png(pairs(above, below, columns=12), HERE.with_name("ewc_figure_samples.png"))


def draw() -> None:
    """ewc_figure.png: both figures layer by layer, and the rate along the way."""
    # The object interface: no global state, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    result = json.loads(HERE.with_suffix(".json").read_text())
    chains = list(result["seeds"].values())
    layers = list(chains[0]["layers"])
    figure = Figure(figsize=(8, 3.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for axes, key, title in (
        (left, "rate_of_change", f"rate of change, {result['steps']} steps"),
        (middle, "fisher_mean", "mean Fisher information"),
    ):
        each = [[one["layers"][layer][key] for one in chains] for layer in layers]
        axes.bar(layers, [mean(some) for some in each], color="#4c6ef5", alpha=0.6)
        for layer, some in zip(layers, each, strict=True):
            axes.plot([layer] * len(some), some, "o", color="#1c2a66", markersize=3)
        axes.set_title(title, fontsize=10)
    middle.set_yscale("log")
    marks = [int(mark) for mark in chains[0]["rate_of_change_along_the_way"]]
    for layer in layers:
        rates = [
            mean(one["rate_of_change_along_the_way"][str(mark)][layer] for one in chains) for mark in marks
        ]
        right.plot(marks, rates, marker="o", markersize=3, label=layer)
    right.set_xscale("log"), right.set_xticks(marks, [str(mark) for mark in marks]), right.minorticks_off()
    right.set_title("rate of change over the steps", fontsize=10), right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False), axes.tick_params(labelsize=8)
    figure.savefig(HERE.with_suffix(".png"))
    table(result, chains, layers)


def table(result: dict[str, Any], chains: list[dict[str, Any]], layers: list[str]) -> None:
    def cell(values: list[float], form: str = ".3g") -> str:
        return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    print("| layer | parameters | rate of change | mean Fisher | ... on the peeps |")
    print("|---" * 5 + "|")
    for layer in layers:
        rows = [one["layers"][layer] for one in chains]
        on = [one["rate_of_change_on_the_peeps"][layer] for one in chains]
        print(
            f"| {layer} | {rows[0]['parameters']:,} | {cell([row['rate_of_change'] for row in rows])} "
            f"| {cell([row['fisher_mean'] for row in rows])} | {cell(on)} |"
        )
    for part in ("layers", "convolutions"):
        print(f"\n{part}: means over {len(chains)} seeds")
        for layer in layers:
            rows = [one[part][layer] for one in chains]
            print(layer, {key: float(f"{mean(row[key] for row in rows):.3g}") for key in rows[0]})
    for key in ("frechet_to_peeps", "frechet_to_sketches", "seconds"):
        print(key, [one[key] for one in chains])
    print(result["seconds"], "s in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--avatars", type=Path, required=True, help="folder of the avatar sets")
    runs.add_argument("--out", type=Path, required=True, help="folder for the runs")
    runs.add_argument("--seeds", default="0,1,2")
    runs.add_argument("--steps", type=int, default=STEPS, help="of the source")
    runs.add_argument("--marks", default=",".join(map(str, MARKS)), help="steps of fine-tuning")
    commands.add_parser("draw")
    given = parser.parse_args()
    if given.command == "draw":
        draw()
    else:
        seeds, marks = ([int(n) for n in text.split(",")] for text in (given.seeds, given.marks))
        run(given.avatars, given.out, seeds, given.steps, marks)


if __name__ == "__main__":
    main()
