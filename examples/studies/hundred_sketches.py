"""FastGAN against StyleGAN2 from nothing: a hundred sketches, 64 px, the same time on the same machine.

    python examples/studies/hundred_sketches.py run fastgan --avatars DIR --minutes 15 --out RUNS
    python examples/studies/hundred_sketches.py run stylegan2 --avatars DIR --minutes 15 --out RUNS
    python examples/studies/hundred_sketches.py run fastgan --without sle --steps 1450 --avatars DIR ...
    python examples/studies/hundred_sketches.py table

Both have about as many parameters (G and D together), see their pictures flipped and differentiably augmented
as published, and train until their process has used up the same time on one thread (so that whatever else the
machine does takes nothing away). FastGAN can also be trained without its
skip-layer excitation (``--without sle``), without its critic's decoders (``decoders``), or without either.
Measured on 1,000 samples: the Frechet distance to 4,900 others in the avatars' features.pt (for development,
not FID), the mean distance between samples there, and the share of near copies of the hundred as fsgen eval
tells them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zipfile
from pathlib import Path

import torch
from adaptations import features

import fsgen
from fsgen.data.image_output import grid, save_png
from fsgen.data.images import load_images
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.training.adapt import resume
from fsgen.training.train import train

RESULTS = Path(__file__).with_suffix(".jsonl")
WIDTHS = {"fastgan": 16, "stylegan2": 160}  # of like size: see "parameters"
BATCH = 8  # FastGAN's own
LEG = 100  # steps between looks at the clock
SHOTS, SAMPLES, REALS = 100, 1000, 5000


def hundred(avatars: Path, folder: Path) -> Path:
    """The last hundred of the set, so that the first 5,000 less these are unseen."""
    with zipfile.ZipFile(avatars / "sketches64.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".png"))[-SHOTS:]:
            (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def run(
    family: str, without: list[str], avatars: Path, minutes: float, steps: int | None, out: Path
) -> None:  # fmt: skip
    name = "-without-".join([family, *without])
    with tempfile.TemporaryDirectory() as scratch:
        shots = hundred(avatars, Path(scratch))
        options = {
            "family": family, "size": 64, "width": WIDTHS[family], "device": "cpu", "mirror": True,
            "method": None if family == "fastgan" else "diffaugment",  # FastGAN brings its own
            "architecture": {"sle": False} if "sle" in without else {},
            "recipe": {"batch": BATCH} | ({"reconstruction": 0.0} if "decoders" in without else {}),
        }  # fmt: skip
        began, used = time.perf_counter(), time.process_time()
        done = steps or LEG
        made = train(shots, out=out / name, steps=done, force=True, **options)
        while steps is None and time.process_time() - used < minutes * 60:
            done += LEG
            resume(made, steps=done)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
        model = fsgen.load(made, device="cpu")
        drawn = model.sample(SAMPLES, seed=0)
        judged = fsgen.evaluate(
            made, real=avatars / "sketches64.zip", shots=shots, samples=SAMPLES, metrics=["near_copies"],
            device="cpu",
        )  # fmt: skip
        save_png(grid(drawn[:48], columns=12), RESULTS.with_name(f"hundred_{name}.png"))
        real_images = load_images(avatars / "sketches64.zip", 64, limit=REALS - SHOTS).pixels
        points = features(avatars, drawn)
        row = {
            "family": family, "name": name, "without": without, "steps": done, "seconds": round(seconds),
            "cpu_seconds": round(cpu_seconds),
            "parameters": sum(model.model.parameters().values()) - model.model.parameters()["g_ema"],
            "frechet": round(frechet(points, features(avatars, real_images)), 1),
            "diversity": round(mean_pairwise(points), 2), "near_copies": judged.metrics["near_copies"],
            "threads": torch.get_num_threads(), "torch": torch.__version__, "fsgen": fsgen.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))


def table() -> None:
    print("| | steps | CPU seconds | parameters | Frechet distance | diversity | near copies |")
    print("|---" * 7 + "|")
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        print(
            f"| {row['name']} | {row['steps']:,} | {row.get('cpu_seconds', '')} | {row['parameters']:,} "
            f"| {row['frechet']:.0f} | {row['diversity']:.1f} | {row['near_copies']:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("family", choices=WIDTHS)
    runs.add_argument("--avatars", type=Path, required=True, help="folder of the avatar sets")
    runs.add_argument("--minutes", type=float, default=15)
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--steps", type=int, help="instead of minutes")
    runs.add_argument("--without", action="append", default=[], choices=("sle", "decoders"))
    commands.add_parser("table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "table":
        table()
    else:
        run(given.family, given.without, given.avatars, given.minutes, given.steps, given.out)


if __name__ == "__main__":
    main()
