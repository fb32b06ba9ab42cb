"""Line and bar charts as inline SVG: drawn in the colours of the page around them, with words for readers.

A chart is as wide as a telephone, so that its letters are letters there too; wide screens show several
side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Points = Sequence[tuple[float, float]]

WIDTH = 400  # of every chart, in units of its view box, which are CSS pixels where there is room
_HEIGHT = 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 40  # margins around the plot of lines
_MOST = 100  # points of a line; longer ones are averaged
_ROW = 18  # height of a bar's row
_TINY, _HUGE = 1e-250, 1e250  # what lies beyond is drawn as nothing at all
_NAMES = 118  # width of the bars' names
_VALUES = 58  # width of the bars' values
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class _Axis:
    """Values to positions along one side."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self._place(self.low), self._place(self.high)
        return round(self.start + (self._place(value) - low) / (high - low) * (self.end - self.start), 1)

    def _place(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> list[float]:
        """About five round values between the ends."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = max(1, math.ceil((last - first) / 5))
            decades = [10.0**power for power in range(first, last + 1, every)]
            return [tick for tick in decades if self.low <= tick <= self.high]
        step = _round_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def lines(series: Mapping[str, Points], *, title: str, x: str, y: str, log: bool = False) -> Markup:
    """Lines over a common axis; long ones as means, in the range of their values if there are but two lines.

    Args:
        series: name -> points (x, y) in the order of x. Points that are not finite are left out, and with
            ``log`` those that are not above 0.
        title: what the chart shows.
        x, y: what the axes show, with units.
        log: a logarithmic y axis.

    Returns:
        A ``figure``, or nothing where there is no point to draw.
    """
    kept = {name: _kept(points, log) for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return Markup("")
    every = [point for points in kept.values() for point in points]
    across = _Axis(*_span([px for px, _ in every]), _LEFT, WIDTH - _RIGHT)
    values = [py for _, py in every]
    ends = _decades(values) if log else _rounded(*_span(values))
    up = _Axis(*ends, _HEIGHT - _BOTTOM, _TOP, log)
    drawn = Markup("").join(
        _line(points, across, up, index, banded=len(kept) < 3) for index, points in enumerate(kept.values())
    )
    label = "; ".join(f"{name}: {_told(points)}" for name, points in kept.items())
    legend = _legend(list(kept)) if len(kept) > 1 else Markup("")
    return _figure(_HEIGHT, title, f"{y} over {x}. {label}", _frame(across, up, x, y) + drawn, legend)


def bars(values: Mapping[str, float], *, title: str, x: str, log: bool = False) -> Markup:
    """One horizontal bar a name, in the order given, each with its value.

    Args:
        values: name -> value, at least 0; what is not finite has no bar.
        title: what the chart shows.
        x: what the bars' lengths show, with units.
        log: a logarithmic axis that starts at the decade below the smallest value above 0.

    Returns:
        A ``figure``, or nothing where there are no values.
    """
    lengths = [value for value in values.values() if _drawable(value, log)]
    if not lengths:
        return Markup("")
    top = max(lengths)
    low, high = _decades(lengths) if log else _rounded(0.0, top if top > _TINY else 1.0)
    across = _Axis(low, high, _NAMES, WIDTH - _VALUES, log)
    bottom = len(values) * _ROW + 4
    rows = Markup("").join(_bar(*pair, index, across) for index, pair in enumerate(values.items()))
    mark = Markup('<path class="grid" d="M{0} 0V{1}"/><text class="tick mid" x="{0}" y="{2}">{3}</text>')
    ticks = Markup("").join(
        mark.format(across.at(tick), bottom, bottom + 15, number(tick)) for tick in across.ticks()
    )
    axis = Markup('<text class="axis mid" x="{}" y="{}">{}</text>').format(
        (_NAMES + WIDTH - _VALUES) / 2, bottom + 33, x + (" (logarithmic)" if log else "")
    )
    most = max(values, key=lambda name: values[name] if _drawable(values[name], log) else -math.inf)
    described = f"{x} of {len(values)} layers; the largest is {most} with {number(values[most])}"
    return _figure(bottom + 42, title, described, ticks + rows + axis)


def spread(values: Sequence[float]) -> bool:
    """Whether ``values`` are all above 0 and so far apart that a logarithmic axis shows them better."""
    return bool(values) and min(values) > 0 and max(values) > 100 * min(values)


def number(value: float) -> str:
    """A short label: ``0.25``, ``1,200``, ``3×10⁻⁵``."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, power = f"{value:.1e}".split("e")
    ten = "10" + str(int(power)).translate(_SUPERSCRIPT)
    mantissa = mantissa.removesuffix(".0")
    return ten if mantissa == "1" else f"{mantissa}×{ten}"


# ---- lines ---------------------------------------------------------------------------------------------


def _kept(points: Points, log: bool) -> list[tuple[float, float]]:
    return [(px, py) for px, py in points if abs(px) < _HUGE and abs(py) < _HUGE and (py > _TINY or not log)]


def _line(points: list[tuple[float, float]], across: _Axis, up: _Axis, index: int, *, banded: bool) -> Markup:
    """A path, or for many points the path of their means, ``banded`` by their least and largest."""
    mean, low, high = [], [], []
    for part in _parts(points):
        middle = sum(px for px, _ in part) / len(part)
        heights = [py for _, py in part]
        mean.append((middle, sum(heights) / len(heights)))
        low.append((middle, min(heights)))
        high.append((middle, max(heights)))
    if len(mean) == 1:
        spot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>')
        return spot.format(_ink(index), across.at(mean[0][0]), up.at(mean[0][1]))
    band = Markup("")
    if banded and len(mean) < len(points):
        band = Markup('<path class="band {}" d="{}Z"/>').format(
            _ink(index), _path([*high, *low[::-1]], across, up)
        )
    return band + Markup('<path class="line {}" d="{}"/>').format(_ink(index), _path(mean, across, up))


def _ink(index: int) -> str:
    """Classes of the ``index``-th line: 6 colours and 5 patterns of dashes repeat together after 30 lines."""
    return f"ink{index % 6} dash{index % 5}"


def _parts(points: list[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """``points`` in at most ``_MOST`` runs of nearly the same length."""
    count = min(len(points), _MOST)
    for index in range(count):
        yield points[index * len(points) // count : (index + 1) * len(points) // count]


def _path(points: list[tuple[float, float]], across: _Axis, up: _Axis) -> str:
    return "M" + "L".join(f"{across.at(px):g} {up.at(py):g}" for px, py in points)


def _told(points: list[tuple[float, float]]) -> str:
    values = [py for _, py in points]
    ends = f"from {number(values[0])} to {number(values[-1])}"
    return f"{ends}, between {number(min(values))} and {number(max(values))}"


def _frame(across: _Axis, up: _Axis, x: str, y: str) -> Markup:
    """Grid lines, ticks and the axes' names."""
    bottom, right = _HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in up.ticks():
        grid = Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, up.at(tick), right)
        text = Markup('<text class="tick end" x="{}" y="{}">{}</text>')
        parts += [grid, text.format(_LEFT - 6, up.at(tick) + 4, number(tick))]
    for tick in across.ticks():
        text = Markup('<text class="tick mid" x="{}" y="{}">{}</text>')
        parts.append(text.format(across.at(tick), bottom + 16, number(tick)))
    parts.append(Markup('<path class="base" d="M{} {}H{}"/>').format(_LEFT, bottom, right))
    name = Markup('<text class="axis end" x="{}" y="{}">{}</text>')
    parts.append(name.format(right, _HEIGHT - 6, x))
    upright = Markup('<text class="axis mid" transform="translate(11 {}) rotate(-90)">{}</text>')
    parts.append(upright.format((bottom + _TOP) / 2, y + (" (logarithmic)" if up.log else "")))
    return Markup("").join(parts)


def _legend(names: list[str]) -> Markup:
    """Below the chart, each name beside a piece of its line: dashes tell them apart where colours do not."""
    entry = Markup(
        '<li><svg viewBox="0 0 28 8" width="28" height="8" aria-hidden="true">'
        '<path class="line {}" d="M1 4H27"/></svg>{}</li>'
    )
    return Markup('<ul class="legend">{}</ul>').format(
        Markup("").join(entry.format(_ink(index), name) for index, name in enumerate(names))
    )


# ---- bars ----------------------------------------------------------------------------------------------


def _bar(name: str, value: float, index: int, across: _Axis) -> Markup:
    top = index * _ROW
    text = Markup('<text class="name end" x="{}" y="{}">{}<title>{}</title></text>').format(
        _NAMES - 8, top + 14, name if len(name) <= 18 else f"{name[:17]}…", name
    )
    drawn = _drawable(value, across.log)
    shown = number(value) if math.isfinite(value) else "not finite"
    end = across.at(value) if drawn else across.start
    bar = Markup('<path class="bar" d="M{} {}h{}v{}h-{}z"/>').format(
        _NAMES, top + 4, f"{end - _NAMES:.1f}", _ROW - 7, f"{end - _NAMES:.1f}"
    )
    label = Markup('<text class="tick" x="{}" y="{}">{}</text>').format(end + 5, top + 14, shown)
    return text + (bar if drawn else Markup("")) + label


def _drawable(value: float, log: bool) -> bool:
    return (_TINY if log else 0) <= value < _HUGE


# ---- axes ----------------------------------------------------------------------------------------------


def _figure(
    height: float, title: str, described: str, content: Markup, legend: Markup | None = None
) -> Markup:
    return Markup(
        '<figure class="chart"><figcaption>{title}</figcaption>'
        '<svg role="img" viewBox="0 0 {width} {height}" aria-label="{title}: {described}">'
        "<desc>{described}</desc>{content}</svg>{legend}</figure>"
    ).format(
        title=title, described=described, width=WIDTH, height=height, content=content, legend=legend or ""
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Least and largest, a little apart where they are equal."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high), 1e-12)
    apart = size * 0.5 if high - low <= size * 1e-9 else 0.0
    return low - apart, high + apart


def _rounded(low: float, high: float) -> tuple[float, float]:
    """``low`` and ``high`` moved outwards to round values; 0 where it is near."""
    if 0 < low < high / 3:
        low = 0.0
    step = _round_step((high - low) / 4)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around ``values``, all above 0."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, the next one above ``rough`` > 0."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
