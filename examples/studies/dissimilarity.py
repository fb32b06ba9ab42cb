"""How far a target may be from the source: peeps64 to sketches, pixel faces, doodles, and to no faces at all.

    python examples/studies/dissimilarity.py run --avatars DIR --shapes DIR --out RUNS
    python examples/studies/dissimilarity.py table
    python examples/studies/dissimilarity.py picture --avatars DIR --shapes DIR --out RUNS

The three targets are rows of field.jsonl, so field.py comes first; the fourth are DiceBear's shapes (npm,
@dicebear/collection 9.4.3; 64 px, 5,010 of seeds "shape0" and on), the first ten of them the shots.

"away" is how far the shots are from the source's samples, in units of the samples' own distances, as
`fsgen adapt` sees it through the source's critic (it warns from 2.1 on); "between" the Frechet distance of
5,000 pictures of the source's domain and 5,000 of the target's. ``picture`` draws dissimilarity.png: ten
shapes, then the same latents through the source and through what each method made of it.
"""

from __future__ import annotations

import argparse
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from adaptations import TARGETS, Judge, adapted, cells, drawn, rows, write
from field import RESULTS as FIELD

from fsgen.data.image_output import grid, save_png
from fsgen.data.images import load_images
from fsgen.metrics.frechet import frechet
from fsgen.models import model as models
from fsgen.training.domain_gap import relative_distance

RESULTS = Path(__file__).with_suffix(".jsonl")
METHODS = ("source", "finetune", "ewc")
SHOTS, SHOWN = 10, 10


def apart(shapes: Path, out: Path) -> tuple[Path, Path]:
    """The other shapes, and the first ten: folders."""
    folders = out / "shapes", out / "ten_shapes"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for row, path in enumerate(sorted(shapes.glob("*.png"))):
        shutil.copy(path, folders[row < SHOTS] / path.name)
    return folders


def run(avatars: Path, shapes: Path, out: Path, seeds: list[int]) -> None:
    others, ten = apart(shapes, out)
    source = models.load_model("peeps64")
    judges = {target: Judge.of(avatars, target) for target in TARGETS}
    judges["shapes"] = Judge(avatars, others, ten)
    for target, judge in judges.items():
        few = load_images(ten if target == "shapes" else avatars / f"ten_{target}", 64)
        write(RESULTS, {
            "target": target, "away": round(relative_distance(source, few, torch.device("cpu")), 2),
            "between": round(frechet(judge.source, judge.target), 1),
        })  # fmt: skip
    for seed in seeds:
        for method in METHODS:
            made: Path | str = "peeps64"
            if method != "source":
                made = out / f"{method}-{seed}"
                adapted(ten, made, method, seed)
            figures = judges["shapes"].figures(drawn(made))
            write(RESULTS, {"target": "shapes", "method": method, "seed": seed, **figures})


def table() -> None:
    known = rows(RESULTS)
    far = {row["target"]: row for row in known if "away" in row}
    found = defaultdict(list)
    for row in [*rows(FIELD), *(row for row in known if "method" in row)]:
        if row["method"] in METHODS:
            found[row["target"], row["method"]].append(row)
    print("| | away | between | | seeds | Frechet distance | diversity | leakage |")
    print("|---" * 8 + "|")
    for target, place in sorted(far.items(), key=lambda pair: pair[1]["between"]):
        for method in METHODS:
            print(
                f"| {target} | {place['away']} | {place['between']:.0f} | {method} "
                f"| {cells(found[target, method])} |"
            )


def picture(shapes: Path, out: Path) -> None:
    _, ten = apart(shapes, out)
    made = ["peeps64", *(out / f"{method}-0" for method in METHODS[1:])]
    strips = [load_images(ten, 64).pixels, *(drawn(one, SHOWN) for one in made)]
    save_png(grid(torch.cat(strips), columns=SHOWN), RESULTS.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "picture"))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--shapes", type=Path, help="folder of the shapes")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "table":
        return table()
    if not (given.avatars and given.shapes and given.out):
        parser.error("--avatars, --shapes and --out are needed")
    if given.command == "run":
        return run(given.avatars, given.shapes, given.out, [int(seed) for seed in given.seeds.split(",")])
    picture(given.shapes, given.out)


if __name__ == "__main__":
    main()
