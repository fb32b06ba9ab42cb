"""How the weight of the EWC penalty trades nearness to the target against diversity.

    python examples/studies/ewc_lambda.py run --avatars DIR --out RUNS [--targets sketches] [--lambdas 5,50]
    python examples/studies/ewc_lambda.py table

Adapts peeps64 to ten pictures at the defaults of `fsgen adapt`, but with a fixed lambda, judged by 500
samples (see adaptations.py). What stands beside them, finetune and EWC with `auto`, are rows of field.jsonl.
What was run already is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from adaptations import TARGETS, Judge, adapted, cells, drawn, rows, write
from field import RESULTS as FIELD

RESULTS = Path(__file__).with_suffix(".jsonl")
LAMBDAS = ("5", "50", "500", "5000", "50000")


def run(avatars: Path, out: Path, targets: list[str], lambdas: list[str], seeds: list[int]) -> None:
    for target in targets:
        judge = Judge.of(avatars, target)
        for seed in seeds:
            for weight in lambdas:
                which = {"target": target, "lambda": weight, "seed": seed}
                if any(which.items() <= row.items() for row in rows(RESULTS)):
                    continue
                made = out / f"{target}-{weight}-{seed}"
                adapted(avatars / f"ten_{target}", made, "ewc", seed, "--ewc-lambda", weight)
                write(RESULTS, {**which, **judge.figures(drawn(made), copies=False)})


def shown(target: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of a target, from no penalty to the largest, then ``auto``."""
    field = [row for row in rows(FIELD) if row["target"] == target]
    fixed = [row for row in rows(RESULTS) if row["target"] == target]
    yield "finetune", [row for row in field if row["method"] == "finetune"]
    for weight in LAMBDAS:
        yield weight, [row for row in fixed if row["lambda"] == weight]
    yield "auto", [row for row in field if row["method"] == "ewc"]


def table() -> None:
    print("| | lambda | seeds | Frechet distance | diversity | leakage |")
    print("|---" * 6 + "|")
    for target in TARGETS:
        for weight, some in shown(target):
            if some:
                print(f"| {target} | {weight} | {cells(some)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--lambdas", default=",".join(LAMBDAS))
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "table":
        return table()
    if not given.avatars or not given.out:
        parser.error("--avatars and --out are needed")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    run(given.avatars, given.out, given.targets.split(","), given.lambdas.split(","), seeds)


if __name__ == "__main__":
    main()
