"""Charts: points where they belong, words for those who cannot see them, and nothing outside the frame."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.pages import charts


def drawn(markup, kind):
    """Elements of a class in a chart, which must be well-formed XML."""
    tree = ElementTree.fromstring(str(markup))
    return [element for element in tree.iter() if kind in element.get("class", "").split()]


def coordinates(element):
    return [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", element.get("d"))]


def ticks(markup):
    """Label -> position along the y axis."""
    return {
        tick.text: float(tick.get("y")) - 4
        for tick in drawn(markup, "tick")
        if "end" in tick.get("class").split()
    }


def test_points_lie_where_the_axes_say():
    chart = charts.lines({"": [(0, 0), (50, 1), (100, 4)]}, title="t", x="step", y="loss")
    (start, middle, end) = coordinates(drawn(chart, "line")[0])
    at = ticks(chart)
    assert (start[1], middle[1], end[1]) == (at["0"], at["1"], at["4"])
    assert middle[0] - start[0] == end[0] - middle[0] > 0


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    chart = charts.lines({"": [(0, 0), (1, 0.01), (2, 0.1), (3, 1)]}, title="t", x="step", y="loss", log=True)
    heights = [y for _, y in coordinates(drawn(chart, "line")[0])]
    assert len(heights) == 3  # 0 has no place
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert ticks(chart).keys() == {"0.01", "0.1", "1"}
    assert "logarithmic" in str(chart)


def test_lines_are_told_apart_by_more_than_colour():
    names = [f"run {index}" for index in range(12)]
    chart = charts.lines({name: [(0, 1), (1, 2)] for name in names}, title="t", x="x", y="y")
    legend = [line.get("class") for line in drawn(chart, "line")][12:]
    assert legend == [line.get("class") for line in drawn(chart, "line")][:12]
    assert len({re.search(r"ink\d dash\d", each)[0] for each in legend}) == 12
    assert len({re.search(r"dash\d", each)[0] for each in legend[:5]}) == 5


def test_long_lines_are_means_in_the_band_of_their_values():
    points = [(step, float(step % 2)) for step in range(10_000)]
    chart = charts.lines({"": points}, title="t", x="step", y="loss")
    mean, (band,) = coordinates(drawn(chart, "line")[0]), drawn(chart, "band")
    assert len(mean) <= 200 and len(str(chart)) < 20_000
    assert {y for _, y in mean} == {(ticks(chart)["0"] + ticks(chart)["1"]) / 2}
    assert {y for _, y in coordinates(band)} == {ticks(chart)["0"], ticks(chart)["1"]}


def test_a_chart_says_what_it_shows():
    chart = charts.lines({"d": [(1, 2), (2, 3)], "g": [(1, 5)]}, title="Losses", x="step", y="loss")
    tree = ElementTree.fromstring(str(chart))
    assert tree.find("figcaption").text == "Losses"
    assert tree.find("svg").get("role") == "img"
    described = tree.find("svg/desc").text
    assert "d: from 2 to 3" in described and "g: from 5 to 5" in described
    bars = ElementTree.fromstring(str(charts.bars({"a": 1, "b": 3}, title="Fisher", x="mean")))
    assert "the largest is b with 3" in bars.find("svg").get("aria-label")


def test_bars_are_as_long_as_their_values():
    chart = charts.bars({"a": 1.0, "b": 4.0, "none": 0.0, "not": math.nan}, title="t", x="mean")
    lengths = [float(re.search(r"h([\d.]+)", bar.get("d"))[1]) for bar in drawn(chart, "bar")]
    assert lengths[1] == pytest.approx(4 * lengths[0], abs=0.2) and lengths[2] == 0
    assert len(lengths) == 3 and "not finite" in str(chart)
    log = charts.bars({"a": 1e-4, "b": 1e-2, "none": 0.0}, title="t", x="mean", log=True)
    assert len(drawn(log, "bar")) == 2


def test_nothing_to_draw_is_nothing():
    assert charts.lines({"a": [], "b": [(1, math.nan)]}, title="t", x="x", y="y") == ""
    assert charts.lines({"a": [(1, 0.0)]}, title="t", x="x", y="y", log=True) == ""
    assert charts.bars({}, title="t", x="x") == charts.bars({"a": math.nan}, title="t", x="x") == ""


def test_names_are_escaped():
    text = "<script>\"'&"
    for chart in (
        charts.lines({text: [(0, 1)], "b": [(0, 1)]}, title=text, x=text, y=text),
        charts.bars({text: 1.0}, title=text, x=text),
    ):
        ElementTree.fromstring(str(chart))
        assert "<script" not in chart and text in "".join(ElementTree.fromstring(str(chart)).itertext())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0302, "0.0302"), (1200, "1,200"), (3e-5, "3×10⁻⁵"), (1e-7, "10⁻⁷"), (-2.5e9, "-2.5×10⁹")],
)
def test_numbers_are_short(value, text):
    assert charts.number(value) == text


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=40), st.booleans())
@settings(deadline=None, max_examples=200)
def test_nothing_is_drawn_outside(points, log):
    chart = charts.lines({"a": sorted(points, key=lambda point: point[0])}, title="t", x="x", y="y", log=log)
    for line in drawn(chart, "line") if chart else []:
        assert all(0 <= x <= 400 and 0 <= y <= 232 for x, y in coordinates(line))


@given(st.dictionaries(st.text(max_size=4), st.floats(min_value=0), max_size=8), st.booleans())
@settings(deadline=None, max_examples=200)
def test_bars_stay_inside(values, log):
    chart = charts.bars({f"{name!r}": value for name, value in values.items()}, title="t", x="x", log=log)
    for bar in drawn(chart, "bar") if chart else []:
        assert 0 <= float(re.search(r"h(-?[\d.]+)", bar.get("d"))[1]) <= 300
