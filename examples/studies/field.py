"""The methods of the field side by side: peeps64 to ten sketches, pixel faces and doodles, in equal steps.

    python examples/studies/field.py run --avatars DIR --out RUNS [--methods "ewc;freezed,ada"] [--seeds 0]
    python examples/studies/field.py table
    python examples/studies/field.py picture --out RUNS

Every run is one `fsgen adapt` at its defaults, in a process of its own on one thread, judged by 500 samples
(see judging.py). What was run already is not run again. Seconds are a processor's, preparations included.
``picture`` draws field.png: the ten shots, then the same latents through the source and through each method.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from judging import SAMPLES, Judge

import fsgen
from fsgen.data.images import load_images
from fsgen.data.pictures import grid, save_png

RESULTS = Path(__file__).with_suffix(".jsonl")
TARGETS = ("sketches", "pixel_faces", "doodles")
METHODS = (
    "finetune", "ewc", "diffaugment", "bsa", "minegan", "freezed", "freezeg", "ada", "cdc", "adam", "rick",
    "ewc,diffaugment", "freezed,ada",
)  # fmt: skip
SHOWN = 12  # pictures of each method


def folder(out: Path, target: str, method: str, seed: int) -> Path:
    return out / f"{target}-{method.replace(',', '+')}-{seed}"


def adapted(shots: Path, out: Path, method: str, seed: int) -> float:
    """Adapts in a process of its own; the seconds of a processor that took."""

    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    before = used()
    command = [Path(sys.executable).with_name("fsgen"), "adapt", shots, "--out", out, "--method", method]
    subprocess.run(
        [*map(str, command), "--seed", str(seed), "--device", "cpu", "--force", "--json"], check=True,
        stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    shutil.rmtree(out / "state")
    return used() - before


def run(avatars: Path, out: Path, targets: list[str], methods: list[str], seeds: list[int]) -> None:
    judges = {target: Judge(avatars, target, avatars / f"ten_{target}") for target in targets}
    for seed in seeds:
        for method in methods:
            for target in targets:
                if any(
                    (row["target"], row["method"], row["seed"]) == (target, method, seed) for row in rows()
                ):
                    continue
                made = folder(out, target, method, seed)
                seconds = adapted(avatars / f"ten_{target}", made, method, seed)
                told = json.loads((made / "report.json").read_text())["run"]
                row = {
                    "target": target, "method": method, "seed": seed, "steps": told["steps"],
                    **judges[target].figures(fsgen.load(made, device="cpu").sample(SAMPLES, seed=0)),
                    "cpu_seconds": round(seconds, 1), "peak_mb": told["cost"]["peak_rss_mb"],
                    "threads": told["cost"]["threads"], "torch": torch.__version__,
                    "fsgen": fsgen.__version__, "date": time.strftime("%Y-%m-%d"),
                }  # fmt: skip
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def rows() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> None:
    groups = defaultdict(list)
    order = [(target, method) for target in TARGETS for method in METHODS]
    for row in sorted(rows(), key=lambda row: order.index((row["target"], row["method"]))):
        groups[row["target"], row["method"]].append(row)
    print("| | | seeds | Frechet distance | diversity | within a shot's | near copies | leakage | s | MB |")
    print("|---" * 10 + "|")
    for (target, method), some in groups.items():

        def of(name: str, some: list[dict] = some) -> float:
            return mean(row[name] for row in some)

        print(
            f"| {target} | {method} | {len(some)} | {of('frechet'):.0f} | {of('diversity'):.1f} "
            f"| {of('intra'):.1f} | {of('near_copies'):.1%} | {of('leakage'):.1%} | {of('cpu_seconds'):.0f} "
            f"| {max(row['peak_mb'] for row in some):,} |"
        )


def picture(avatars: Path, out: Path, target: str, seed: int) -> None:
    shots = load_images(avatars / f"ten_{target}", 64, limit=10).pixels
    blank = torch.full((SHOWN - len(shots), *shots.shape[1:]), 255, dtype=torch.uint8)
    made = ["peeps64", *(folder(out, target, method, seed) for method in METHODS)]
    strips = [shots, blank, *(fsgen.load(one, device="cpu").sample(SHOWN, seed=0) for one in made)]
    save_png(grid(torch.cat(strips), columns=SHOWN), RESULTS.with_name(f"field_{target}.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "picture"))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--methods", default=";".join(METHODS), help="stacks of them, with ; between")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    targets, methods = given.targets.split(","), given.methods.split(";")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    torch.set_num_threads(1)
    if given.command == "table":
        return table()
    if not given.avatars or not given.out:
        parser.error("--avatars and --out are needed")
    if given.command == "run":
        return run(given.avatars, given.out, targets, methods, seeds)
    for target in targets:
        picture(given.avatars, given.out, target, seeds[0])


if __name__ == "__main__":
    main()
