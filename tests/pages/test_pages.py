"""The pages without a browser: whole, closed to the outside, safe from hostile names, small."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import fields, replace
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import torch
from page_material import Page, contents, images, report
from PIL import Image
from refusals import refused

from fsgen.errors import Code
from fsgen.pages import comparison_page, report_page, score_tables, study_page
from fsgen.pages.contents import Neighbour, PageContents
from fsgen.pages.embedded_images import EmbeddedImages

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror='alert(1)'>\"'&{{ 7*7 }}"


def everything() -> dict[str, str]:
    """One page of each kind."""
    return {
        "report": report_page.render(report(), contents()),
        "comparison": comparison_page.render([report(), report("runs/b", 80)], [contents(), contents()]),
        "study": study_page.render(images(12), images(12, seed=1), title="runs/sketches"),
    }


PAGES = everything()


def decoded(uri: str) -> np.ndarray:
    head, data = uri.split(",", 1)
    assert head == "data:image/webp;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


# ---- all pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_whole_and_reaches_for_nothing(kind):
    page = Page(PAGES[kind])
    assert page.all("html") == [{"lang": "en"}]
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert ("script-src" in policy) == (kind == "study")
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert not re.search(r"url\(|@import|https?://", PAGES[kind])
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form"} == set()


@pytest.mark.parametrize("kind", PAGES)
def test_headings_follow_one_another_and_pictures_have_words(kind):
    page = Page(PAGES[kind])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    if kind != "study":  # whose parts are shown one at a time
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.all("img") and all(
        each["alt"] and each["width"] and each["height"] for each in page.all("img")
    )
    assert len(page.images) + len(page.charts) == len(page.all("img"))
    assert (len(page.charts) > 3) == (kind != "study")


@pytest.mark.parametrize("kind", PAGES)
def test_links_within_a_page_lead_somewhere(kind):
    page = Page(PAGES[kind])
    ids = {attributes.get("id") for _, attributes in page.tags}
    for _, attributes in page.tags:
        for name in ("href", "aria-labelledby"):
            if name in attributes:
                assert attributes[name].removeprefix("#") in ids


def hostile(tree):
    """Every string of ``tree``, keys that are names included, turned into an attack."""
    if isinstance(tree, dict):
        free = {
            "ewc",
            "lambda",
            "inception",
            "clip_fid",
            "fid",
        }  # keys that the user or another program may choose
        return {key + HOSTILE if key in free else key: hostile(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [hostile(value) for value in tree]
    return tree + HOSTILE if isinstance(tree, str) and tree not in ("subject", "source", "real") else tree


def test_names_are_words_and_never_markup():
    shown = contents()
    bad = replace(
        shown,
        history=[
            {(k if k in ("step", "d") else k + HOSTILE): v for k, v in line.items()} for line in shown.history
        ],
        fisher={name + HOSTILE: value for name, value in shown.fisher.items()},
        change={HOSTILE + name: value for name, value in shown.change.items()},
    )
    attacked = hostile(report())
    other = hostile(report("runs/b", 80))
    texts = {
        "report": report_page.render(attacked, bad),
        "comparison": comparison_page.render([attacked, other], [bad, bad]),
        "study": study_page.render(images(3), images(3, seed=1), title=HOSTILE, rounds=3),
    }
    for kind, text in texts.items():
        page, clean = Page(text), Page(PAGES[kind])
        assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
        assert kind == "study" or len(page.images) == len(clean.images)
        assert len(page.all("script")) == len(clean.all("script")) == (2 if kind == "study" else 0)
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert "{{ 7*7 }}" in page.text
    facts = re.search(r'id="facts">(.*?)</script>', texts["study"], re.S)[1]
    assert json.loads(facts)["title"] == HOSTILE


def test_large_pictures_keep_a_page_below_three_megabytes():
    noise = images(10, 256).float()  # detail everywhere: the worst case
    large = torch.nn.functional.interpolate(noise, scale_factor=4).to(torch.uint8)
    many, middling = large[torch.arange(40) % 10], noise.to(torch.uint8)
    pairs = [Neighbour(a, b, 0.1, False, None) for a, b in zip(many, large, strict=False)]
    shown = replace(
        contents(), samples=many, shots=large, real_images=large, pairs=(large, large), neighbours=pairs
    )
    seen = replace(contents(), pairs=(middling, middling))
    for text in (
        report_page.render(report(), shown),
        comparison_page.render([report(f"run {i}") for i in range(9)], [seen] * 9),
        study_page.render(large, large, title="large", rounds=10),
    ):
        assert len(text.encode()) < 3_000_000
        sizes = [decoded(each["src"]).shape[0] for each in Page(text).images]
        assert min(sizes) >= 16 and max(sizes) >= 64


def test_a_page_that_would_be_too_large_is_refused():
    told = report()
    told["evaluation"]["warnings"] = ["x" * 3_000_000]
    with refused(Code.OUT_OF_RANGE, "3.0 MB", "3 MB"):
        report_page.render(told, PageContents())


def test_a_name_that_is_no_text_can_still_be_written():
    text = report_page.render(report("runs/\udcff"), PageContents())
    assert text.encode("utf-8") and "runs/?" in text


# ---- the album -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_shown_bit_by_bit(channels):
    album, image = EmbeddedImages(), images(1, 64, channels=channels)[0]
    embedded = album.add(image, 256)
    album.encode()
    expected = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    assert (decoded(embedded.uri) == expected).all()
    assert (embedded.width, embedded.height) == (64, 64)


def test_an_album_gives_way_step_by_step():
    spent = []
    for budget in (300_000, 60_000, 12_000):
        album = EmbeddedImages(budget)
        thumbs = album.add_all(images(4, 128), 128, 4)
        album.encode()
        spent.append(sum(len(embedded.uri) for embedded in thumbs))
        assert spent[-1] <= budget
    assert spent[0] > spent[1] > spent[2]
    full = EmbeddedImages(100)
    full.add_all(images(4), 64, 4)
    with refused(Code.OUT_OF_RANGE, "4 images"):
        full.encode()


# ---- the report ----------------------------------------------------------------------------------------


def test_a_report_says_all_it_knows():
    text = Page(PAGES["report"]).text
    for said in (
        "FID is 61.2 (58.2 to 64.2), the source's 112.0; diversity is 0.41 (0.39 to 0.43), "
        "the real images' 0.523; "
        "97.0% of the samples repeat a training image.",
        "97% of the samples repeat a picture", "1,000 samples against 5,000 real images", "58.2 to 64.2",
        "Protocol cdc", "not stated", "Fisher information", "Rate of change", "EWC penalty", "ewc.lambda 967",
        "sketches.zip, 5,000 images, 3 skipped", "CC0-1.0", "a" * 64, "e" * 64, "inception-2015-12-05.pt",
        "FID against 10 images is unreliable", "no weights. fsgen pull metrics --everything",
        "share of samples that repeat a training image",
        "4 of these 12 count as copies", "seed 5", "1 min 49 s",
    ):  # fmt: skip
        assert said in text, said


def test_copies_are_marked_by_words():
    page = Page(PAGES["report"])
    assert [each.get("class") for each in page.all("li")].count("copy") == 4
    assert sum(word.strip() == "copy" for word in page.words) == 4


PARTS = [
    *((key,) for key in report()), *(("run", key) for key in report()["run"]),
    *(("evaluation", key) for key in report()["evaluation"]),
]  # fmt: skip


@pytest.mark.parametrize("keys", PARTS, ids=".".join)
@pytest.mark.parametrize("absent", ["null", "missing"])
def test_a_report_does_without_any_part(keys, absent):
    told = report()
    tree = told
    for key in keys[:-1]:
        tree = tree[key]
    if absent == "null":
        tree[keys[-1]] = None
    else:
        del tree[keys[-1]]
    for text in (
        report_page.render(told, PageContents()),
        comparison_page.render([told, report()], [PageContents(), PageContents()]),
    ):  # fmt: skip
        said = Page(text).text
        assert "None" not in said and "Undefined" not in said


@pytest.mark.parametrize("name", [field.name for field in fields(PageContents)])
def test_a_report_does_without_any_exhibit(name):
    text = report_page.render(report(), replace(contents(), **{name: getattr(PageContents(), name)}))
    assert len(text) < len(PAGES["report"])
    Page(text)


def test_a_run_that_was_not_evaluated_has_a_page():
    told = report()
    del told["evaluation"]
    full = contents()
    page = Page(
        report_page.render(told, PageContents(history=full.history, change=full.change, grid=full.grid))
    )
    assert [each["alt"] for each in page.images] == ["grid of samples"]
    assert decoded(page.images[0]["src"]).shape == (64, 64, 3) and len(page.charts) == 4
    for said in (
        "runs/sketches",
        "peeps64",
        "CC0-1.0",
        "c" * 64,
        "ewc.lambda 967",
        "1 min 49 s",
        "Not evaluated",
    ):
        assert said in page.text, said
    assert "near copies" not in page.text


def test_a_report_of_nothing_says_so():
    page = Page(report_page.render({}, PageContents()))
    assert "Nothing was measured." in page.text and "unnamed" in page.text
    assert not page.all("section")


def test_a_metric_of_a_later_version_is_shown():
    told = report()
    told["evaluation"]["rows"][0]["metrics"]["vendi"] = {"value": 12.3456, "low": None, "high": None}
    text = Page(report_page.render(told, PageContents())).text
    assert "vendi" in text and "12.3" in text


def test_what_is_no_number_is_not_shown_as_one():
    told = report()
    told["evaluation"]["rows"][0]["metrics"] = {"fid": {"value": float("nan")}, "kid": {"value": None}}
    assert score_tables.summarise(told) == "Nothing was measured."
    history = [{"step": 1, "d": float("nan"), "g": float("inf")}, {"step": 2, "d": 1.0, "g": None}]
    text = report_page.render(told, PageContents(history=history, fisher={"b4": float("nan"), "b8": 1.0}))
    charts = [base64.b64decode(each["src"].split(",")[1]).decode() for each in Page(text).charts]
    assert len(charts) == 2 and not any(re.search(r'\sd="[^"]*(nan|inf)', chart) for chart in charts)


def test_the_verdict_counts_no_copies_as_none():
    told = report()
    told["evaluation"]["rows"][0]["metrics"]["near_copies"]["value"] = 0.0
    assert score_tables.summarise(told).endswith("; none of the samples repeats a training image.")


# ---- the comparison ------------------------------------------------------------------------------------


def rows_of(*pairs):
    """Rows with an FID and half the width of its interval."""
    return [score_tables.score_rows(report("x", fid, half))[0] for fid, half in pairs]


def test_the_best_is_marked_and_what_may_be_as_good():
    assert comparison_page.best_rows("fid", rows_of((60, 3), (64, 3), (70, 3))) == {0: "best", 1: "level"}
    assert comparison_page.best_rows("fid", rows_of((60, 3), (60, 3), (70, 3))) == {0: "best", 1: "best"}
    assert comparison_page.best_rows("fid", rows_of((60, 3), (60, 3))) == {}
    assert comparison_page.best_rows("fid", rows_of((60, 3))) == {}
    assert comparison_page.best_rows("coverage", rows_of((60, 3), (70, 3))) == {}
    higher = rows_of((60, 3), (70, 3))
    higher[1].scores["diversity"] = replace(higher[1].scores["diversity"], value=0.9)
    higher[1].bounds["diversity"] = (0.8, 1.0)
    assert comparison_page.best_rows("diversity", higher) == {1: "best"}


def test_a_comparison_shows_runs_their_cost_and_what_they_share():
    page = Page(PAGES["comparison"])
    for said in ("runs/sketches, runs/b", "1 min 49 s", "1,100 MB", "1,000,000", "source", "61.2", "★"):
        assert said in page.text, said
    alts = [each["alt"] for each in page.images]
    assert alts[0] == "peeps64, the source, latent 1"
    assert len([alt for alt in alts if "the source" in alt]) == 8  # one strip for both runs
    assert len(alts) == 3 * 8


def test_sources_that_differ_have_a_strip_each():
    shown = contents()
    other = replace(shown, pairs=(images(8, seed=9), images(8, seed=8)))
    alts = [
        each["alt"] for each in Page(comparison_page.render([report(), report("b")], [shown, other])).images
    ]
    assert len(alts) == 4 * 8


def test_what_has_no_source_shows_its_samples():
    folder = report("folder")
    folder["evaluation"]["what"] = {"kind": "images", "count": 12}
    alone = replace(contents(), pairs=None)
    text = comparison_page.render([report(), report("the source"), folder], [contents(), alone, alone])
    alts = [each["alt"] for each in Page(text).images]
    assert len(alts) == 4 * 8
    assert "the source, latent 1" in alts and "folder, images of no latents, 1" in alts


@pytest.mark.parametrize(
    ("keys", "value", "what"),
    [
        (("real", "digest"), "f" * 64, "real images"),
        (("settings", "samples"), 500, "number of samples"),
        (("settings", "truncation"), 0.7, "truncation"),
        (("protocol", "name"), "adam", "protocol"),
        (("near_copy", "space"), "another", "test of near copies"),
        (("settings", "weights", "inception", "sha256"), "0" * 64, "weights of inception"),
    ],
)
def test_figures_measured_otherwise_are_not_ranked(keys, value, what):
    other = report("runs/b", 80)
    tree = other["evaluation"]
    for key in keys[:-1]:
        tree = tree[key]
    tree[keys[-1]] = value
    assert [found for found, _ in comparison_page.differences([report(), other])] == [what]
    page = Page(comparison_page.render([report(), other], [PageContents(), PageContents()]))
    assert "Not comparable" in page.text and what in page.text and "★" not in page.text


def test_runs_measured_alike_may_do_without_some_weights():
    other = report("runs/b")
    other["evaluation"]["settings"]["weights"] = {}
    assert comparison_page.differences([report(), other]) == []


def test_runs_of_one_name_are_numbered_and_exhibits_counted():
    text = Page(comparison_page.render([report(), report()], [PageContents(), PageContents()])).text
    assert "runs/sketches (1), runs/sketches (2)" in text
    for told, shown, named in (([], [], 0), ([report()], [], 1)):
        with refused(Code.USAGE, f"{named} reports", "0"):
            comparison_page.render(told, shown)


# ---- colours -------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_everything_is_legible(theme):
    css = (files("fsgen.pages") / "templates" / "palette.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[theme]))
    assert len(colours) == 14
    inks = [
        ("ink", "ground"),
        ("soft", "ground"),
        ("accent", "ground"),
        ("warn", "ground"),
        ("ink", "raised"),
    ]
    inks += [("soft", "raised"), ("warn", "warn-ground"), ("ink", "warn-ground")]
    for ink, ground in inks:
        pair = sorted((luminance(colours[ink]), luminance(colours[ground])))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, f"{ink} on {ground}"
    for index in range(6):  # lines are told by 3 to 1
        pair = sorted((luminance(colours[f"ink{index}"]), luminance(colours["ground"])))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3
