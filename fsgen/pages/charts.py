"""Line and bar charts drawn by matplotlib: SVG images in light or dark colours, with a text alternative.

A chart is as wide as a telephone, so that its text keeps its size there; wide screens show several in a row.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

WIDTH = 400  # of a chart, CSS pixels
HEIGHT = 232  # of the plot of a line chart
MOST = 100  # points of a line; longer ones are averaged
ROW = 18  # height of a bar or of a line of the legend
TINY, HUGE = 1e-250, 1e250  # values beyond are not drawn
DASHES = ("-", (0, (4, 2.5)), (0, (1, 2.5)), (0, (6, 2.5, 1.2, 2.5)), (0, (9, 3)))
SETTINGS = {
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "fsgen",  # equal charts are equal files
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "figure.constrained_layout.h_pad": 2 / 72,
    "figure.constrained_layout.w_pad": 2 / 72,
}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def line_chart(series: Mapping[str, Points], *, title: str, x: str, y: str, log: bool = False) -> Markup:
    """Draw lines; long ones are averaged, with a band of their range if there are at most two lines.

    Args:
        series: name -> points (x, y) in the order of x. Points that are not finite, and with ``log`` those
            that are not above 0, are left out.
        title: of the chart.
        x, y: axis labels, with units.
        log: a logarithmic y axis.

    Returns:
        A ``figure`` element; empty if there is no point to draw.
    """
    kept = {name: _drawable(points, log) for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if len(points)}
    if not kept:
        return Markup("")
    from matplotlib import style

    with style.context(SETTINGS):
        height = HEIGHT + (ROW * len(kept) if len(kept) > 1 else 0)
        figure, axes = _axes(height, x, f"{y} (logarithmic)" if log else y)
        if log:
            axes.set_yscale("log")
        _set_ticks(axes.yaxis, log)
        _set_ticks(axes.xaxis, False)
        for index, (name, points) in enumerate(kept.items()):
            _draw_line(axes, points, name, index, banded=len(kept) < 3)
        values = np.concatenate([points[:, 1] for points in kept.values()])
        if not log and 0 < values.min() < values.max() / 3:
            axes.update_datalim([(next(iter(kept.values()))[0, 0], 0)])  # 0 is near: start the axis there
            axes.autoscale_view()
        axes.grid(axis="y", color=_palette()["rule"], linewidth=0.8)
        axes.spines["left"].set_visible(False)
        if len(kept) > 1:
            figure.legend(loc="outside lower left", frameon=False, fontsize=11, labelcolor=_palette()["ink"])
        described = "; ".join(f"{name}: {_range_text(points[:, 1])}" for name, points in kept.items())
        return _element(figure, title, f"{y} over {x}. {described}")


def bar_chart(values: Mapping[str, float], *, title: str, x: str, log: bool = False) -> Markup:
    """Draw one horizontal bar a name, in the order given, each with its value.

    Args:
        values: name -> value, at least 0; values that are not finite get no bar.
        title: of the chart.
        x: label of the bars' lengths, with units.
        log: a logarithmic axis that starts at the decade below the smallest value above 0.

    Returns:
        A ``figure`` element; empty if there are no values.
    """
    least = TINY if log else 0
    drawn = {name: value for name, value in values.items() if least <= value < HUGE}
    if not drawn:
        return Markup("")
    from matplotlib import style

    with style.context(SETTINGS):
        figure, axes = _axes(len(values) * ROW + 42, f"{x} (logarithmic)" if log else x, "")
        low = 10.0 ** np.floor(np.log10(min(drawn.values())) - 1e-9) if log else 0.0
        if log:
            axes.set_xscale("log")
            axes.set_xlim(low, max(drawn.values()))
        lengths = [drawn.get(name, low) - low for name in values]
        bars = axes.barh(range(len(values)), lengths, 0.6, low, color=_palette()["ink0"], gid="bar")
        labels = [short_number(value) if np.isfinite(value) else "not finite" for value in values.values()]
        axes.bar_label(bars, labels, padding=4, color=_palette()["soft"])
        axes.set_yticks(range(len(values)), [_short_name(name, 24) for name in values])
        axes.tick_params(axis="y", colors=_palette()["ink"])
        axes.set_ylim(len(values) - 0.5, -0.5)
        _set_ticks(axes.xaxis, log)
        axes.grid(axis="x", color=_palette()["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        most = max(drawn, key=lambda name: drawn[name])
        described = f"{x} of {len(values)} layers; the largest is {most} with {short_number(drawn[most])}"
        return _element(figure, title, described)


def spans_decades(values: Sequence[float]) -> bool:
    """True if all ``values`` are above 0 and the largest is over 100 times the smallest."""
    return bool(values) and min(values) > 0 and max(values) > 100 * min(values)


def short_number(value: float) -> str:
    """``0.25``, ``1,200``, ``3×10⁻⁵``."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, power = f"{value:.1e}".split("e")
    ten = "10" + str(int(power)).translate(_SUPERSCRIPT)
    mantissa = mantissa.removesuffix(".0")
    return ten if mantissa == "1" else f"{mantissa}×{ten}"


def _drawable(points: Points, log: bool) -> np.ndarray:
    """The points that can be drawn, float64 [n, 2]."""
    found = np.array(points, dtype=np.float64).reshape(-1, 2)
    kept = (np.abs(found) < HUGE).all(axis=1) & ((found[:, 1] > TINY) | (not log))
    return found[kept]


def _draw_line(axes: Axes, points: np.ndarray, name: str, index: int, *, banded: bool) -> None:
    """Draw one line; many points are averaged, and ``banded`` adds their range."""
    parts = np.array_split(points, min(len(points), MOST))
    x, mean = np.array([part.mean(axis=0) for part in parts]).T
    colour = _palette()[f"ink{index % 6}"]  # 6 colours and 5 dashes: 30 different lines
    axes.plot(
        x, mean, label=_short_name(name, 56), color=colour, linestyle=DASHES[index % 5], linewidth=1.6,
        marker="o" if len(x) == 1 else "", markersize=6, gid=f"line{index}",
    )  # fmt: skip
    if banded and len(parts) < len(points):
        low, high = ([edge(part[:, 1]) for part in parts] for edge in (np.min, np.max))
        axes.fill(
            [*x, *x[::-1]], [*high, *low[::-1]], color=colour, alpha=0.16, linewidth=0, gid=f"band{index}"
        )


def _axes(height: float, x: str, y: str) -> tuple[Figure, Axes]:
    # The object interface: no global state, no window system.
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(WIDTH / 72, height / 72), layout="constrained", facecolor="none"
    )  # 72 px an inch
    axes = figure.add_subplot(facecolor="none")
    soft = _palette()["soft"]
    axes.set_xlabel(_short_name(x, 64), color=soft)
    axes.set_ylabel(_short_name(y, 36), color=soft)
    axes.tick_params(length=0, colors=soft)
    axes.spines["bottom"].set_color(soft)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _set_ticks(axis: Axis, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis.set_major_locator(LogLocator(numticks=6) if log else MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _range_text(values: np.ndarray) -> str:
    first, last, low, high = map(short_number, (values[0], values[-1], values.min(), values.max()))
    return f"from {first} to {last}, between {low} and {high}"


def _short_name(name: str, most: int) -> str:
    """Shorten a long name at its start (names differ at the end); replace unprintable characters."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _element(drawing: Figure, title: str, described: str) -> Markup:
    """The chart as an ``img`` with its caption; its colours follow the reader's scheme."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph missing here may be in the reader's font
        drawing.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    for name, colour in _palette().items():
        svg = svg.replace(f": {colour}", f": var(--{name})")
    style = f"<style>{_palette_css()}</style>"
    svg = re.sub(r"(<svg [^>]*>)", lambda found: found[1] + style, svg, count=1)
    svg = svg.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
    svg = re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg
    )  # to a tenth of a pixel
    width, height = (round(72 * side) for side in drawing.get_size_inches())
    return Markup(
        '<figure class="chart"><figcaption>{title}</figcaption>'
        '<img src="data:image/svg+xml;base64,{data}" alt="{title}: {described}" width="{width}" '
        'height="{height}"></figure>'
    ).format(
        title=title, described=described, width=width, height=height,
        data=base64.b64encode(svg.encode()).decode("ascii"),
    )  # fmt: skip


@cache
def _palette_css() -> str:
    """The colours of all pages as CSS variables, light and dark."""
    return (files("fsgen.pages") / "templates" / "palette.css").read_text(encoding="utf-8")


@cache
def _palette() -> dict[str, str]:
    """Name -> colour of the light scheme, which charts are drawn in."""
    light = _palette_css().split("@media")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
