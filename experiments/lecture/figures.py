"""The look of the claims' figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from branchax.runs.plots import COLOURS

WIDTH = 3.3  # inches, a column of a paper
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.title_fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler(color={list(COLOURS)})",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "lines.linewidth": 1.4,
}


def save(path: Path, heights: Sequence[float], fill: Callable[..., None], above: float = 0.0) -> None:
    """A figure of one column, a panel under the other: `fill(*axes)` draws; `heights`, and what a legend takes `above`
    them, are inches."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights) + above), layout="constrained", dpi=220)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=list(heights))[:, 0]
        fill(*axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def line(
    axes: Axes, x: Any, curve: dict[str, list[float]], label: str, colour: int, dashes: Any = "-", mark: str = ""
) -> None:
    """A curve with its band, whose edges are drawn so that bands can be told apart where they overlap."""
    axes.plot(x, curve["centre"], linestyle=dashes, marker=mark, markersize=3, color=COLOURS[colour], label=label)
    axes.fill_between(x, curve["low"], curve["high"], color=COLOURS[colour], alpha=0.15, linewidth=0)
    for edge in ("low", "high"):
        axes.plot(x, curve[edge], color=COLOURS[colour], linewidth=0.5, alpha=0.6)


def whiskers(axes: Axes, x: Any, found: Sequence[Sequence[float]], label: str, colour: int, mark: str) -> None:
    """Numbers with their intervals as bars, joined by a line."""
    value, low, high = np.array([f[:3] for f in found], float).T
    bars = np.maximum([value - low, high - value], 0)
    axes.errorbar(x, value, bars, fmt=f"{mark}-", color=COLOURS[colour], label=label, markersize=3.5, capsize=2)


def legend(axes: Axes, title: str, ncols: int = 1) -> None:
    """What is drawn in `axes`, above the whole figure."""
    axes.get_figure(root=True).legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", title=title, ncols=ncols, alignment="left"
    )
