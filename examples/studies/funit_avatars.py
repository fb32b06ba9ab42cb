"""FUNIT on avatars: a face redrawn as one of a class never seen, from five pictures of it.

    npm i @dicebear/core@9 @dicebear/collection@9 @resvg/resvg-js
    for S in adventurer ... identicon; do node make_avatars.mjs $S 800 STYLES/$S 64 funit; done
    python examples/studies/funit_avatars.py classes --avatars DIR --styles STYLES --out RUNS
    python examples/studies/funit_avatars.py judges --out RUNS
    python examples/studies/funit_avatars.py train --out RUNS
    python examples/studies/funit_avatars.py measure main --avatars DIR --out RUNS
    python examples/studies/funit_avatars.py dissimilar main --out RUNS
    python examples/studies/funit_avatars.py few main --avatars DIR --out RUNS
    python examples/studies/funit_avatars.py train --out RUNS --every 4 --steps 1000  # fewer classes
    python examples/studies/funit_avatars.py measure every-4 --avatars DIR --out RUNS

A class is a style and a value of one of its attributes: peeps with a turban, adventurers with green hair.
Every fifth class of a style is held out, and so are three whole styles. ``train`` goes on with what there is.

Translation accuracy as in the paper: contents of source classes are redrawn as each unseen class by its first
K pictures, and classifiers of real pictures (``judges``: one of all classes, one of the unseen alone; neither
saw the K, both look at 32 px) say what they see. ``kept`` is fsgen's correspondence in the avatars'
features.pt: how often a translation is nearer to its own content than to another; 0.5 is chance. ``fsgen eval
RUNS/main --protocol funit --real RUNS/unseen.zip --content RUNS/source.zip`` measures the same and more with
judges of its own, trained anew for each model; here all models have the same two.

Results go to funit_avatars.json, pictures beside it.
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from adaptations import features
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import fsgen
from fsgen import rng as random
from fsgen.data.augment import diff_augment
from fsgen.data.image_output import grid, save_png, to_uint8
from fsgen.data.images import load_images
from fsgen.features.classifier import ClassifierNetwork, fit_classifier
from fsgen.interfaces import Inputs
from fsgen.metrics.correspondence import correspondence
from fsgen.sampling.sampler import Loaded
from fsgen.sampling.translation import code_of
from fsgen.training.adapt import resume
from fsgen.training.train import train

HERE = Path(__file__)
RESULTS = HERE.with_suffix(".json")
SEEN = {  # style: what its classes differ by; "": it is one class
    "adventurer": "hairColor", "bigSmile": "hairColor", "croodles": "topColor", "dylan": "hairColor",
    "miniavs": "hair", "notionists": "", "peeps": "head", "personas": "hairColor", "pixelArt": "hairColor",
    "thumbs": "shapeColor", "toonHead": "hairColor",
}  # fmt: skip
UNSEEN = {"bigEars": "hairColor", "lorelei": "", "micah": "baseColor"}
DISSIMILAR = ("identicon", "rings", "shapes")
HELD_OUT = 5  # every so many-th class of a seen style
MOST, LEAST = 80, 40  # pictures of a class
MOST_VALUES = 14  # classes of a style, the first by name
SHOTS = (1, 5, 10, 15, 20)
CONTENTS = 100
SHAPE = {"family": "funit", "size": 64, "width": 8, "classes": True, "device": "cpu"}
RECIPE = {"batch": 8, "lr": 3e-4}
STEPS = 3000
SHOWN = 8  # contents of a sheet
SHEET = (  # unseen classes on it
    "adventurer-afafaf", "bigEars-c93305", "croodles-f24e1e", "dylan-ffffff", "lorelei-all", "micah-77311d",
    "peeps-bear", "personas-e16381", "pixelArt-bd1700", "thumbs-f88c49",
)  # fmt: skip


# ---- classes ---------------------------------------------------------------------------------------------


def classes(avatars: Path, styles: Path, out: Path) -> None:
    """source.zip, unseen.zip and dissimilar.zip, a folder a class."""
    out.mkdir(parents=True, exist_ok=True)
    source, unseen = {}, {}
    for style, attribute in (SEEN | UNSEEN).items():
        found = _by_value(avatars, styles, style, attribute)
        for i, (name, files) in enumerate(found.items(), 1):
            held = style in UNSEEN or i % HELD_OUT == 0
            (unseen if held else source)[name] = files
    dissimilar = {style: sorted((styles / style).glob("*.png")) for style in DISSIMILAR}
    for name, content in (("source", source), ("unseen", unseen), ("dissimilar", dissimilar)):
        with zipfile.ZipFile(out / f"{name}.zip", "w") as archive:
            for folder, files in content.items():
                for i, file in enumerate(files):
                    archive.writestr(f"{folder}/{i:03}.png", file.read_bytes())
        print(f"{name}: {len(content)} classes, {sum(map(len, content.values()))} pictures")


def _by_value(avatars: Path, styles: Path, style: str, attribute: str) -> dict[str, list]:
    """The pictures of each class of a style; anything with ``read_bytes``."""
    peeps = style == "peeps"
    lines = (avatars / "peeps64.jsonl" if peeps else styles / f"{style}.jsonl").read_text().splitlines()
    root = zipfile.Path(avatars / "peeps64.zip") if peeps else styles / style
    found: dict[str, list] = {}
    for row in map(json.loads, lines):
        value = row.get(attribute, "all").strip("#")
        found.setdefault(f"{style}-{value}", []).append(root / f"{row['id']}.png")
    large = sorted(name for name, files in found.items() if len(files) >= LEAST)[:MOST_VALUES]
    return {name: found[name][:MOST] for name in large}


@cache
def pictures(archive: Path) -> dict[str, Tensor]:
    """uint8 [n, 3, 64, 64] by class."""
    found = load_images(archive, SHAPE["size"])
    folders = [name.split("/")[0] for name in found.names]
    return {
        folder: found.pixels[[i for i, other in enumerate(folders) if other == folder]]
        for folder in sorted(set(folders))
    }  # fmt: skip


# ---- training --------------------------------------------------------------------------------------------


def run(out: Path, steps: int, every: int) -> None:
    """Train ``main``, or ``every-N`` on fewer classes, or go on with what is there."""
    name = f"every-{every}" if every > 1 else "main"
    images, folder = out / "source.zip", out / name
    if every > 1:
        images = out / f"source-{every}.zip"
        with zipfile.ZipFile(out / "source.zip") as whole, zipfile.ZipFile(images, "w") as part:
            chosen = sorted({member.split("/")[0] for member in whole.namelist()})[::every]
            for member in whole.namelist():
                if member.split("/")[0] in chosen:
                    part.writestr(member, whole.read(member))
    began = time.process_time()
    if (folder / "state").exists():
        resume(folder, steps=steps)
    else:
        train(images, out=folder, steps=steps, recipe=RECIPE, save_every=250, sample_every=500, **SHAPE)
    before = results().get(f"training {name}", {}).get("cpu_seconds", 0)
    row = {
        "steps": steps, "cpu_seconds": before + round(time.process_time() - began),
        "source_classes": len(pictures(images)), "source_pictures": sum(map(len, pictures(images).values())),
    }  # fmt: skip
    record(f"training {name}", row)


# ---- measuring -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """A classifier of real pictures at 32 px, and the classes it knows."""

    network: torch.nn.Module
    names: list[str]

    def ranks(self, images: Tensor, name: str) -> Tensor:
        """How many classes each of uint8 ``images`` looks more like than ``name``: [n]."""
        with torch.no_grad():
            logits = torch.cat([self.network(small(part)) for part in images.split(256)])
        return (logits > logits[:, [self.names.index(name)]]).sum(dim=1)


def small(images: Tensor) -> Tensor:
    """uint8 [n, 3, 64, 64] at 32 px."""
    return F.avg_pool2d(images.float(), 2).round().to(torch.uint8)


def known(out: Path, which: str) -> dict[str, Tensor]:
    """Pictures that the judge of ``which`` classes learns and is tested on: no shots."""
    unseen = {name: images[max(SHOTS) :] for name, images in pictures(out / "unseen.zip").items()}
    return unseen if which == "unseen" else pictures(out / "source.zip") | unseen


def judges(out: Path) -> None:
    for which, steps in (("all", 1000), ("unseen", 400)):
        images = known(out, which)
        labels = torch.tensor([i for i, some in enumerate(images.values()) for _ in some])
        found = fit_classifier(small(torch.cat([*images.values()])), labels, steps=steps)
        save_file(found.network.state_dict(), out / f"judge-{which}.safetensors")
        row = {
            "classes": len(images), "chance": 1 / len(images), "held_out_accuracy": found.accuracy,
            "held_out": len(found.test_indices),
        }  # fmt: skip
        record(f"judge {which}", row)


def judge(out: Path, which: str) -> Judge:
    names = list(known(out, which))
    network = ClassifierNetwork(3, len(names))
    network.load_state_dict(load_file(out / f"judge-{which}.safetensors"))
    return Judge(network.eval(), names)


def contents(out: Path, n: int) -> Tensor:
    """Pictures of source classes, drawn once: uint8 [n, 3, 64, 64]."""
    every = torch.cat([*pictures(out / "source.zip").values()])
    return every[torch.randperm(len(every), generator=random.generator(0, "contents"))[:n]]


def floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def translated(model: Loaded, images: Tensor, shots: Tensor) -> Tensor:
    """uint8 ``images`` [n, 3, 64, 64] redrawn as of the class of ``shots`` [k, 3, 64, 64]."""
    code = code_of(model.g, floats(shots))
    drawn = [model.render(Inputs(content=floats(part), h=code)) for part in images.split(50)]
    return to_uint8(torch.cat(drawn))


def measure(out: Path, name: str, avatars: Path) -> None:
    model = fsgen.load(out / name, device="cpu")
    given, told = contents(out, CONTENTS), [judge(out, "all"), judge(out, "unseen")]
    places = features(avatars, given)
    rows: dict[str, dict] = {}
    for target, images in pictures(out / "unseen.zip").items():
        for k in SHOTS:
            drawn = translated(model, given, images[:k])
            row = rows.setdefault(str(k), {}).setdefault(target, {})
            for one, which in zip(told, ("all", "unseen"), strict=True):
                ranks = one.ranks(drawn, target)
                row |= {f"{which}_top{n}": (ranks < n).double().mean().item() for n in (1, 5)}
            if k == 5:
                row["kept"] = correspondence(features(avatars, drawn), places)
    found = {
        "contents": CONTENTS, "source_classes": model.model.spec["c_dim"],
        "by_shots": {k: _means(row) for k, row in rows.items()},
        "by_style_at_5": {
            style: _means({n: row for n, row in rows["5"].items() if n.split("-")[0] == style})
            for style in sorted({n.split("-")[0] for n in rows["5"]})
        },
        "by_novelty_at_5": {
            novelty: _means({n: row for n, row in rows["5"].items() if (n.split("-")[0] in UNSEEN) == new})
            for novelty, new in (("class", False), ("style", True))
        },
        "by_class_at_5": {n: row["unseen_top1"] for n, row in rows["5"].items()},
    }  # fmt: skip
    steps = model.model.about["provenance"]["run"]["steps"]
    record(f"accuracy {name}, {steps} steps", found)
    if name == "main":
        sheet(model, out)


def _means(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    first = next(iter(rows.values()))
    return {key: round(sum(row[key] for row in rows.values()) / len(rows), 4) for key in first}


def sheet(model: Loaded, out: Path) -> None:
    """Contents on top; then a row a class: five shots of it, a gap, the contents redrawn."""
    given = contents(out, SHOWN)
    blank = torch.full((1, *given.shape[1:]), 255, dtype=torch.uint8)
    rows = [blank.repeat(6, 1, 1, 1), given]
    unseen = pictures(out / "unseen.zip")
    for name in SHEET:
        rows += [unseen[name][:5], blank, translated(model, given, unseen[name][:5])]
    save_png(grid(torch.cat(rows), columns=6 + SHOWN), HERE.with_suffix(".png"))


# ---- a class that is no face -----------------------------------------------------------------------------


def colours(images: Tensor) -> Tensor:
    """Shares of 64 colours, 4 levels a channel: [64]."""
    levels = images.long() // 64
    return torch.bincount(
        (levels * torch.tensor([16, 4, 1])[:, None, None]).sum(1).flatten(), minlength=64
    ) / (images[:, 0].numel())


def tint(images: Tensor) -> Tensor:
    """The mean colour, channels from 0 to 1: [3]."""
    return images.float().mean(dim=(0, 2, 3)) / 255


def edges(images: Tensor) -> Tensor:
    """Shares of the pictures' edges by place and direction: 8 x 8 places, 4 directions, [256]."""
    grey = images.float().mean(dim=1)
    dy, dx = grey[:, 1:, :-1] - grey[:, :-1, :-1], grey[:, :-1, 1:] - grey[:, :-1, :-1]
    turned = (torch.atan2(dy, dx) / torch.pi * 4).round().long() % 4
    strong = (dx.square() + dy.square()).sqrt()[:, None] * F.one_hot(turned, 4).movedim(-1, 1)
    found = F.adaptive_avg_pool2d(strong.mean(dim=0), 8).flatten()
    return found / found.sum()


def dissimilar(out: Path, name: str) -> None:
    """How far contents, translations and the five shots are from their class: half the sum of differences."""
    model = fsgen.load(out / name, device="cpu")
    given = contents(out, CONTENTS)
    faces = {n: images for n, images in pictures(out / "unseen.zip").items() if n.split("-")[0] in UNSEEN}
    others = pictures(out / "dissimilar.zip")
    rows, shown = {}, []
    for target, images in (others | faces).items():
        drawn, rest = translated(model, given, images[:5]), images[5:]
        rows[target] = {
            f"{what.__name__}_{when}": round((what(some) - what(rest)).abs().sum().item() / 2, 4)
            for what in (tint, colours, edges)
            for when, some in (("before", given), ("after", drawn), ("at_best", images[:5]))
        }
        if target in others:
            shown += [images[:5], torch.full_like(images[:1], 255), drawn[:SHOWN]]
    save_png(grid(torch.cat(shown), columns=6 + SHOWN), HERE.with_name(f"{HERE.stem}_dissimilar.png"))
    means = {"faces": _means({n: rows[n] for n in faces}), "no faces": _means({n: rows[n] for n in others})}
    record(f"dissimilar {name}", means | {n: rows[n] for n in others})


def few(out: Path, name: str, avatars: Path, shots: int = 5, each: int = 100) -> None:
    """Linear classifiers on features.pt, learned from ``each`` pictures a class, tested on real ones."""
    model = fsgen.load(out / name, device="cpu")
    given, unseen = contents(out, each), pictures(out / "unseen.zip")
    real = {n: images[:shots].repeat(each // shots, 1, 1, 1) for n, images in unseen.items()}
    generated = {n: translated(model, given, images[:shots]) for n, images in unseen.items()}
    both = {n: torch.cat([real[n][: each // 2], generated[n][: each // 2]]) for n in unseen}
    tests = known(out, "unseen")
    answers = torch.tensor([i for i, some in enumerate(tests.values()) for _ in some])
    points = features(avatars, torch.cat([*tests.values()]))
    found = {}
    for which, lesson in (("real", real), ("generated", generated), ("both", both)):
        shown = features(avatars, torch.cat([_augmented(some) for some in lesson.values()]))
        centre, spread = shown.mean(dim=0), shown.std(dim=0) + 1e-6
        line = _fitted((shown - centre) / spread, torch.arange(len(unseen)).repeat_interleave(each))
        right = line((points - centre) / spread).argmax(dim=1) == answers
        found[which] = round(right.double().mean().item(), 4)
    record(f"few {name}", found | {"shots": shots, "each": each, "tested_on": len(answers)})


def _fitted(points: Tensor, labels: Tensor, steps: int = 200) -> torch.nn.Linear:
    torch.manual_seed(0)
    line = torch.nn.Linear(points.shape[1], int(labels.max()) + 1)
    optimiser = torch.optim.AdamW(line.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(line(points), labels).backward()
        optimiser.step()
    return line.requires_grad_(False)


def _augmented(images: Tensor) -> Tensor:
    """Each picture moved and, one in two, flipped."""
    rng = random.generator(0, "augmented")
    flipped = torch.where(
        (torch.rand(len(images), generator=rng) < 0.5)[:, None, None, None], images.flip(3), images
    )
    return to_uint8(diff_augment(floats(flipped), ["translation"], rng))


def results() -> dict[str, dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def record(name: str, row: dict) -> None:
    rows = results()
    rows[name] = row | {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(name, json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("classes")
    made.add_argument("--styles", type=Path, required=True, help="folder of what make_avatars.mjs made")
    trained = commands.add_parser("train")
    trained.add_argument("--steps", type=int, default=STEPS)
    trained.add_argument("--every", type=int, default=1, help="only every so many-th source class")
    measured = commands.add_parser("measure")
    learned = commands.add_parser("few")
    others = [measured, commands.add_parser("dissimilar"), learned]
    for command in others:
        command.add_argument("name", help="of a run")
    for command in (made, measured, learned):
        command.add_argument("--avatars", type=Path, required=True, help="folder of the avatar sets")
    for command in (made, trained, commands.add_parser("judges"), *others):
        command.add_argument("--out", type=Path, required=True, help="folder of runs")
    given = parser.parse_args()
    match given.command:
        case "classes":
            classes(given.avatars, given.styles, given.out)
        case "train":
            run(given.out, given.steps, given.every)
        case "judges":
            judges(given.out)
        case "measure":
            measure(given.out, given.name, given.avatars)
        case "dissimilar":
            dissimilar(given.out, given.name)
        case "few":
            few(given.out, given.name, given.avatars)


if __name__ == "__main__":
    main()
