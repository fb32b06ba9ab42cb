"""IC-GAN on peeps: does it draw what is near its instance, and does it for a style it has never seen?

    python examples/studies/icgan_peeps.py train main --avatars DIR --out RUNS --steps 3000
    python examples/studies/icgan_peeps.py judge main --avatars DIR --out RUNS --unseen SET ...
    python examples/studies/icgan_peeps.py reals --avatars DIR --out RUNS --unseen SET ...
    python examples/studies/icgan_peeps.py pictures main --avatars DIR --out RUNS --unseen SET ...
    python examples/studies/icgan_peeps.py table

StyleGAN2 of 32 px, conditioned on the bundled features of 18,000 peeps: main, whose instances have 50
neighbours for reals; styles, the same on 2,000 pictures each of peeps, sketches, pixel_faces and the sets
``--also``, with 5 neighbours; half, the same styles, but as many peeps as all the others together, with 10
neighbours. Narrower ones for comparison: k1 to k500, by the number of neighbours; c360 and
c36, which are told a picture's class instead: its cluster (k-means) by the same features, of 50 and of 500
pictures. ``train`` goes on where there is a run already.

Sets of other styles, white behind, are DiceBear's (npm, @dicebear/collection 9.4.3), 64 px, 2,000 each of
seeds "unseen0" and on: ``--also`` adventurer, bigEars, bigSmile, micah, miniavs and personas; ``--unseen``
dylan, toonHead and notionists, and the avatars' doodles64.zip.

The figure: the mean distance of an instance's samples to its neighbours over their mean distance to all other
pictures of its style, in the avatars' features.pt, which trained neither the generator nor the bundled
features. Instances are peeps that nothing was trained on, and pictures of unseen styles. Their neighbours are
the 5 nearest of the same style, also never trained on (``held out``), or the 50 nearest of the 18,000
(``trained``), by the bundled features or (``by judge``) by features.pt itself. All pictures are seen at the
generator's 32 px.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from adaptations import features
from PIL import Image
from torch import Tensor, nn

import fsgen
from fsgen import rng as random
from fsgen.data.image_output import grid, picture, save_png, to_uint8
from fsgen.data.images import load_images
from fsgen.data.neighbours import nearest_neighbours
from fsgen.features.feature_networks import build_instance_extractor
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.sampling.instances import features_of
from fsgen.sampling.sampler import Loaded
from fsgen.training.adapt import resume
from fsgen.training.train import train

RESULTS = Path(__file__).with_suffix(".jsonl")
ARMS: dict[str, dict[str, int]] = {
    "main": {"neighbours": 50, "width": 48}, "styles": {"neighbours": 5, "width": 48},
    "half": {"neighbours": 10, "width": 48},
    "k1": {"neighbours": 1}, "k5": {"neighbours": 5}, "k50": {"neighbours": 50}, "k500": {"neighbours": 500},
    "c360": {"clusters": 360}, "c36": {"clusters": 36},
}  # fmt: skip
PEEPS = {"styles": 2000, "half": 16_000}  # how many of them, in the arms that learn other styles too
TRAINED, HELD_OUT = 18_000, 2000  # the bundled features were not trained on the last 2,000 either
SIZE, WIDTH = 32, 32
RECIPE = {"batch": 16, "path_every": 0, "ema_half_life": 1000.0}
INSTANCES, EACH = 1000, 4  # peeps that are drawn after, and samples of each
STRANGERS = 250  # pictures of each unseen style that are drawn after
SHOWN = 7  # instances in a picture, and samples of each
EACH_STYLE = 2000
NEAR, NEAR_TRAINED = 5, 50  # about the same share of 2,000 and of 18,000


@dataclass(frozen=True)
class Set:
    """Pictures of one style on both rulers."""

    pixels: Tensor  # uint8 [n, 3, SIZE, SIZE]
    told: Tensor  # [n, 128], what the generator is told of each
    judged: Tensor  # [n, 192]

    @classmethod
    def kept(cls, avatars: Path, file: Path, images: Path, rows: slice) -> Set:
        """Worked out once, then from ``file``."""
        if not file.exists():
            pixels = load_images(images, SIZE).pixels[rows].clone()
            told = features_of(build_instance_extractor("bundled"), pixels)
            torch.save({"pixels": pixels, "told": told, "judged": judged(avatars, pixels)}, file)
        return cls(**torch.load(file))


def judged(avatars: Path, images: Tensor) -> Tensor:
    larger = nn.functional.interpolate(images.float(), size=64, mode="bilinear")
    return features(avatars, larger)


def peeps(avatars: Path, out: Path) -> tuple[Set, Set]:
    """Those trained on, and those held out."""
    images = avatars / "peeps64.zip"
    return (
        Set.kept(avatars, out / "trained.pt", images, slice(0, TRAINED)),
        Set.kept(avatars, out / "held_out.pt", images, slice(TRAINED, TRAINED + HELD_OUT)),
    )


def unseen(avatars: Path, out: Path, paths: list[Path]) -> dict[str, Set]:
    names = [path.stem.removesuffix("64") for path in paths]
    return {
        name: Set.kept(avatars, out / f"{name}.pt", path, slice(0, HELD_OUT))
        for name, path in zip(names, paths, strict=True)
    }


# ---- training ---------------------------------------------------------------------------------------------


def fit(arm: str, avatars: Path, out: Path, steps: int, also: list[Path]) -> None:
    began = time.process_time()
    if (out / arm).exists():
        resume(out / arm, steps=steps)
    else:
        told = {"width": WIDTH, "features": "bundled", **ARMS[arm]}
        if clusters := told.pop("clusters", None):
            told |= {"classes": True, "features": ""}
        images = out / f"{arm if clusters or arm in PEEPS else 'peeps'}.zip"
        if not images.exists() and arm in PEEPS:
            mix(avatars, images, also, PEEPS[arm])
        elif not images.exists():
            copy(avatars, images, clustered(avatars, out, clusters) if clusters else None)
        train(
            images, out=out / arm, family="stylegan2", size=SIZE, recipe=RECIPE, mirror=False, method="none",
            steps=steps, save_every=1000, device="cpu", **told,
        )  # fmt: skip
    with (out / "cpu.jsonl").open("a") as file:
        spent = {"arm": arm, "steps": steps, "cpu_seconds": round(time.process_time() - began)}
        file.write(json.dumps(spent) + "\n")


def copy(avatars: Path, images: Path, classes: Tensor | None) -> None:
    """The peeps that are trained on, in a folder for each class."""
    with zipfile.ZipFile(avatars / "peeps64.zip") as source, zipfile.ZipFile(images, "w") as target:
        names = sorted(name for name in source.namelist() if name.endswith(".png"))[:TRAINED]
        for row, name in enumerate(names):
            folder = "" if classes is None else f"{classes[row]:03d}/"
            target.writestr(folder + Path(name).name, source.read(name))


def mix(avatars: Path, images: Path, also: list[Path], of_peeps: int) -> None:
    """The first peeps, and the first EACH_STYLE pictures of each other style."""
    sets = [avatars / f"{style}64.zip" for style in ("peeps", "sketches", "pixel_faces")]
    with zipfile.ZipFile(images, "w") as target:
        for path in [*sets, *also]:
            limit = of_peeps if path == sets[0] else EACH_STYLE
            for row, image in enumerate(load_images(path, 64, limit=limit).pixels):
                target.writestr(f"{path.stem}-{row:05d}.png", encoded(image))


def encoded(image: Tensor) -> bytes:
    file = io.BytesIO()
    picture(image).save(file, format="PNG")
    return file.getvalue()


def clustered(avatars: Path, out: Path, clusters: int) -> Tensor:
    """The cluster of each peep that is trained on, [TRAINED]; the centres stay in ``out``."""
    from sklearn.cluster import KMeans

    told = peeps(avatars, out)[0].told
    found = KMeans(clusters, n_init=1, max_iter=50, random_state=0).fit(told.numpy())
    torch.save(torch.from_numpy(found.cluster_centers_).float(), out / f"centres_{clusters}.pt")
    return torch.from_numpy(found.labels_).long()


# ---- judging ----------------------------------------------------------------------------------------------


def drawn_after(model: Loaded, arm: str, out: Path, told: Tensor, each: int) -> Tensor:
    """uint8 [n, each, 3, SIZE, SIZE]: pictures of each of the features ``told``, [n, 128]."""
    rows = told.repeat_interleave(each, dim=0)
    rng, images = random.generator(0, "study"), []
    clusters = ARMS[arm].get("clusters")
    centres = torch.load(out / f"centres_{clusters}.pt") if clusters else None
    for part in rows.split(50):
        inputs = model.g.draw(len(part), rng)
        if centres is None:
            inputs = replace(inputs, h=part)
        else:
            own = torch.cdist(part, centres).argmin(dim=1)
            inputs = replace(inputs, y=nn.functional.one_hot(own, len(centres)).float())
        images.append(to_uint8(model.render(inputs)))
    return torch.cat(images).unflatten(0, (-1, each))


def ratio(points: Tensor, real_images: Tensor, near: Tensor, own: Tensor | None = None) -> dict[str, float]:
    """Mean distance of samples ``points`` [n, each, d] to the rows ``near`` [n, k] of ``reals`` [N, d], over
    that to all of them but the instance itself, the row ``own`` [n]. With a 95 % interval over instances."""
    to_near, to_all = [], []
    for i in range(len(points)):
        apart = torch.cdist(points[i], real_images).mean(dim=0)
        to_near.append(apart[near[i]].mean())
        to_all.append(apart.mean() if own is None else (apart.sum() - apart[own[i]]) / (len(apart) - 1))
    closer, farther = torch.stack(to_near), torch.stack(to_all)
    again = torch.randint(len(points), (1000, len(points)), generator=random.generator(0, "bootstrap"))
    low, high = (closer[again].mean(1) / farther[again].mean(1)).quantile(torch.tensor([0.025, 0.975]))
    means = {"near": closer.mean(), "all": farther.mean(), "ratio": closer.mean() / farther.mean()}
    return {name: round(float(x), 3) for name, x in (means | {"low": low, "high": high}).items()}


def ratios(points: Tensor, style: Set) -> dict[str, dict[str, float]]:
    """Of samples [n, each, d] after the first n pictures of ``style``, on that style's pictures alone."""
    rows = torch.arange(len(points))
    return {
        "held out": ratio(points, style.judged, nearest_neighbours(style.told, NEAR).images[rows], rows),
        "held out, by judge": ratio(points, style.judged, by_judge(style, len(rows)), rows),
    }


def by_judge(style: Set, n: int) -> Tensor:
    apart = torch.cdist(style.judged[:n], style.judged)
    apart[torch.arange(n), torch.arange(n)] = torch.inf
    return apart.topk(NEAR, largest=False).indices


def report(points: Tensor, trained: Set, held: Set) -> dict[str, Any]:
    """All figures of samples [n, each, d] after the first n held-out peeps."""
    n, whole = len(points), mean_pairwise(trained.judged[:5000])
    told, seen = (getattr(held, ruler)[:n] for ruler in ("told", "judged"))
    near = torch.cdist(told, trained.told).topk(NEAR_TRAINED, largest=False).indices
    judge = torch.cdist(seen, trained.judged).topk(NEAR_TRAINED, largest=False).indices
    within = torch.stack([torch.pdist(some).mean() for some in points]).mean().item()
    return {
        "peeps": {
            **ratios(points, held), "trained": ratio(points, trained.judged, near),
            "trained, by judge": ratio(points, trained.judged, judge),
        },
        "frechet": round(frechet(points.flatten(0, 1), trained.judged), 1),
        "diversity": round(mean_pairwise(points[:, 0]) / whole, 3),  # 1 is that of real peeps
        "within": round(within / whole, 3),  # the same of the samples of one instance
    }  # fmt: skip


def judge(arm: str, avatars: Path, out: Path, paths: list[Path]) -> None:
    trained, held = peeps(avatars, out)
    model = fsgen.load(out / arm, device="cpu")

    def points(style: Set, n: int) -> Tensor:
        images = drawn_after(model, arm, out, style.told[:n], EACH)
        return judged(avatars, images.flatten(0, 1)).unflatten(0, (-1, EACH))

    row = report(points(held, INSTANCES), trained, held)
    for name, style in unseen(avatars, out, paths).items():
        row[name] = ratios(points(style, STRANGERS), style)
    spent = [json.loads(line) for line in (out / "cpu.jsonl").read_text().splitlines()]
    told = json.loads((out / arm / "report.json").read_text())["run"]
    write({
        "arm": arm, "steps": told["steps"], **ARMS[arm], **row,
        "cpu_seconds": sum(leg["cpu_seconds"] for leg in spent if leg["arm"] == arm),
        "parameters": model.model.parameters(), "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    })  # fmt: skip


def real_images(avatars: Path, out: Path, paths: list[Path]) -> None:
    """What each arm would score if it drew, for its instance, the training peeps it is shown for it."""
    trained, held = peeps(avatars, out)
    rng = random.generator(0, "reals")

    def points(arm: str, style: Set, n: int) -> Tensor:
        shown = shown_for(arm, out, style.told[:n], trained.told)
        return torch.stack(
            [trained.judged[rows[torch.randint(len(rows), (EACH,), generator=rng)]] for rows in shown]
        )

    others = unseen(avatars, out, paths)
    for arm in ARMS:
        if arm.startswith(("k", "c")):
            row = report(points(arm, held, INSTANCES), trained, held)
            row |= {name: ratios(points(arm, style, STRANGERS), style) for name, style in others.items()}
            write({"arm": f"real peeps, {arm}", "steps": None, **row})


def shown_for(arm: str, out: Path, told: Tensor, trained: Tensor) -> list[Tensor]:
    """Rows of ``trained`` [N, 128] that are the reals of each of ``told`` [n, 128]."""
    if "clusters" not in ARMS[arm]:
        return list(torch.cdist(told, trained).topk(ARMS[arm]["neighbours"], largest=False).indices)
    centres = torch.load(out / f"centres_{ARMS[arm]['clusters']}.pt")
    own, of = (torch.cdist(rows, centres).argmin(dim=1) for rows in (told, trained))
    return [(of == cluster).nonzero().flatten() for cluster in own]


def write(row: dict[str, Any]) -> None:
    row |= {"fsgen": fsgen.__version__, "date": time.strftime("%Y-%m-%d")}
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


# ---- what to look at --------------------------------------------------------------------------------------


def pictures(arms: list[str], avatars: Path, out: Path, paths: list[Path]) -> None:
    """For each arm and style a sheet of instances: the picture, its 3 nearest, and samples after it."""
    _, held = peeps(avatars, out)
    for name, style in ({"peeps": held} | unseen(avatars, out, paths)).items():
        near = nearest_neighbours(style.told, 3).images[:SHOWN]
        for arm in arms:
            model = fsgen.load(out / arm, device="cpu")
            images = drawn_after(model, arm, out, style.told[:SHOWN], SHOWN)
            columns = [style.pixels[:SHOWN], style.pixels[near.flatten()], images.flatten(0, 1)]
            sheet = beside([grid(some, len(some) // SHOWN) for some in columns])
            save_png(sheet, RESULTS.with_name(f"icgan_peeps_{arm}_{name}.png"))


def beside(strips: list[Image.Image], gap: int = 12, by: int = 2) -> Image.Image:
    """Side by side, each pixel ``by`` wide."""
    strips = [
        strip.resize((by * strip.width, by * strip.height), Image.Resampling.NEAREST) for strip in strips
    ]
    width = sum(strip.width + gap for strip in strips) - gap
    sheet, left = Image.new("RGB", (width, strips[0].height), "white"), 0
    for strip in strips:
        sheet.paste(strip, (left, 0))
        left += strip.width + gap
    return sheet


def table() -> None:
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    styles = dict.fromkeys(
        name for row in rows for name, value in row.items() if isinstance(value, dict) and "held out" in value
    )
    print("| | steps | " + " | ".join(styles) + " | Frechet distance | diversity | within |")
    print("|---" * (5 + len(styles)) + "|")
    for row in rows:
        found = [f"{row[style]['held out']['ratio']:.3f}" if style in row else "" for style in styles]
        rest = [f"{row['frechet']:.0f}", f"{row['diversity']:.2f}", f"{row['within']:.2f}"]
        print("| " + " | ".join([row["arm"], str(row["steps"] or ""), *found, *rest]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    for name in ("train", "judge", "pictures", "reals"):
        command = commands.add_parser(name)
        if name != "reals":
            command.add_argument("arms", nargs="+", choices=ARMS)
        command.add_argument("--avatars", type=Path, required=True, help="folder of the avatar sets")
        command.add_argument("--out", type=Path, required=True, help="folder for the runs")
        if name == "train":
            command.add_argument("--steps", type=int, required=True)
            command.add_argument("--also", type=Path, nargs="*", default=[], help="folders of other styles")
        else:
            command.add_argument("--unseen", type=Path, nargs="*", default=[], help="sets of pictures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "table":
        return table()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "train":
        for arm in given.arms:
            fit(arm, given.avatars, given.out, given.steps, given.also)
    elif given.command == "judge":
        for arm in given.arms:
            judge(arm, given.avatars, given.out, given.unseen)
    elif given.command == "pictures":
        pictures(given.arms, given.avatars, given.out, given.unseen)
    else:
        real_images(given.avatars, given.out, given.unseen)


if __name__ == "__main__":
    main()
