"""How the feature network that comes with fsgen (``--features bundled``) was trained, and what it is worth.

    python examples/studies/bundled_features.py references --avatars DIR
    python examples/studies/bundled_features.py train layout,attributes --avatars DIR --steps 400
    python examples/studies/bundled_features.py train layout,attributes --avatars DIR --steps 1500 --ship FILE
    python examples/studies/bundled_features.py table

Trained on what is in the public domain (CC0 1.0): peeps, sketches and pixel_faces without the last 2,000,
1,000 and 1,000 of them; doodles are never trained on. There are three lessons, to be mixed:

- ``layout``: distances within a style are to be as those of the pictures at 16 x 16 px.
- ``attributes``: what peeps64.jsonl says of each peep, and the style of all pictures, is to be read off.
- ``views``: a picture is to be told from the others of its batch whatever became of it (NT-Xent, Chen et al.
  2020, equation 1, on two augmented views).

Pictures are shown augmented by ``--policy``, one of fsgen's own. The figure, on pictures that nothing was
trained on: the mean distance to the 5 nearest neighbours over the mean distance to all others of the style.
The features find the neighbours; distances are measured in the avatars' features.pt, which no lesson has
seen. 1 is chance, less is better. Lessons, policy and steps were chosen by the three styles trained on;
doodles had no say. Writes bundled_features.json. bfloat16 as torch's autocast has it on CPUs.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen import rng as random
from fsgen.data.augment import diff_augment
from fsgen.data.images import load_images
from fsgen.data.neighbours import nearest_neighbours
from fsgen.features.bundled import DIM, GRID, WIDTHS, BundledNetwork

RESULTS = Path(__file__).with_suffix(".json")
HELD_OUT = {"peeps": 2000, "sketches": 1000, "pixel_faces": 1000, "doodles": 2000}  # the last ones
SHARES = {"peeps": 64, "sketches": 32, "pixel_faces": 32}  # pictures of a batch
ATTRIBUTES = (
    "head", "face", "facialHair", "accessories",
    "skinColor", "clothingColor", "headContrastColor", "primaryBackgroundColor",
)  # fmt: skip
LESSONS = ("layout", "attributes", "views")
TEMPERATURE = 0.2
NEIGHBOURS = 5


class Trainee(nn.Module):
    """The network as it is while it learns: batch norms after its convolutions, heads for its lessons."""

    def __init__(self, classes: list[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            for before, after, stride in WIDTHS
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _, after, _ in WIDTHS)
        self.out = nn.Linear(GRID**2 * WIDTHS[-1][1], DIM)
        self.project = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM))
        self.heads = nn.ModuleList(nn.Linear(DIM, count) for count in classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 64, 64] in [-1, 1] -> [n, 128] of length one."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x)).relu()
        return F.normalize(self.out(x.flatten(1)).float(), dim=1)

    @torch.no_grad()
    def folded(self) -> BundledNetwork:
        """The network that ships: each batch norm is part of the convolution before it."""
        network = BundledNetwork()
        for convolution, norm, into in zip(
            self.convolutions, self.norms, network.convolutions, strict=True
        ):  # fmt: skip
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            into.weight.copy_(convolution.weight * gain[:, None, None, None])
            into.bias.copy_(norm.bias - norm.running_mean * gain)
        network.out.load_state_dict(self.out.state_dict())
        return network.eval().requires_grad_(False)


def nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """Each view has to find its partner among the 2n - 1 others; ``a`` and ``b`` [n, d]."""
    views = F.normalize(torch.cat([a, b]), dim=1)
    alike = (views @ views.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(alike, torch.arange(len(views)).roll(len(a)))


def labels_of(avatars: Path) -> tuple[Tensor, list[int]]:
    """[20000, 8] what each peep wears, "nothing" included, and how many kinds of each there are."""
    rows = [json.loads(line) for line in (avatars / "peeps64.jsonl").read_text().splitlines()]
    columns, counts = [], []
    for attribute in ATTRIBUTES:
        kinds = sorted({row.get(attribute, "") for row in rows})
        columns.append(torch.tensor([kinds.index(row.get(attribute, "")) for row in rows]))
        counts.append(len(kinds))
    return torch.stack(columns, dim=1), counts


@cache
def pictures(avatars: Path, style: str) -> Tensor:
    return load_images(avatars / f"{style}64.zip", 64).pixels


def fit(lessons: list[str], policy: list[str], avatars: Path, steps: int, rate: float) -> BundledNetwork:
    shown = {style: pictures(avatars, style)[: -HELD_OUT[style]] for style in SHARES}
    labels, counts = labels_of(avatars)
    torch.manual_seed(0)
    network = Trainee([*counts, len(SHARES)]).to(memory_format=torch.channels_last)
    quick = torch.autocast("cpu", torch.bfloat16)  # two to three times as fast
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    views = 2 if "views" in lessons else 1
    styles = torch.arange(len(SHARES)).repeat_interleave(torch.tensor(list(SHARES.values())))
    began = time.perf_counter()
    for step in range(steps):
        rng = random.generator(0, "batch", step)
        rows = {s: torch.randint(len(shown[s]), (n,), generator=rng) for s, n in SHARES.items()}
        batch = torch.cat([shown[s][rows[s]] for s in SHARES]).float() / 127.5 - 1
        with quick:
            points = network(torch.cat([diff_augment(batch, policy, rng) for _ in range(views)]))
        first = points[: len(batch)]
        losses = {}
        if "layout" in lessons:
            losses["layout"] = 20 * laid_out(first, batch)
        if "attributes" in lessons:
            losses["attributes"] = recognised(network, first, labels[rows["peeps"]], styles)
        if "views" in lessons:
            losses["views"] = nt_xent(*network.project(points).chunk(2))
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            told = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            print(f"{step + 1} steps, {time.perf_counter() - began:.0f} s: {told}", flush=True)
    network.eval()
    folded, trial = network.folded(), batch[:8]
    torch.testing.assert_close(folded(trial), network(trial), atol=1e-4, rtol=0)
    return folded


def laid_out(points: Tensor, batch: Tensor) -> Tensor:
    """Mean squared difference between the distances of points and those of pictures of 16 x 16 px, within
    each style and relative to their mean."""
    losses = []
    for places, small in zip(
        points.split([*SHARES.values()]),
        F.adaptive_avg_pool2d(batch, 16).flatten(1).split([*SHARES.values()]),
        strict=True,
    ):
        found, wanted = torch.pdist(places), torch.pdist(small)
        losses.append(F.mse_loss(found / found.mean(), wanted / wanted.mean()))
    return torch.stack(losses).mean()


def recognised(network: Trainee, points: Tensor, labels: Tensor, styles: Tensor) -> Tensor:
    """Mean cross-entropy of the peeps' attributes and of all pictures' styles."""
    *heads, style = network.heads
    sharp = points * 16  # on the unit sphere logits would stay too near one another
    losses = [F.cross_entropy(h(sharp[: len(labels)]), labels[:, i]) for i, h in enumerate(heads)]
    return torch.stack([*losses, F.cross_entropy(style(sharp), styles)]).mean()


def worth(features, avatars: Path) -> dict[str, float]:
    """The figure of each style; ``features`` takes [n, 3, 64, 64] in [-1, 1]."""
    judge = torch.jit.load(avatars / "features.pt").eval()
    found = {}
    for style, count in HELD_OUT.items():
        images = pictures(avatars, style)[-count:].float() / 127.5 - 1
        with torch.no_grad():
            points = torch.cat([features(part) for part in images.split(250)])
            places = torch.cat([judge(part) for part in images.split(250)])
        apart = torch.cdist(places, places)
        near = apart.gather(1, nearest_neighbours(points, NEIGHBOURS).images).mean()
        found[style] = round((near / (apart.sum() / (count * (count - 1)))).item(), 3)
    return found


def record(name: str, row: dict) -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows[name] = row | {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(name, json.dumps(row))


def references(avatars: Path) -> None:
    """Chance, the pixels, the network before it learned, and the judge, which nobody can beat."""
    noise = random.generator(0, "chance")
    torch.manual_seed(0)
    untrained = BundledNetwork().eval().requires_grad_(False)
    judge = torch.jit.load(avatars / "features.pt").eval()
    for name, features in {
        "chance": lambda x: torch.randn(len(x), DIM, generator=noise),
        "pixels": lambda x: F.avg_pool2d(x, 4).flatten(1),
        "untrained": untrained,
        "the judge itself": judge,
    }.items():
        record(name, {"ratio": worth(features, avatars)})


def train(given: argparse.Namespace) -> None:
    began = time.perf_counter()
    policy = given.policy.split(",") if given.policy else []
    network = fit(given.lessons.split(","), policy, given.avatars, given.steps, given.rate)
    seconds = round(time.perf_counter() - began)
    halves = {key: value.half() for key, value in network.state_dict().items()}
    network.load_state_dict(halves)  # what is measured is what ships
    row = {
        "ratio": worth(network, given.avatars), "lessons": given.lessons, "policy": given.policy,
        "trained_on": {style: f"all but the last {HELD_OUT[style]:,}" for style in SHARES},
        "steps": given.steps, "batch": sum(SHARES.values()), "rate": given.rate, "seconds": seconds,
        "threads": torch.get_num_threads(),
        "parameters": sum(value.numel() for value in halves.values()),
    }  # fmt: skip
    record("shipped" if given.ship else f"{given.lessons}; {given.policy}; {given.steps} steps", row)
    if given.ship:
        about = {
            "licence": "CC0-1.0", "made_by": Path(__file__).name,
            "trained_on": "Open Peeps (Pablo Stanley), Lorelei (Lisa Wischofsky), Pixel Art (DiceBear): CC0",
        }  # fmt: skip
        save_file(halves, given.ship, metadata=about)


def table() -> None:
    print("| | " + " | ".join(HELD_OUT) + " |")
    print("|---" * (1 + len(HELD_OUT)) + "|")
    for name, row in json.loads(RESULTS.read_text()).items():
        print(f"| {name} | " + " | ".join(f"{row['ratio'][style]:.3f}" for style in HELD_OUT) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    for name in ("references", "train"):
        command = commands.add_parser(name)
        command.add_argument("--avatars", type=Path, required=True, help="folder of the avatar sets")
    command.add_argument("lessons", help=f"of {', '.join(LESSONS)}, with commas")
    command.add_argument("--policy", default="translation", help="of fsgen's augmentations")
    command.add_argument("--steps", type=int, default=400)
    command.add_argument("--rate", type=float, default=2e-3)
    command.add_argument("--ship", type=Path, help="write the network here")
    given = parser.parse_args()
    if given.command == "table":
        table()
    elif given.command == "references":
        references(given.avatars)
    else:
        train(given)


if __name__ == "__main__":
    main()
