"""The user study of Li et al. (2020) as an offline page: which of two images is generated?"""

from __future__ import annotations

import base64
import random

from torch import Tensor

from fsgen.errors import Code, FsgenError
from fsgen.pages.embedded_images import EmbeddedImages
from fsgen.pages.html import render_template

SCHEMA = "fsgen-study/1"
SIDE = 512  # pixels of an image at most


def render(real_images: Tensor, generated: Tensor, *, title: str, rounds: int = 10, seed: int = 0) -> str:
    """Render the study, HTML: ``rounds`` pairs of one real and one generated image, and a count at the end.

    All images have one size and encoding, in an order fixed by ``seed``; the page names none of them and
    stores the answers obfuscated (see ``answer_key``).

    Args:
        real_images: of the target, uint8 [n, C, H, W]; ``rounds`` of them are drawn without repetition.
        generated: likewise, of the same C, H and W.
        title: what is evaluated; shown at the end, and stored with the answers.
        rounds: pairs to judge.
        seed: of the draw and of the sides.

    Raises:
        FsgenError: too few images; sizes that differ and give the answer away; more than 3 MB.
    """
    if rounds < 1:
        raise FsgenError(f"rounds must be at least 1, got {rounds}", code=Code.OUT_OF_RANGE, where=rounds,
                         hint="10 are usual")  # fmt: skip
    for images, kind in ((real_images, "real"), (generated, "generated")):
        if len(images) < rounds:
            raise FsgenError(f"{rounds} rounds need as many {kind} images, got {len(images)}",
                             code=Code.TOO_FEW, where=kind,
                             hint="give more images or ask for fewer rounds")  # fmt: skip
    if real_images.shape[1:] != generated.shape[1:]:
        shapes = [list(images.shape[1:]) for images in (real_images, generated)]
        raise FsgenError(
            f"real images of shape {shapes[0]} and generated ones of {shapes[1]} can be told by their shape",
            code=Code.INCOMPATIBLE, where=shapes[1],
            hint="bring the real images to the size and the channels of the generated ones",
        )  # fmt: skip
    rng = random.Random(seed)
    drawn = zip(
        rng.sample(range(len(real_images)), rounds), rng.sample(range(len(generated)), rounds), strict=True
    )
    first = [rng.random() < 0.5 for _ in range(rounds)]  # true: the generated one is on the left
    embedded = EmbeddedImages()
    pairs = []
    for left, (real, fake) in zip(first, drawn, strict=True):
        one, other = (generated[fake], real_images[real]) if left else (real_images[real], generated[fake])
        pairs.append((embedded.add(one, SIDE), embedded.add(other, SIDE)))
    embedded.encode()
    facts = {
        "schema": SCHEMA,
        "title": title,
        "key": answer_key(first, rng),
        "intervals": exact_intervals(rounds),
    }
    return render_template("study.html", title=title, pairs=pairs, facts=facts)


def answer_key(first: list[bool], rng: random.Random) -> str:
    """One byte a round, base64: an odd number of bits set if the generated image is on the left."""
    odd = {left: [byte for byte in range(256) if byte.bit_count() % 2 == left] for left in (True, False)}
    return base64.b64encode(bytes(rng.choice(odd[left]) for left in first)).decode("ascii")


def exact_intervals(n: int) -> list[tuple[float, float]]:
    """Exact 95% intervals of a share given k of n, for k = 0..n (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    return [
        (
            float(betaincinv(k, n - k + 1, 0.025)) if k > 0 else 0.0,
            float(betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0,
        )
        for k in range(n + 1)
    ]
