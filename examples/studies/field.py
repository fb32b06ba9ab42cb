"""The methods of the field side by side: peeps64 to ten sketches, pixel faces and doodles, in equal steps.

    python examples/studies/field.py run --avatars DIR --out RUNS [--methods "ewc;freezed,ada"] [--seeds 0]
    python examples/studies/field.py table|summary
    python examples/studies/field.py picture --avatars DIR --out RUNS

Every run is one `fsgen adapt` at its defaults, in a process of its own on one thread, judged by 500 samples
(see adaptations.py); "source" is peeps64 as it is. What was run already is not run again. Seconds are a
processor's, preparations included. ``picture`` draws field_TARGET.png: the ten shots, then the same latents
through the source and through each method.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import torch
from adaptations import TARGETS, Judge, adapted, drawn, rows, write

from fsgen.data.image_output import grid, save_png
from fsgen.data.images import load_images

RESULTS = Path(__file__).with_suffix(".jsonl")
METHODS = (
    "source", "finetune", "ewc", "diffaugment", "bsa", "minegan", "freezed", "freezeg", "ada", "cdc", "adam",
    "rick", "ewc,diffaugment", "freezed,ada",
)  # fmt: skip
SHOWN = 12  # pictures of each method


def made_by(out: Path, target: str, method: str, seed: int) -> Path | str:
    """What a method made of the source, which lies in a folder of runs, or will."""
    return "peeps64" if method == "source" else out / f"{target}-{method.replace(',', '+')}-{seed}"


def run(avatars: Path, out: Path, targets: list[str], methods: list[str], seeds: list[int]) -> None:
    judges = {target: Judge.of(avatars, target) for target in targets}
    for seed in seeds:
        for method in methods:
            for target in targets:
                if (target, method, seed) in {
                    (row["target"], row["method"], row["seed"]) for row in rows(RESULTS)
                }:
                    continue
                made, cost = made_by(out, target, method, seed), {}
                if method != "source":
                    seconds = adapted(avatars / f"ten_{target}", made, method, seed)
                    told = json.loads((made / "report.json").read_text())["run"]
                    cost = {
                        "steps": told["steps"], "cpu_seconds": round(seconds, 1),
                        "peak_mb": told["cost"]["peak_rss_mb"], "threads": told["cost"]["threads"],
                    }  # fmt: skip
                figures = judges[target].figures(drawn(made))
                write(RESULTS, {"target": target, "method": method, "seed": seed, **figures, **cost})


def found(target: str | None, method: str) -> dict[str, float]:
    """Means over the runs of a method, on one target or on all; "seeds" is how many there are on each.

    What a run costs are means over those of the last day, since machines differ.
    """
    some = [row for row in rows(RESULTS) if row["method"] == method and target in (row["target"], None)]
    day = max(row["date"] for row in some)
    last = [row for row in some if row["date"] == day]
    wanted = {"frechet": some, "diversity": some, "intra": some, "near_copies": some, "leakage": some,
              "cpu_seconds": last, "peak_mb": last}  # fmt: skip
    known = {name: [row[name] for row in of if row.get(name) is not None] for name, of in wanted.items()}
    return {name: mean(values) for name, values in known.items() if values} | {
        "seeds": min(sum(row["target"] == one for row in some) for one in {row["target"] for row in some})
    }


def table() -> None:
    """Each target by itself."""
    print("| | | seeds | Frechet distance | diversity | within a shot's | near copies | leakage |")
    print("|---" * 8 + "|")
    for target in TARGETS:
        for method in METHODS:
            row = found(target, method)
            print(
                f"| {target} | {method} | {row['seeds']} | {row['frechet']:.0f} | {row['diversity']:.1f} "
                f"| {row['intra']:.1f} | {row['near_copies']:.1%} | {row['leakage']:.1%} |"
            )


def summary() -> None:
    """The distance to each target; all else as means over the three."""
    print(f"| | seeds | {' | '.join(TARGETS)} | diversity | within a shot's | copies | leakage | s | MB |")
    print("|---" * (8 + len(TARGETS)) + "|")
    for method in METHODS:
        every = found(None, method)
        distances = [f"{found(target, method)['frechet']:.0f}" for target in TARGETS]
        spent = [f"{every[name]:,.0f}" if name in every else "" for name in ("cpu_seconds", "peak_mb")]
        shares = [f"{every[name]:.1%}" for name in ("near_copies", "leakage")]
        spreads = [f"{every[name]:.1f}" for name in ("diversity", "intra")]
        print("| " + " | ".join([method, str(every["seeds"]), *distances, *spreads, *shares, *spent]) + " |")


def picture(avatars: Path, out: Path, target: str, seed: int) -> None:
    shots = load_images(avatars / f"ten_{target}", 64, limit=10).pixels
    blank = torch.full((SHOWN - len(shots), *shots.shape[1:]), 255, dtype=torch.uint8)
    strips = [shots, blank, *(drawn(made_by(out, target, method, seed), SHOWN) for method in METHODS)]
    save_png(grid(torch.cat(strips), columns=SHOWN), RESULTS.with_name(f"field_{target}.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "summary", "picture"))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--methods", default=";".join(METHODS), help="stacks of them, with ; between")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    targets, methods = given.targets.split(","), given.methods.split(";")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    torch.set_num_threads(1)
    if given.command in ("table", "summary"):
        return {"table": table, "summary": summary}[given.command]()
    if not given.avatars or not given.out:
        parser.error("--avatars and --out are needed")
    if given.command == "run":
        return run(given.avatars, given.out, targets, methods, seeds)
    for target in targets:
        picture(given.avatars, given.out, target, seeds[0])


if __name__ == "__main__":
    main()
