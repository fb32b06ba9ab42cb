"""Plots of a run and of Fisher information, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fsgen.atomic import atomic
from fsgen.errors import Code, FsgenError
from fsgen.io.cache_folders import make_folder


def check_file(path: Path) -> None:
    """Refuse a file name that no plot can be written to; called before the work.

    Raises:
        FsgenError: not a ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise FsgenError(
            f"plots are written as PNG, not as {path.name}",
            code=Code.UNSUPPORTED, where=path, hint=f"try {path.stem}.png",
        )  # fmt: skip


def losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Losses of both networks over the steps or, without a discriminator, all terms on a logarithmic axis."""
    canvas, axes = _axes("step", "loss")
    shown = {"d": "discriminator", "g": "generator"}
    if "d" not in history[0]:
        shown = {name: name for name in history[0] if name != "step"}
        axes.set_yscale("log")
    for name, label in shown.items():
        _line(axes, history, name, label)
    canvas.legend(loc="outside upper right", ncols=2, frameon=False)
    _save(canvas, path)


def penalty(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """The EWC penalty, lambda times the weighted squared drift, over the steps."""
    canvas, axes = _axes("step", "EWC penalty")
    _line(axes, history, "ewc", "")
    _save(canvas, path)


def by_layer(values: Mapping[str, float], path: Path, label: str, *, log: bool = False) -> None:
    """A bar for each layer, first to last."""
    canvas, axes = _axes("", label)
    axes.bar(range(len(values)), list(values.values()), color="#4c6ef5")
    axes.set_xticks(range(len(values)), list(values), rotation=70, ha="right", fontsize=7)
    if log:
        axes.set_yscale("log")
    _save(canvas, path)


def _axes(x: str, y: str) -> tuple[Any, Any]:
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


def _save(canvas: Any, path: Path) -> None:
    check_file(path)
    make_folder(path.parent)
    with atomic(path) as temporary:
        canvas.savefig(temporary)
