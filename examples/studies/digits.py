"""Mirza & Osindero's conditional GAN (2014) on scikit-learn's digits, with and without its labels.

    pip install -c constraints.txt scikit-learn
    python examples/studies/digits.py --out RUNS

1,200 digits of 8 x 8 px to train on, 297 to choose the Parzen bandwidth by, 300 to test on. Both networks are
trained for the same steps on the same pictures and judged on as many samples with the same bandwidth rule:
class accuracy by a classifier that saw real digits only, and the Parzen-window log-likelihood of the test
digits (nats; Breuleux et al. 2011), which says little of quality and is reported as the paper does. Writes
digits.json and digits.png beside this file: a row of samples for each class.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fsgen
from fsgen.data.image_output import grid, save_png
from fsgen.features.classifier import accuracy, fit_classifier
from fsgen.metrics.parzen import parzen, pixels
from fsgen.training.train import train

HERE = Path(__file__)
TRAIN, VALIDATION = 1200, 297  # and 300 to test on
SAMPLES = 3000


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [1797, 1, 8, 8] and their classes, in an order of no meaning."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    levels = np.round(found.images[order] * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(levels)[:, None], torch.from_numpy(found.target[order])


def as_folders(images: torch.Tensor, labels: torch.Tensor, folder: Path) -> Path:
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / str(label) / f"{i:04d}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    images, labels = digits()
    judge = fit_classifier(images[:TRAIN], labels[:TRAIN])
    validation, test = images[TRAIN : TRAIN + VALIDATION], images[TRAIN + VALIDATION :]
    rows = {"judge": {"held_out_accuracy": judge.accuracy, "held_out": len(judge.test_indices)}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = as_folders(images[:TRAIN], labels[:TRAIN], Path(scratch))
        for name, classes in (("conditional", True), ("unconditional", False)):
            began = time.perf_counter()
            run = train(
                folder, out=given.out / name, family="cgan", size=8, grey=True, classes=classes,
                steps=given.steps, force=True, device="cpu",
            )  # fmt: skip
            seconds = time.perf_counter() - began
            model = fsgen.load(run, device="cpu")
            if classes:
                each = [model.sample(SAMPLES // 10, label=label) for label in range(10)]
                drawn = torch.cat(each)
                wanted = torch.arange(10).repeat_interleave(SAMPLES // 10)
                save_png(grid(torch.cat([some[:16] for some in each]), columns=16), HERE.with_suffix(".png"))
            else:
                drawn = model.sample(SAMPLES)
            found = parzen(pixels(drawn), pixels(test), pixels(validation))
            rows[name] = {
                "class_accuracy": accuracy(judge.network, drawn, wanted) if classes else None,
                "parzen": round(found.mean, 2), "parzen_error": round(found.error, 2),
                "bandwidth": found.bandwidth, "steps": given.steps, "seconds": round(seconds),
            }  # fmt: skip
    real = parzen(pixels(images[:TRAIN]), pixels(test), pixels(validation))
    rows["training digits themselves"] = {"parzen": round(real.mean, 2), "parzen_error": round(real.error, 2)}
    about = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    HERE.with_suffix(".json").write_text(json.dumps({**rows, **about}, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
