"""DiffAugment from nothing, and what must fail: StyleGAN2 on a hundred sketches, 32 px.

    python examples/studies/diffaugment.py run --avatars DIR --out RUNS    (goes on where it was stopped)
    python examples/studies/diffaugment.py reals --avatars DIR --out RUNS
    python examples/studies/diffaugment.py pictures --out RUNS
    python examples/studies/diffaugment.py table

Zhao et al. 2020 augment reals and fakes alike, in the steps of both players (all). Their baselines: nothing,
flips, and two that fail: reals only, which G learns to draw augmented, and D's step only, where G's pictures
meet a critic that knows augmented ones. All arms share the rest, the seed included. At each of POINTS 1,000
samples are judged in the avatars' features.pt (for development, not FID; at its 64 px, so all are enlarged):

    frechet      Frechet distance to 4,900 other sketches
    augmented    Frechet distance to the same, each augmented once: below frechet where G draws T(x)
    diversity    mean distance between samples
    near_copies  share of samples nearer to one of the hundred, or its mirror image, than 95 % of the others
    overfit      of the critic, pictures as it is shown them: (E[D(shots)] - E[D(unseen)]) / (E[D(shots)] -
                 E[D(fakes)]), Karras et al. 2020b, equation 1: 0 not at all, 1 unseen sketches pass for fakes
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from hundred_sketches import REALS, SAMPLES, SHOTS, features, hundred
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import fsgen
from fsgen import rng as random
from fsgen.data.augment import diff_augment
from fsgen.data.image_output import grid, save_png, to_uint8
from fsgen.data.images import load_images
from fsgen.interfaces import ImageKind
from fsgen.methods.diffaugment import DiffAugment
from fsgen.metrics.distances import nearest
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.metrics.memorisation import near_copies
from fsgen.training.adapt import resume
from fsgen.training.train import train

RESULTS = Path(__file__).with_suffix(".jsonl")
POLICY = "color,translation,cutout"
WHERE = {"nothing": None, "flips": None, "reals-only": "reals-only", "d-only": "d-only", "all": "all"}
SIZE, WIDTH, BATCH = 32, 32, 8
POINTS = (500, 1000, 2000, 3000)  # steps
COLUMNS = 16


class Judge:
    """The same rulers for every arm."""

    def __init__(self, avatars: Path, shots: Path) -> None:
        self.avatars = avatars
        self.shots = load_images(shots, SIZE)
        self.unseen = load_images(avatars / "sketches64.zip", SIZE, limit=REALS - SHOTS)
        assert not set(self.shots.hashes) & set(self.unseen.hashes)
        self.real_images = self.points(self.unseen.pixels)
        changed = diff_augment(self.unseen.floats(), POLICY.split(","), random.generator(0, "judge"))
        self.changed = self.points(to_uint8(changed))
        self.own = self.points(torch.cat([self.shots.pixels, self.shots.pixels.flip(3)]))
        self.near = torch.as_tensor(nearest(self.real_images, self.own).distances).quantile(0.05).item()

    def points(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, SIZE, SIZE] -> [n, 192]."""
        larger = nn.functional.interpolate(images.float(), size=64, mode="bilinear")
        return features(self.avatars, larger)

    def samples(self, drawn: Tensor) -> dict[str, float]:
        points = self.points(drawn)
        return {
            "frechet": round(frechet(points, self.real_images), 1),
            "augmented": round(frechet(points, self.changed), 1),
            "diversity": round(mean_pairwise(points), 2),
            "near_copies": near_copies(points, self.own, self.near).share,
        }

    @torch.no_grad()
    def discriminator(self, d: nn.Module, drawn: Tensor, method: DiffAugment | None) -> dict[str, Any]:
        rng = random.generator(0, "critic")

        def logit(images: Tensor, kind: ImageKind) -> float:
            shown = images.float() / 127.5 - 1
            shown = shown if method is None else method.augment(shown, kind, lambda purpose: rng)
            return torch.cat([d(part) for part in shown.split(20)]).mean().item()

        shots, unseen = (logit(some.pixels[:SAMPLES], "real") for some in (self.shots, self.unseen))
        fakes = logit(drawn, "fake_d")
        logits = {"shots": round(shots, 3), "unseen": round(unseen, 3), "fakes": round(fakes, 3)}
        return {"logits": logits, "overfit": round((shots - unseen) / (shots - fakes), 3)}


def run(arms: list[str], avatars: Path, out: Path, points: list[int]) -> None:
    """All arms to the first point, then to the next: comparable whenever it is stopped."""
    judge = judge_of(avatars, out)
    for step in points:
        for arm in arms:
            done = [row for row in rows() if row["arm"] == arm]
            if step not in [row["step"] for row in done]:
                row = leg(arm, step, judge, out, done[-1]["cpu_seconds"] if done else None)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def leg(arm: str, step: int, judge: Judge, out: Path, spent: int | None) -> dict[str, Any]:
    """Train ``arm`` on to ``step`` and judge it; ``spent`` is None before its first leg."""
    where, began = WHERE[arm], time.process_time()
    method = DiffAugment(DiffAugment.Options(policy=POLICY, where=where)) if where else None
    settings: dict[str, Any] = {
        "family": "stylegan2", "size": SIZE, "width": WIDTH, "mirror": arm == "flips", "seed": 0,
        "recipe": {"batch": BATCH}, "method": "diffaugment" if where else "",
        "options": {"diffaugment": {"policy": POLICY, "where": where}} if where else {},
    }  # fmt: skip
    if spent is None:
        made = train(out / "shots", out=out / arm, steps=step, device="cpu", force=True, **settings)
    else:
        made = resume(out / arm, steps=step)
    seconds = time.process_time() - began + (spent or 0)
    report = json.loads((made / "report.json").read_text())["run"]
    model = fsgen.load(made, device="cpu")
    drawn = model.sample(SAMPLES, seed=0)
    return {
        "arm": arm, "step": step, **judge.samples(drawn),
        **judge.discriminator(model.model.discriminator(), drawn, method),
        **settings, "recipe": report["recipe"], "near": round(judge.near, 3),
        "seconds": round(report["cost"]["seconds"]), "cpu_seconds": round(seconds),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "fsgen": fsgen.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def judge_of(avatars: Path, out: Path) -> Judge:
    shots = out / "shots"
    shots.mkdir(parents=True, exist_ok=True)
    return Judge(avatars, hundred(avatars, shots))


def real_images(avatars: Path, out: Path) -> None:
    """What real pictures score on the same rulers: the hundred, and 1,000 of the unseen against the rest."""
    judge = judge_of(avatars, out)
    own = judge.samples(judge.shots.pixels)
    held, judge.real_images = judge.unseen.pixels[:SAMPLES], judge.real_images[SAMPLES:]
    with RESULTS.open("a") as file:
        for name, found in {"the hundred": own, "1,000 others": judge.samples(held)}.items():
            file.write(json.dumps({"arm": name, "step": None, **found}) + "\n")


def pictures(out: Path) -> None:
    """A row of samples for each arm, below what it was trained on and that augmented; and the curves."""
    shots = load_images(out / "shots", SIZE).floats(slice(0, COLUMNS))
    shown = {
        "the hundred": shots,
        "augmented": diff_augment(shots, POLICY.split(","), random.generator(0, "sheet")),
    } | {arm: fsgen.load(out / arm, device="cpu").sample(2 * COLUMNS) for arm in WHERE}
    left, gap, font = 170, 8, ImageFont.load_default(size=22)
    strips = [grid(images, COLUMNS) for images in shown.values()]
    strips = [strip.resize((2 * strip.width, 2 * strip.height), Image.Resampling.NEAREST) for strip in strips]
    sheet = Image.new("RGB", (left + strips[0].width, sum(s.height + gap for s in strips) - gap), "white")
    top = 0
    for name, strip in zip(shown, strips, strict=True):
        sheet.paste(strip, (left, top))
        ImageDraw.Draw(sheet).text((6, top + strip.height / 2), name, "black", font, anchor="lm")
        top += strip.height + gap
    save_png(sheet, RESULTS.with_name("diffaugment_samples.png"))
    curves(RESULTS.with_name("diffaugment.png"))


def curves(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("frechet", "overfit"), strict=True):
        for arm in WHERE:
            points = [row for row in rows() if row["arm"] == arm]
            axes.plot([row["step"] for row in points], [row[name] for row in points], label=arm, marker=".")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    first, second = figure.axes
    first.set_ylabel("Frechet distance"), first.set_ylim(0), first.legend(frameon=False)
    second.set_ylabel("overfitting of the critic")
    figure.savefig(path)


def rows() -> list[dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def table() -> None:
    print("| | best | at step | at the end | to augmented | diversity | near copies | overfit |")
    print("|---" * 8 + "|")
    for arm in WHERE:
        points = [row for row in rows() if row["arm"] == arm]
        best, last = min(points, key=lambda row: row["frechet"]), points[-1]
        print(
            f"| {arm} | {best['frechet']:.0f} | {best['step']:,} | {last['frechet']:.0f} "
            f"| {last['augmented']:.0f} | {last['diversity']:.1f} | {last['near_copies']:.1%} "
            f"| {last['overfit']:.2f} |"
        )
    for row in rows():
        if row["step"] is None:
            print(
                f"| {row['arm']} | | | {row['frechet']:.0f} | {row['augmented']:.0f} "
                f"| {row['diversity']:.1f} | {row['near_copies']:.1%} | |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("run", "reals", "pictures", "table"))
    parser.add_argument("--arms", default=",".join(WHERE))
    parser.add_argument("--avatars", type=Path, help="folder of the avatar sets")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--points", default=",".join(map(str, POINTS)), help="steps to judge at")
    given = parser.parse_args()
    if given.what == "run":
        points = [int(step) for step in given.points.split(",")]
        run(given.arms.split(","), given.avatars, given.out, points)
    elif given.what == "reals":
        real_images(given.avatars, given.out)
    elif given.what == "pictures":
        pictures(given.out)
    else:
        table()


if __name__ == "__main__":
    main()
