"""Charts: points lie where the axes say, a text alternative tells the values, nothing is drawn outside."""

from __future__ import annotations

import base64
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.pages import charts

SVG = "{http://www.w3.org/2000/svg}"


def figure(markup):
    """The chart's ``figure``, which must be well-formed XML but for the void ``img``."""
    return ElementTree.fromstring(str(markup).replace("></figure>", "/></figure>"))


def svg(markup):
    data = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', markup)[1]
    return ElementTree.fromstring(base64.b64decode(data))


def drawn(markup, kind):
    """Paths of the elements called ``kind`` and a number, in order: (points, style) of each."""
    groups = [g for g in svg(markup).iter(f"{SVG}g") if re.fullmatch(rf"{kind}\d*", g.get("id", ""))]
    found = []
    for group in groups:
        markers = [(float(use.get("x")), float(use.get("y"))) for use in group.iter(f"{SVG}use")]
        found += [
            (markers or coordinates(path.get("d")), path.get("style")) for path in group.iter(f"{SVG}path")
        ]
    return found


def coordinates(d):
    return [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", d)]


def ticks(markup, axis):
    """Label -> position of its grid line or tick along an axis, "x" or "y"."""
    found = {}
    for group in svg(markup).iter(f"{SVG}g"):
        if re.fullmatch(rf"{axis}tick_\d+", group.get("id", "")):
            grid = coordinates(group.find(f".//{SVG}path").get("d"))[0]
            found["".join(group.itertext()).strip()] = grid["xy".index(axis)]
    return found


def text(markup):
    return " ".join(" ".join(svg(markup).itertext()).split())


def test_points_lie_where_the_axes_say():
    chart = charts.line_chart({"": [(0, 0), (50, 1), (100, 4)]}, title="t", x="step", y="loss")
    (((start, middle, end), _),) = drawn(chart, "line")
    at = ticks(chart, "y")
    assert (start[1], middle[1], end[1]) == pytest.approx((at["0"], at["1"], at["4"]), abs=0.2)
    assert middle[0] - start[0] == pytest.approx(end[0] - middle[0], abs=0.2) and middle[0] > start[0]
    assert {"step", "loss"} <= set(text(chart).split())


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    points = [(0, 0), (1, 0.01), (2, 0.1), (3, 1)]
    chart = charts.line_chart({"": points}, title="t", x="step", y="loss", log=True)
    ((line, _),) = drawn(chart, "line")
    heights = [y for _, y in line]
    assert len(heights) == 3  # 0 has no place
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert ticks(chart, "y").keys() == {"0.01", "0.1", "1"}
    assert "logarithmic" in text(chart)


def test_lines_differ_in_more_than_colour():
    names = [f"run {index}" for index in range(12)]
    chart = charts.line_chart({name: [(0, 1), (1, 2)] for name in names}, title="t", x="x", y="y")
    styles = [style for _, style in drawn(chart, "line")]
    assert len(set(styles)) == 12
    dashes = [re.search(r"stroke-dasharray: ([^;]*)", style) for style in styles]
    assert len({dash and dash[1] for dash in dashes[:5]}) == 5
    legend = [path.get("style") for path in next(
        g for g in svg(chart).iter(f"{SVG}g") if g.get("id", "").startswith("legend")
    ).iter(f"{SVG}path")]  # fmt: skip
    assert [style for style in legend if "stroke: var(--ink" in style] == styles
    assert all(name in text(chart) for name in names)


def test_long_lines_are_means_in_the_band_of_their_values():
    points = [(step, float(step % 2)) for step in range(10_000)]
    chart = charts.line_chart({"": points}, title="t", x="step", y="loss")
    ((mean, _),), ((band, _),) = drawn(chart, "line"), drawn(chart, "band")
    at = ticks(chart, "y")
    assert len(mean) <= 200 and len(str(chart)) < 20_000
    assert [y for _, y in mean] == pytest.approx([(at["0"] + at["1"]) / 2] * len(mean), abs=0.2)
    for edge in (at["0"], at["1"]):
        assert sum(abs(y - edge) < 0.2 for _, y in band) >= 100


def test_a_chart_has_a_text_alternative():
    chart = charts.line_chart({"d": [(1, 2), (2, 3)], "g": [(1, 5)]}, title="Losses", x="step", y="loss")
    assert figure(chart).find("figcaption").text == "Losses"
    image = figure(chart).find("img")
    for part in ("Losses", "loss over step", "d: from 2 to 3", "g: from 5 to 5"):
        assert part in image.get("alt"), part
    assert (image.get("width"), int(image.get("height"))) == (
        "400",
        round(float(svg(chart).get("height")[:-2])),
    )
    bars = figure(charts.bar_chart({"a": 1, "b": 3}, title="Fisher", x="mean"))
    assert "the largest is b with 3" in bars.find("img").get("alt")


def test_bars_are_as_long_as_their_values():
    chart = charts.bar_chart({"a": 1.0, "b": 4.0, "none": 0.0, "not": math.nan}, title="t", x="mean")
    lengths = [bar[1][0] - bar[0][0] for bar, _ in drawn(chart, "bar")]
    assert lengths[1] == pytest.approx(4 * lengths[0], abs=0.3) and lengths[2:] == [0, 0]
    assert "not finite" in text(chart)
    log = charts.bar_chart({"a": 1e-4, "b": 1e-2, "none": 0.0}, title="t", x="mean", log=True)
    lengths = [bar[1][0] - bar[0][0] for bar, _ in drawn(log, "bar")]
    assert lengths[0] < lengths[1] and "logarithmic" in text(log)


def test_nothing_to_draw_is_nothing():
    assert charts.line_chart({"a": [], "b": [(1, math.nan)]}, title="t", x="x", y="y") == ""
    assert charts.line_chart({"a": [(1, 0.0)]}, title="t", x="x", y="y", log=True) == ""
    assert charts.bar_chart({}, title="t", x="x") == charts.bar_chart({"a": math.nan}, title="t", x="x") == ""


def test_names_are_escaped():
    name = "<script>\"'&$x^2$"
    for chart in (
        charts.line_chart({name: [(0, 1)], "b": [(0, 1)]}, title=name, x=name, y=name),
        charts.bar_chart({name: 1.0}, title=name, x=name),
    ):
        assert "<script" not in chart and figure(chart).find("figcaption").text == name
        assert name in text(chart) and not list(svg(chart).iter(f"{SVG}script"))


def test_colours_follow_the_scheme_of_the_reader():
    chart = charts.line_chart({"a": [(0, 1), (1, 2)], "b": [(0, 1)]}, title="t", x="x", y="y")
    source = ElementTree.tostring(svg(chart), encoding="unicode")
    head, body = source.split("</ns0:style>", 1)
    assert "prefers-color-scheme: dark" in head and not re.search(r"#[0-9a-f]{6}\b", body)
    assert set(re.findall(r"var\(--([\w-]+)\)", body)) == {"ink0", "ink1", "soft", "rule", "ink"}


def test_equal_charts_are_equal():
    made = [charts.line_chart({"a": [(0, 1), (1, 2)]}, title="t", x="x", y="y") for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0302, "0.0302"), (1200, "1,200"), (3e-5, "3×10⁻⁵"), (1e-7, "10⁻⁷"), (-2.5e9, "-2.5×10⁹")],
)
def test_numbers_are_short(value, text):
    assert charts.short_number(value) == text


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=40), st.booleans())
@settings(deadline=None, max_examples=30)
def test_nothing_is_drawn_outside(points, log):
    points = sorted(points, key=lambda point: point[0])
    chart = charts.line_chart({"a": points}, title="t", x="x", y="y", log=log)
    for line, _ in drawn(chart, "line") if chart else []:
        assert all(-1 <= x <= 401 and -1 <= y <= 233 for x, y in line)


@given(st.dictionaries(st.text(max_size=4), st.floats(min_value=0), max_size=8), st.booleans())
@settings(deadline=None, max_examples=30)
def test_bars_stay_inside(values, log):
    chart = charts.bar_chart({name: value for name, value in values.items()}, title="t", x="x", log=log)
    for bar, _ in drawn(chart, "bar") if chart else []:
        assert all(0 <= x <= 401 for x, _ in bar)
