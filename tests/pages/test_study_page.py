"""The user study: pairs that only their content tells apart, a truth that does not catch the eye."""

from __future__ import annotations

import json
import random
import re
from math import comb

import pytest
import torch
from page_material import Page, images
from refusals import refused
from test_pages import decoded

from fsgen.errors import Code
from fsgen.pages import study_page

REALS, GENERATED = images(14, seed=1), images(13, seed=2)


def told(text: str) -> dict:
    return json.loads(re.search(r'id="facts">(.*?)</script>', text, re.S)[1])


def sides(text: str) -> list[str]:
    """Where the generated picture is, round by round, found by looking at the pictures."""
    known = {image.permute(1, 2, 0).numpy().tobytes() for image in GENERATED}
    pictures = [decoded(each["src"]).tobytes() in known for each in Page(text).all("img")]
    assert all(left != right for left, right in zip(pictures[::2], pictures[1::2], strict=True))
    return ["left" if left else "right" for left in pictures[::2]]


def test_every_round_shows_one_of_each_on_sides_that_vary():
    text = study_page.render(REALS, GENERATED, title="a")
    assert len(sides(text)) == 10 and set(sides(text)) == {"left", "right"}
    sources = [each["src"] for each in Page(text).all("img")]
    assert len(set(sources)) == 20  # no picture twice
    assert {decoded(each).shape for each in sources} == {(16, 16, 3)}


def test_the_seed_fixes_the_page():
    page = study_page.render(REALS, GENERATED, title="a", seed=3)
    assert page == study_page.render(REALS, GENERATED, title="a", seed=3)
    assert page != study_page.render(REALS, GENERATED, title="a", seed=4)
    left = sum(sides(study_page.render(REALS, GENERATED, title="a", seed=s)).count("left") for s in range(30))
    assert 110 <= left <= 190  # of 300


def test_the_truth_is_there_but_not_to_be_seen():
    text = study_page.render(REALS, GENERATED, title="a")
    page = Page(text)
    assert len({tuple(sorted(each.items() - {("src", each["src"])})) for each in page.all("img")[::2]}) == 1
    assert {each["alt"] for each in page.all("img")} == {"left picture", "right picture"}
    markup = re.sub(r"<script>.*?</script>|data:image[^\"]*", "", text, flags=re.S)
    assert "truth" not in json.dumps(told(text)) and not re.search(r"\breals?\b.*\.png", markup)
    keys = {study_page.answer_key([True, False] * 5, random.Random(seed)) for seed in range(5)}
    assert len(keys) == 5  # one truth has many keys


def test_the_key_holds_the_truth():
    import base64

    text = study_page.render(REALS, GENERATED, title="a", seed=5)
    bits = [byte.bit_count() % 2 for byte in base64.b64decode(told(text)["key"])]
    assert ["left" if bit else "right" for bit in bits] == sides(text)


@pytest.mark.parametrize("n", [1, 10, 37])
def test_intervals_are_exact(n):
    """Clopper and Pearson: at either end, as few or as many as were seen have a chance of 2.5%."""
    found = study_page.exact_intervals(n)
    assert len(found) == n + 1 and found[0][0] == 0 and found[n][1] == 1
    for k, (low, high) in enumerate(found):
        chance = [lambda p, i=i: comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n + 1)]
        if k > 0:
            assert sum(chance[i](low) for i in range(k, n + 1)) == pytest.approx(0.025)
        if k < n:
            assert sum(chance[i](high) for i in range(k + 1)) == pytest.approx(0.025)


def test_what_would_give_the_answer_away_is_refused():
    with refused(Code.INCOMPATIBLE, [3, 32, 32], [3, 16, 16]):
        study_page.render(images(10, 32), GENERATED, title="a")
    with refused(Code.TOO_FEW, 10, "generated", 9):
        study_page.render(REALS, GENERATED[:9], title="a")
    with refused(Code.TOO_FEW, 10, "real", 9):
        study_page.render(REALS[:9], GENERATED, title="a")
    with refused(Code.OUT_OF_RANGE, "rounds", 0):
        study_page.render(REALS, GENERATED, title="a", rounds=0)


def test_grey_pictures_are_shown_as_they_are():
    text = study_page.render(
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8), images(1, 8, channels=1), title="a", rounds=1
    )
    assert {decoded(each["src"]).shape for each in Page(text).all("img")} == {(8, 8, 3)}
