"""How the methods of the EWC paper do with 1, 5, 10, 20 and 50 sketches.

    python examples/studies/shots.py run --avatars DIR --out RUNS [--methods ewc,bsa] [--weights-dir DIR]
    python examples/studies/shots.py table
    python examples/studies/shots.py picture --avatars DIR --out RUNS

Every run is one `fsgen adapt` of peeps64 at its defaults with one seed, on sketches that are not among those
it is judged by; fewer are the first of more. nst redraws samples after one of them, and takes VGG16's weights
from ``--weights-dir``; it makes 16 pictures, too few for a Frechet distance. ``picture`` draws shots.png: for
each method a row for each number.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import torch
from adaptations import Judge, adapted, drawn, rows, write

from fsgen.data.image_output import grid, save_png
from fsgen.data.images import load_images

RESULTS = Path(__file__).with_suffix(".jsonl")
METHODS = ("nst", "bsa", "minegan", "ewc")
COUNTS = (1, 5, 10, 20, 50)
REDRAWN = 16
SHOWN = 12


def shots(avatars: Path, out: Path, count: int) -> Path:
    """A folder of the last sketches of the set."""
    folder = out / f"shots-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(avatars / "sketches64.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        for name in names[::-1][:count]:
            (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def pictures(out: Path, method: str, count: int) -> torch.Tensor:
    made = out / f"{method}-{count}"
    return load_images(made / "redrawn", 64).pixels if method == "nst" else drawn(made)


def run(avatars: Path, out: Path, methods: list[str], weights: Path | None) -> None:
    for count in COUNTS:
        given = shots(avatars, out, count)
        judge = Judge(avatars, avatars / "sketches64.zip", given)
        for method in methods:
            if (method, count) in {(row["method"], row["shots"]) for row in rows(RESULTS)}:
                continue
            more = [f"--weights-dir={weights}"] if weights else []
            more += [f"--nst-pictures={REDRAWN}"] if method == "nst" else []
            seconds = adapted(given, out / f"{method}-{count}", method, 0, *more)
            figures = judge.figures(pictures(out, method, count))
            write(RESULTS, {"method": method, "shots": count, **figures, "cpu_seconds": round(seconds, 1)})


def table() -> None:
    print("| | shots | Frechet distance | diversity | near copies | leakage | s |")
    print("|---" * 7 + "|")
    for row in sorted(rows(RESULTS), key=lambda row: (METHODS.index(row["method"]), row["shots"])):
        distance = "" if row["method"] == "nst" else f"{row['frechet']:.0f}"
        print(
            f"| {row['method']} | {row['shots']} | {distance} | {row['diversity']:.1f} "
            f"| {row['near_copies']:.1%} | {row['leakage']:.1%} | {row['cpu_seconds']:.0f} |"
        )


def picture(out: Path, methods: list[str]) -> None:
    strips = [pictures(out, method, count)[:SHOWN] for method in methods for count in COUNTS]
    save_png(grid(torch.cat(strips), columns=SHOWN), RESULTS.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "picture"))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--weights-dir", type=Path, help="folder of VGG16's weights")
    given = parser.parse_args()
    methods = given.methods.split(",")
    torch.set_num_threads(1)
    if given.command == "table":
        return table()
    if not given.avatars or not given.out:
        parser.error("--avatars and --out are needed")
    if given.command == "run":
        return run(given.avatars, given.out, methods, given.weights_dir)
    picture(given.out, methods)


if __name__ == "__main__":
    main()
