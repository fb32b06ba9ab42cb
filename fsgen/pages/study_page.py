"""The user study of Li et al. (2020): which of two pictures is generated, asked offline."""

from __future__ import annotations

import base64
import random

from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.pages.embedded_images import Album
from fsgen.pages.html import page

SCHEMA = "fsgen-study/1"
SIDE = 512  # pixels of a picture at most


def render(real_images: Tensor, generated: Tensor, *, title: str, rounds: int = 10, seed: int = 0) -> str:
    """The page, HTML, that asks for the generated one of two pictures, ``rounds`` times, and counts.

    The pictures are of one size and encoded alike, in an order fixed by ``seed``; the page names none of
    them, and holds the truth in a form that does not catch the eye (see ``key``).

    Args:
        reals: images of the target, uint8 [n, C, H, W]; ``rounds`` of them are drawn without repetition.
        generated: likewise, of the same C, H and W.
        title: what is judged; shown at the end, and written into the answers.
        rounds: pairs to judge.
        seed: of the draw and of the sides.

    Raises:
        FsgenError: too few images; sizes that differ and would give the answer away; too much for 3 MB.
    """
    if rounds < 1:
        raise FsgenError(f"a study of {rounds} rounds asks nothing", hint="10 are usual")
    for images, what in ((real_images, "real"), (generated, "generated")):
        if len(images) < rounds:
            raise FsgenError(
                f"{rounds} rounds need as many {what} images, there are {len(images)}",
                hint="give more images or ask for fewer rounds",
            )
    if real_images.shape[1:] != generated.shape[1:]:
        raise FsgenError(
            f"images of shapes {list(real_images.shape[1:])} and {list(generated.shape[1:])} "
            "tell themselves apart",
            hint="bring the real images to the size and the channels of the generated ones",
        )
    rng = random.Random(seed)
    drawn = zip(
        rng.sample(range(len(real_images)), rounds), rng.sample(range(len(generated)), rounds), strict=True
    )
    first = [rng.random() < 0.5 for _ in range(rounds)]  # whether the generated one is on the left
    album = Album()
    pairs = []
    for left, (real, fake) in zip(first, drawn, strict=True):
        one, other = (generated[fake], real_images[real]) if left else (real_images[real], generated[fake])
        pairs.append((album.add(one, SIDE), album.add(other, SIDE)))
    album.settle()
    return page(
        "study.html",
        title=title,
        pairs=pairs,
        facts={"schema": SCHEMA, "title": title, "key": key(first, rng), "intervals": intervals(rounds)},
    )


def key(first: list[bool], rng: random.Random) -> str:
    """One byte a round, base64: with an odd number of bits set where the generated picture is on the left."""
    odd = {left: [byte for byte in range(256) if byte.bit_count() % 2 == left] for left in (True, False)}
    return base64.b64encode(bytes(rng.choice(odd[left]) for left in first)).decode("ascii")


def intervals(n: int) -> list[tuple[float, float]]:
    """The exact 95% intervals of a share of which k of n were seen, k = 0..n (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    return [
        (
            float(betaincinv(k, n - k + 1, 0.025)) if k > 0 else 0.0,
            float(betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0,
        )
        for k in range(n + 1)
    ]
