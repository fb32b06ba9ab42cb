"""How the weight of the EWC penalty trades nearness to the target against diversity.

    python examples/studies/ewc_lambda.py run sketches --avatars DIR --seeds 0,1,2
    python examples/studies/ewc_lambda.py table

Adapts peeps64 at the defaults of `fsgen adapt`, once with finetune, once with each lambda and with auto, and
measures 500 samples in an independent feature space: the avatars' features.pt (a small network trained on the
four avatar styles; no generator was trained with it). Per run:

    diversity  mean pairwise L2 distance of the samples' features
    frechet    Frechet distance to the 5,000 images of the target
    leakage    share of samples nearer to a source image than to any of the target's (5,000 each)

These are development figures, not FID.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from adaptations import REALS, SAMPLES, TARGETS, features, rows, write

import fsgen
from fsgen.data.images import load_images
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.metrics.memorisation import leakage

RESULTS = Path(__file__).with_suffix(".jsonl")
VARIANTS = ("finetune", "auto", "5", "50", "500", "5000", "50000")


def reals(avatars: Path, name: str) -> torch.Tensor:
    return features(avatars, load_images(avatars / f"{name}64.zip", 64, limit=REALS).pixels)


def run(target: str, avatars: Path, seeds: list[int], variants: list[str], steps: int | None) -> None:
    there, source = reals(avatars, target), reals(avatars, "peeps")
    for seed in seeds:
        for variant in variants:
            method = "finetune" if variant == "finetune" else "ewc"
            options = {"ewc": {"lambda": variant}} if method == "ewc" else {}
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                extra = {"steps": steps} if steps else {}
                out = fsgen.adapt(
                    avatars / f"ten_{target}", out=Path(folder) / "run", method=method, options=options,
                    seed=seed, device="cpu", **extra,
                )  # fmt: skip
                seconds = time.perf_counter() - began
                report = json.loads((out / "report.json").read_text())["run"]
                drawn = features(avatars, fsgen.load(out, device="cpu").sample(SAMPLES, seed=0))
            row = {
                "target": target, "variant": variant, "seed": seed, "steps": report["steps"],
                "lambda": report["method"].get("ewc", {}).get("lambda"),
                "diversity": round(mean_pairwise(drawn), 2), "frechet": round(frechet(drawn, there), 1),
                "leakage": leakage(drawn, source, there), "seconds": round(seconds, 1),
                "threads": torch.get_num_threads(),
            }  # fmt: skip
            write(RESULTS, row)


def table() -> None:
    groups = defaultdict(list)
    for row in sorted(
        rows(RESULTS), key=lambda row: (TARGETS.index(row["target"]), VARIANTS.index(row["variant"]))
    ):
        groups[row["target"], row["variant"]].append(row)
    print("| target | | lambda | seeds | diversity | Frechet distance | leakage |")
    print("|---" * 7 + "|")
    for (target, variant), some in groups.items():
        weights = ", ".join(f"{float(row['lambda']):.0f}" for row in some if row["lambda"])
        print(
            f"| {target} | {variant} | {weights if variant == 'auto' else ''} | {len(some)} "
            f"| {mean(row['diversity'] for row in some):.1f} | {mean(row['frechet'] for row in some):.0f} "
            f"| {mean(row['leakage'] for row in some):.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("target", choices=TARGETS)
    runs.add_argument("--avatars", type=Path, required=True, help="folder of the avatar sets")
    runs.add_argument("--seeds", default="0,1,2")
    runs.add_argument("--variants", default=",".join(VARIANTS))
    runs.add_argument("--steps", type=int, help="default: that of fsgen adapt")
    commands.add_parser("table")
    given = parser.parse_args()
    if given.command == "table":
        table()
    else:
        seeds = [int(seed) for seed in given.seeds.split(",")]
        run(given.target, given.avatars, seeds, given.variants.split(","), given.steps)


if __name__ == "__main__":
    main()
