"""The plots of a run and of a Fisher, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fsgen.atomic import atomic
from fsgen.errors import FsgenError
from fsgen.io.cache_folders import make_folder


def check(path: Path) -> None:
    """Refuse a name that no plot can be written to; called early, it saves the work before.

    Raises:
        FsgenError: not a ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise FsgenError(f"plots are written as PNG, not as {path.name}", hint=f"try {path.stem}.png")


def losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Losses of both players over the steps or, without a critic, all terms, which differ by orders."""
    figure, axes = _figure("step", "loss")
    shown = {"d": "discriminator", "g": "generator"}
    if "d" not in history[0]:
        shown = {name: name for name in history[0] if name != "step"}
        axes.set_yscale("log")
    for name, label in shown.items():
        _line(axes, history, name, label)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    _save(figure, path)


def penalty(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """The EWC penalty, lambda times the weighted squared drift, over the steps."""
    figure, axes = _figure("step", "EWC penalty")
    _line(axes, history, "ewc", "")
    _save(figure, path)


def by_layer(values: Mapping[str, float], path: Path, label: str, *, log: bool = False) -> None:
    """One bar a layer, first to last."""
    figure, axes = _figure("", label)
    axes.bar(range(len(values)), list(values.values()), color="#4c6ef5")
    axes.set_xticks(range(len(values)), list(values), rotation=70, ha="right", fontsize=7)
    if log:
        axes.set_yscale("log")
    _save(figure, path)


def _figure(x: str, y: str) -> tuple[Any, Any]:
    # The object interface: no global state, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x), axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _line(axes: Any, history: Sequence[Mapping[str, float]], name: str, label: str) -> None:
    points = [(line["step"], line[name]) for line in history if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)


def _save(figure: Any, path: Path) -> None:
    check(path)
    make_folder(path.parent)
    with atomic(path) as temporary:
        figure.savefig(temporary)
