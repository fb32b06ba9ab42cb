"""Tags from an image's features: the second experiment of Mirza & Osindero 2014 (section 4.2), on avatars.

    python examples/studies/tags.py --avatars DIR

The pictures are the 20,000 of peeps64.zip, their tags the attributes in peeps64.jsonl that show: 122 words, 5
to 7 a picture. G sees a picture's features and z and draws a tag's vector; D sees the vector beside the
features. A real vector is that of one of the picture's tags, at random. Both are fsgen's family cgan, to
which a vector is a grey picture. 100 samples a picture each name the NEAR words nearest by cosine, and the
ten most often named are its tags.

- The vectors are random. The paper's are a skip-gram's, but these attributes are all but independent of one
  another: what stands beside what says next to nothing about them.
- The features are those of the avatars' features.pt, which was trained with these very attributes: an easy
  case. The question is whether G learns all tags of a picture or settles on one.
- Isolated points are no manifold: D is shown all vectors blurred by noise, as the paper does not.

Vectors, widths, noise and recipe were chosen in short tries on the validation pictures. Writes tags.json
and tags.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.data.image_output import picture, save_png
from fsgen.data.images import ImageSet, load_images
from fsgen.families.cgan import CGAN
from fsgen.interfaces import ImageKind, Inputs, Method, Rng
from fsgen.methods.stack import Stack
from fsgen.training import loop

HERE = Path(__file__)
TRAIN, VALIDATION = 17_000, 1_000  # the other 2,000 are held out
SLOTS = {
    "head": "head", "face": "face", "facialHair": "beard", "accessories": "wears", "skinColor": "skin",
    "clothingColor": "clothes", "primaryBackgroundColor": "background",
}  # fmt: skip
SIDE = 14  # a vector of 196 numbers; the paper's have 200
BLUR = 0.7  # standard deviation of the noise; a vector's numbers have 0.4
SAMPLES, BEST = 100, 10  # a picture: samples of G, tags given
NEAR = (
    20,
    1,
)  # words a sample names: the paper's, of a vocabulary 2,000 times as large, and the very nearest
SHOWN = 6
POINTS = (1000, 2000, 4000, 8000, 16000)  # steps at which the validation pictures are judged


class Pictures(NamedTuple):
    """Pictures, what is known of them, and what is true of them."""

    features: Tensor  # [n, c], standardised
    has: Tensor  # [n, words], 1.0 where the word is a tag of the picture

    def part(self, rows: slice) -> Pictures:
        return Pictures(self.features[rows], self.has[rows])


class Dealer:
    """Deals pictures' features to both players, then tags of the same pictures as reals."""

    def __init__(self, pictures: Pictures, vectors: Tensor, z_dim: int) -> None:
        self.pictures, self.vectors, self.z_dim = pictures, vectors, z_dim

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        rows = torch.randint(len(self.pictures.features), (n,), generator=rng)
        z = torch.rand(n, self.z_dim, generator=rng)
        return Inputs(z=z, y=self.pictures.features[rows], rows=rows)

    def real_images(self, n: int, rng: torch.Generator, inputs: Inputs) -> Tensor:
        words = torch.multinomial(self.pictures.has[inputs.rows], 1, generator=rng)[:, 0]
        return self.vectors[words].view(n, 1, SIDE, SIDE)


def read(avatars: Path) -> tuple[ImageSet, Pictures, list[tuple[str, str]]]:
    """All images, their features and tags, and the vocabulary: (slot, value)."""
    images = load_images(avatars / "peeps64.zip", 64)
    found = [json.loads(line) for line in (avatars / "peeps64.jsonl").read_text().splitlines()]
    tags = [[(slot, one[slot]) for slot in SLOTS if slot in one] for one in found]
    vocabulary = sorted({tag for some in tags for tag in some})
    column = {tag: i for i, tag in enumerate(vocabulary)}
    has = torch.zeros(len(tags), len(vocabulary))
    for row, some in enumerate(tags):
        has[row, [column[tag] for tag in some]] = 1
    network = torch.jit.load(avatars / "features.pt").eval()
    with torch.no_grad():
        features = torch.cat([network(part.float() / 127.5 - 1) for part in images.pixels.split(250)])
    mean, spread = features[:TRAIN].mean(dim=0), features[:TRAIN].std(dim=0)
    alive = spread > 1e-6  # the others are for the styles that are not shown here
    return images, Pictures(((features - mean) / spread)[:, alive], has), vocabulary


class Blur(Method):
    """Add noise to all vectors before D, which otherwise tells single points from everything near them."""

    name = "blur"

    def augment(self, images: Tensor, kind: ImageKind, rng: Rng) -> Tensor:
        return images + BLUR * torch.randn(images.shape, generator=rng(f"{self.name} {kind}"))


def embedding(words: int) -> Tensor:
    """A random vector [words, SIDE * SIDE] in [-1, 1] for each word: nearly orthogonal."""
    return torch.randn(words, SIDE**2, generator=random.generator(0, "words")).div(2.5).clamp(-1, 1)


def trained(
    pictures: Pictures, vectors: Tensor, steps: int, after: Callable[[loop.TrainingState], None]
) -> nn.Module:
    """G's average after ``steps`` of the one training loop, which tells ``after`` of each."""
    family = CGAN()
    spec = {
        "resolution": SIDE, "channels": 1, "z_dim": 100, "c_dim": pictures.features.shape[1],
        "g_widths": {"z": 300, "y": 300, "joint": 400},
        "d_widths": {"x": 200, "y": 200, "joint": 200}, "d_pieces": {"x": 2, "y": 2, "joint": 3},
    }  # fmt: skip
    recipe = replace(family.recipe(spec), dropout=0.0)
    torch.manual_seed(0)  # the networks' first weights
    networks = family.build(spec)
    state = loop.begin(family, networks.g, networks.d, recipe)
    dealer = Dealer(pictures, vectors, spec["z_dim"])
    loop.train_steps(
        state, family=family, methods=Stack([Blur()]), real_batches=dealer.real_images, recipe=recipe,
        steps=steps, seed=0, draw=dealer.draw, after=lambda state, losses: after(state),
    )  # fmt: skip
    return state.g_ema


@torch.no_grad()
def named(sample: Callable[[int], Tensor], n: int, vectors: Tensor) -> dict[int, Tensor]:
    """How often each word is among the nearest to one picture's samples: by ``near``, [n, words].

    Args:
        sample: row of a picture -> vectors [SAMPLES, SIDE * SIDE].
        n: pictures.
        vectors: the vocabulary's, [words, SIDE * SIDE].
    """
    counts = {near: torch.zeros(n, len(vectors)) for near in NEAR}
    for row in range(n):
        order = cosine(sample(row), vectors).topk(max(NEAR)).indices
        for near, into in counts.items():
            into[row] = order[:, :near].flatten().bincount(minlength=len(vectors))
    return counts


def cosine(some: Tensor, vectors: Tensor) -> Tensor:
    return nn.functional.normalize(some, dim=1) @ nn.functional.normalize(vectors, dim=1).T


def ranked(scores: Tensor, has: Tensor) -> dict[str, float]:
    """How good the words of the highest ``scores`` [n, words] are; one of score 0 is not given."""
    hits = (has * (scores > 0)).gather(1, scores.topk(BEST).indices)
    of = has.sum(dim=1)
    shares = {
        "precision_at_5": hits[:, :5].mean(), f"precision_at_{BEST}": hits.mean(),
        f"recall_at_{BEST}": (hits.sum(dim=1) / of).mean(),
    }  # fmt: skip
    return {name: round(value.item(), 3) for name, value in shares.items()}


def varied(counts: Tensor, has: Tensor) -> dict[str, float]:
    """What the samples' very nearest words say of G's law: are they true, and are they all that is true?"""
    shares = counts / SAMPLES
    figures = {
        "true_samples": (shares * has).sum(dim=1).mean(),
        "tags_named": ((counts > 0) * has).sum() / has.sum(),  # by one sample at least
        "words": torch.special.entr(shares).sum(dim=1).exp().mean(),  # as many equally likely ones
    }
    return {name: round(value.item(), 3) for name, value in figures.items()}


def by_slot(scores: Tensor, has: Tensor, vocabulary: list[tuple[str, str]]) -> dict[str, float]:
    """Recall among the ten, slot by slot."""
    found = torch.zeros_like(has).scatter(1, scores.topk(BEST).indices, 1) * has * (scores > 0)
    columns = {slot: [i for i, (of, _) in enumerate(vocabulary) if of == slot] for slot in SLOTS}
    return {
        SLOTS[slot]: round((found[:, some].sum() / has[:, some].sum()).item(), 3)
        for slot, some in columns.items()
    }


def ridge(train: Pictures, vectors: Tensor, features: Tensor, weight: float = 100.0) -> Tensor:
    """Ridge regression from features to the mean vector of a picture's tags, at ``features``."""
    means = train.has @ vectors / train.has.sum(dim=1, keepdim=True)
    x, middle = train.features, means.mean(dim=0)
    square = x.T @ x + weight * torch.eye(x.shape[1])
    return features @ torch.linalg.solve(square, x.T @ (means - middle)) + middle


def sheet(images: Tensor, has: Tensor, scores: Tensor, vocabulary: list[tuple[str, str]]) -> Image.Image:
    """Each picture beside its true tags and G's, the most often named first; what is wrong is grey."""
    font, line, size, wide = ImageFont.load_default(size=15), 19, 192, 190
    cell = size + 2 * wide + 20, (BEST + 2) * line
    out = Image.new("RGB", (2 * cell[0], -(-len(images) // 2) * cell[1]), "white")
    pen = ImageDraw.Draw(out)
    for i, image in enumerate(images):
        left, top = i % 2 * cell[0] + 8, i // 2 * cell[1] + 8
        out.paste(picture(image).resize((size, size), Image.Resampling.NEAREST), (left, top))
        true = has[i].nonzero()[:, 0].tolist()
        given = [word for word in scores[i].topk(BEST).indices.tolist() if scores[i, word] > 0]
        for column, (title, words) in enumerate((("its tags", true), ("G's", given))):
            x = left + size + 12 + column * wide
            pen.text((x, top), title, "#4060c0", font)
            for k, word in enumerate(words, start=1):
                slot, value = vocabulary[word]
                y, ink = top + k * line, "black" if word in true else "#a0a0a0"
                colour = value[0] == "#"
                text = f"{SLOTS[slot]}:" + ("" if colour else f" {value}")
                pen.text((x, y), text, ink, font)
                if colour:
                    start = x + pen.textlength(text, font) + 6
                    pen.rectangle((start, y + 3, start + 28, y + 15), fill=value, outline=ink)
    return out


def sampler(g: nn.Module, features: Tensor) -> Callable[[int], Tensor]:
    """Row of a picture -> the vectors that G draws for it, [SAMPLES, SIDE * SIDE]."""

    def sample(row: int) -> Tensor:
        z = torch.rand(SAMPLES, g.z_dim, generator=random.generator(0, "samples", row))
        return g(Inputs(z=z, y=features[row].expand(SAMPLES, -1))).flatten(1)

    return sample


def perfect(has: Tensor, vectors: Tensor) -> Callable[[int], Tensor]:
    """The same of a G that is right: it draws one of the picture's own tags."""

    def sample(row: int) -> Tensor:
        rng = random.generator(0, "tags", row)
        return vectors[torch.multinomial(has[row], SAMPLES, replacement=True, generator=rng)]

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--avatars", type=Path, required=True, help="folder of the avatar sets")
    parser.add_argument("--steps", type=int, default=16_000)
    given = parser.parse_args()
    images, pictures, vocabulary = read(given.avatars)
    vectors = embedding(len(vocabulary))
    train, validation = pictures.part(slice(0, TRAIN)), pictures.part(slice(TRAIN, TRAIN + VALIDATION))
    test = pictures.part(slice(TRAIN + VALIDATION, None))
    course = []

    def after(state: loop.TrainingState) -> None:
        if state.step in POINTS:
            counts = named(sampler(state.g_ema, validation.features), VALIDATION, vectors)[NEAR[-1]]
            row = {"step": state.step} | varied(counts, validation.has) | ranked(counts, validation.has)
            course.append(row)
            print(json.dumps(row), flush=True)

    began = time.perf_counter()
    g = trained(train, vectors, given.steps, after)
    seconds = time.perf_counter() - began

    rows, n = {}, len(test.has)
    ours = named(sampler(g, test.features), n, vectors)
    for name, counts in (("cgan", ours), ("a perfect G", named(perfect(test.has, vectors), n, vectors))):
        for near in NEAR:
            rows[f"{name}, {near} nearest"] = ranked(counts[near], test.has)
        rows[f"{name}, {NEAR[-1]} nearest"] |= varied(counts[NEAR[-1]], test.has)
    linear = cosine(ridge(train, vectors, test.features), vectors)
    rows["ridge regression"] = ranked(linear, test.has)
    rows["the most common tags"] = ranked(train.has.sum(dim=0).expand(n, -1), test.has)
    rows["chance"] = ranked(torch.rand(test.has.shape, generator=random.generator(0, "chance")), test.has)
    counts = ours[NEAR[-1]]
    result = {
        "held_out": rows,
        "recall_by_slot": {
            "cgan": by_slot(counts, test.has, vocabulary),
            "ridge regression": by_slot(linear, test.has, vocabulary),
        },
        "validation": course,
        "words": len(vocabulary), "tags_a_picture": round(test.has.sum(dim=1).mean().item(), 2),
        "features": train.features.shape[1], "train": TRAIN, "test": n, "steps": given.steps,
        "seconds": round(seconds), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    HERE.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    first = TRAIN + VALIDATION  # the first held-out pictures, not chosen
    shown = images.floats(slice(first, first + SHOWN))
    save_png(sheet(shown, test.has, counts, vocabulary), HERE.with_suffix(".png"))


if __name__ == "__main__":
    main()
