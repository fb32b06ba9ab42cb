"""The pages in a real browser: no error, every picture, no overflow, and a study played to its end.

A headless window is never narrower than 500 pixels, whatever it is asked for, so pages are measured in frames
of the width in question; that such a measurement finds an overflow is itself tested.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from page_material import Page, contents, images, report
from test_pages import HOSTILE, PAGES, decoded

from fsgen.pages import comparison_page, report_page, study_page
from fsgen.pages.contents import PageContents

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (400, 1400)

PROBE = """<script>
addEventListener("load", () => parent.postMessage({
  name: location.pathname.split("/").pop() + "@" + innerWidth,
  content: document.documentElement.scrollWidth,
  images: document.images.length,
  broken: [...document.images].filter((image) => !image.naturalWidth).length,
  ground: getComputedStyle(document.body).backgroundColor,
}, "*"));
</script>"""
FRAMES = """<!doctype html><title>frames</title><pre id="found">[]</pre><script>
const found = [];
addEventListener("message", (event) => {
  found.push(event.data);
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


@pytest.fixture(autouse=True)
def _browser():
    if BROWSER is None and os.environ.get("CI"):
        pytest.fail("there is neither chromium nor google-chrome on the PATH: the pages go untested")
    if BROWSER is None:
        pytest.skip("there is neither chromium nor google-chrome on the PATH")


def visit(page: Path, *options: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what the browser's console said."""
    profile = page.parent / "profile"
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={profile}", "--window-size=1600,1200", "--virtual-time-budget=5000",
        "--enable-logging=stderr", *options, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def measure(folder: Path, pages: dict[str, str], *options: str) -> tuple[dict[str, dict], list[str]]:
    """What ``PROBE`` finds in each page at each width, and what the console said of the pages as they are."""
    frames = FRAMES
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
        allowed = text
        if "script-src" not in text:
            allowed = text.replace(
                "default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';", 1
            )
        (folder / f"{name}-probed.html").write_text(
            allowed.replace("</body>", PROBE + "</body>"), encoding="utf-8"
        )
        frames += f'<iframe src="{name}.html" width="900" height="500"></iframe>'
        for width in WIDTHS:
            frames += (
                f'<iframe src="{name}-probed.html" width="{width}" height="700" style="border: 0"></iframe>'
            )
    (folder / "frames.html").write_text(frames, encoding="utf-8")
    document, console = visit(folder / "frames.html", *options)
    found = json.loads(unescape(re.search(r'id="found">(.*?)</pre>', document, re.S)[1]))
    assert len(found) == len(pages) * len(WIDTHS)
    return {each["name"].replace("-probed.html", ""): each for each in found}, console


def test_the_measurement_sees_what_is_wrong(tmp_path):
    bad = (
        "<!doctype html><html><head><meta name=viewport content='width=device-width'></head><body>"
        "<div style='width: 700px'>wide</div><img src='data:image/webp;base64,AAAA'>"
        "<script>console.error('wrong'); missing();</script></body></html>"
    )
    found, console = measure(tmp_path, {"bad": bad})
    assert found["bad@400"]["content"] > 700 > 400
    assert found["bad@1400"]["content"] == 1400
    assert found["bad@400"]["broken"] == 1
    assert any("wrong" in line for line in console) and any(
        "missing is not defined" in line for line in console
    )


def test_pages_hold_at_any_width_with_every_picture_and_no_complaint(tmp_path):
    long = report("runs/" + "a-name-without-a-place-to-break-" * 6)
    long["evaluation"]["warnings"] = ["x" * 300]
    long["run"]["method"]["ewc"]["proxy"] = "y" * 200
    for row in long["evaluation"]["rows"]:
        row["name"] = "z" * 120
    pages = {
        **PAGES,
        "bare": report_page.render({}, PageContents()),
        "long": report_page.render(long, contents()),
        "long-comparison": comparison_page.render([long, report("runs/b", 80)] * 4, [contents()] * 8),
        "hostile": report_page.render(report(HOSTILE), contents()),
    }
    pages["long"] = pages["long"].replace("<details", "<details open")
    found, console = measure(tmp_path, pages)
    assert console == []
    for name, text in pages.items():
        for width in WIDTHS:
            seen = found[f"{name}@{width}"]
            assert seen["content"] <= width, f"{name} is {seen['content']} wide on a screen of {width}"
            assert seen["broken"] == 0
            assert seen["images"] == text.count("<img ")


def test_a_page_is_light_or_dark_as_its_reader_likes(tmp_path):
    light, _ = measure(tmp_path, {"report": PAGES["report"]}, "--blink-settings=preferredColorScheme=1")
    dark, _ = measure(tmp_path, {"report": PAGES["report"]}, "--blink-settings=preferredColorScheme=0")
    assert light["report@400"]["ground"] == "rgb(255, 255, 255)"
    assert dark["report@400"]["ground"] == "rgb(21, 22, 24)"


PLAY = """<script>
const PLAN = %s; // "left" or "right": which picture; "key" or "click": how
const shown = () => [...document.querySelectorAll("main > section")].filter((section) => !section.hidden);
const places = [];
const trail = [shown().map((section) => section.id)];
let saved = null;
const create = URL.createObjectURL;
URL.createObjectURL = (blob) => { saved = blob; return create.call(URL, blob); };
const pressed = (key, more) => new KeyboardEvent("keydown", { key, bubbles: true, ...more });
const press = (key, more) => document.dispatchEvent(pressed(key, more));
press("ArrowLeft"); // before the start: counts for nothing
document.getElementById("start").click();
for (const [side, how] of PLAN) {
  trail.push(shown().map((section) => section.getAttribute("aria-label")));
  places.push([...shown()[0].querySelectorAll("img")].map((image) => image.getBoundingClientRect().toJSON()));
  const button = shown()[0].querySelector(`[data-side=${side}]`);
  press("ArrowUp"); // no answer
  press("ArrowLeft", { repeat: true }); // a key held down
  button.dispatchEvent(new MouseEvent("click", { bubbles: true, detail: 2 })); // half of a double click
  if (how === "click") button.click(); else press(side === "left" ? "ArrowLeft" : "ArrowRight");
}
press("ArrowLeft"); // after the end
trail.push(shown().map((section) => section.id));
document.getElementById("save").click();
saved.text().then((text) => {
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify({
    trail, places, answers: JSON.parse(text), said: document.getElementById("outcome").innerText,
    focus: document.activeElement.id, type: saved.type,
    review: [...document.querySelectorAll("#review li")].map((item) => ({
      text: item.innerText,
      pictures: [...item.querySelectorAll("img")].map((image) => [image.alt, image.src]),
    })),
  });
  document.body.append(result);
});
</script>"""


def played(folder: Path, text: str, plan: list[tuple[str, str]]) -> dict:
    page = folder / "play.html"
    page.write_text(text.replace("</body>", PLAY % json.dumps(plan) + "</body>"), encoding="utf-8")
    document, console = visit(page)
    assert console == []
    return json.loads(unescape(re.search(r'<pre id="result">(.*?)</pre>', document, re.S)[1]))


def test_a_study_is_played_through(tmp_path):
    real_images, generated = images(12, seed=6), images(12, seed=7)
    known = {image.permute(1, 2, 0).numpy().tobytes() for image in generated}
    text = study_page.render(real_images, generated, title='of "sketches" & more', rounds=8, seed=2)
    pictures = [each["src"] for each in Page(text).all("img")]
    truth = ["left" if decoded(src).tobytes() in known else "right" for src in pictures[::2]]
    wrong = {1, 4, 5}  # rounds in which the player is fooled
    other = {"left": "right", "right": "left"}
    sides = [other[side] if index in wrong else side for index, side in enumerate(truth)]
    plan = [(side, "key" if index % 2 else "click") for index, side in enumerate(sides)]

    result = played(tmp_path, text, plan)
    answers = result["answers"]
    assert result["trail"] == [["intro"], *[[f"pair {i}"] for i in range(1, 9)], ["outcome"]]
    assert (answers["schema"], answers["title"]) == ("fsgen-study/1", 'of "sketches" & more')
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", answers["date"]) and result["type"] == "application/json"
    assert [each["choice"] for each in answers["rounds"]] == sides
    assert [each["truth"] for each in answers["rounds"]] == truth
    assert [each["fooled"] for each in answers["rounds"]] == [index in wrong for index in range(8)]
    assert all(each["milliseconds"] >= 0 for each in answers["rounds"])
    assert (answers["fooled"], answers["fooling_rate"]) == (3, 0.375)
    assert answers["interval"] == pytest.approx(study_page.exact_intervals(8)[3])
    assert "Fooling rate 38%" in result["said"] and "9% to 76%" in result["said"]
    assert result["focus"] == "outcome-title"
    for left, right in result["places"]:  # large, of one size, side by side, on the first screen
        assert left["width"] == right["width"] > 300 and left["height"] == right["height"]
        assert left["top"] == right["top"] and left["right"] < right["left"] and left["bottom"] < 1200

    for index, shown in enumerate(result["review"]):
        assert shown["text"].count("your choice") == 1
        assert ("Fooled" in shown["text"]) == (index in wrong)
        for side, (alt, src) in zip(("left", "right"), shown["pictures"], strict=True):
            assert alt == f"{'generated' if side == truth[index] else 'real'}, on the {side}"
            assert (decoded(src).tobytes() in known) == alt.startswith("generated")


@pytest.mark.parametrize(("fooled", "said"), [(False, "Fooling rate 0%"), (True, "Fooling rate 100%")])
def test_a_study_at_either_end(tmp_path, fooled, said):
    text = study_page.render(images(2, seed=6), images(2, seed=7), title="a", rounds=2)
    key = json.loads(re.search(r'id="facts">(.*?)</script>', text, re.S)[1])["key"]
    left = [byte.bit_count() % 2 == 1 for byte in base64.b64decode(key)]
    result = played(tmp_path, text, [("left" if each != fooled else "right", "key") for each in left])
    assert said in result["said"]
    assert result["answers"]["interval"] == pytest.approx(study_page.exact_intervals(2)[2 if fooled else 0])
