"""A conditional source learns a class it has never seen from ten images: by an embedding, or with the rest.

    pip install -c constraints.txt scikit-learn
    python examples/studies/new_class.py --out RUNS

Sources of scikit-learn's digits 0 to 8 are trained from scratch (Mirza & Osindero's cgan at 8 px, a small
StyleGAN2 at 16 px); ten nines are the new class. A classifier that saw real digits only tells how many of
1,000 samples of the new class are nines, and how many of 1,000 samples of each old class are still of it.
Diversity is the mean distance between samples of the new class over that between real nines, in pixels.
Writes new_class.json and new_class.png beside this file: a row of samples of the new class for each way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from digits import as_folders, digits

import fsgen
from fsgen.data.image_output import grid, save_png
from fsgen.features.classifier import accuracy, fit_classifier
from fsgen.metrics.diversity import mean_pairwise
from fsgen.training.train import train

HERE = Path(__file__)
NEW, SHOTS, SAMPLES = 9, 10, 1000
SOURCES = {
    "cgan": {"size": 8, "steps": 2000},
    "stylegan2": {"size": 16, "width": 32, "steps": 3000, "recipe": {"batch": 16, "path_every": 0}},
}
WAYS = (("embedding", 400), ("embedding", 1500), ("finetune", 400), ("ewc", 400))  # method, steps


def shrunk(images: torch.Tensor) -> torch.Tensor:
    """uint8 digits at 8 px, whatever the model's size."""
    small = torch.nn.functional.interpolate(images.float(), (8, 8), mode="area")
    return small.round().to(torch.uint8)


def judged(run: Path, judge: torch.nn.Module, nines: torch.Tensor) -> dict:
    model = fsgen.load(run, device="cpu")
    new = shrunk(model.sample(SAMPLES))
    of = {k: shrunk(model.sample(SAMPLES, label=str(k))) for k in range(NEW)}
    old = [accuracy(judge, images, torch.full((SAMPLES,), k)) for k, images in of.items()]
    spread = mean_pairwise(new.flatten(1).float()) / mean_pairwise(nines.flatten(1).float())
    return {
        "new_class": accuracy(judge, new, torch.full((SAMPLES,), NEW)),
        "old_classes": round(sum(old) / len(old), 4), "diversity": round(spread, 3),
        "samples": model.sample(16),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    images, labels = digits()
    judge = fit_classifier(images[:1200], labels[:1200])
    nines = images[labels == NEW]
    rows, sheets = {"judge": {"held_out_accuracy": judge.accuracy}}, []
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "old").mkdir()
        (Path(scratch) / "new").mkdir()
        old = as_folders(images[labels != NEW][:1200], labels[labels != NEW][:1200], Path(scratch) / "old")
        shots = as_folders(nines[:SHOTS], torch.full((SHOTS,), NEW), Path(scratch) / "new")
        for family, shape in SOURCES.items():
            began = time.perf_counter()
            source = train(
                old, out=given.out / family, family=family, grey=True, classes=True, force=True,
                device="cpu", **shape,
            )  # fmt: skip
            print(f"{family}: {time.perf_counter() - began:.0f} s", flush=True)
            for way, steps in WAYS:
                began = time.perf_counter()
                run = fsgen.adapt(
                    shots, out=given.out / f"{family}-{way}-{steps}", source=source, new_class=str(NEW),
                    method=way, steps=steps, force=True, device="cpu",
                )  # fmt: skip
                found = judged(run, judge.network, nines)
                sheets.append(shrunk(found.pop("samples")))
                name = f"{family} {way}, {steps} steps"
                rows[name] = {**found, "seconds": round(time.perf_counter() - began)}
                print(name, rows[name], flush=True)
    save_png(grid(torch.cat(sheets), columns=16), HERE.with_suffix(".png"))
    about = {
        "threads": torch.get_num_threads(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    HERE.with_suffix(".json").write_text(json.dumps({**rows, **about}, indent=2) + "\n")


if __name__ == "__main__":
    main()
