"""A diagnosis (`diagnose`) as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from branchax.runs.plots import COLOURS, DASHES, save, tidy
from branchax.views.diagnose import Found

TRUE, PREDICTED, MEMBER, STILL = COLOURS[0], COLOURS[1], COLOURS[4], "0.5"
LINES = 8  # how many entries of an observation one panel can show clearly


def draw(found: Found, directory: Path) -> list[Path]:
    """Draws all parts of a diagnosis into a folder; returns the files."""
    made = []
    for name, (part, picture) in PICTURES.items():
        if found.get(part) is not None and not (name == "imagined_returns.png" and "imagined" not in found[part]):
            figure = picture(found)
            figure.suptitle(f"{found['world']}, seed {found['seed']}, {found['env_steps']:,} env steps", **TITLE)
            save(figure, directory / name)
            made.append(directory / name)
    return made


TITLE = {"fontsize": 11, "x": 0.01, "ha": "left"}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def _open_loop(found: Found) -> Figure:
    part, figure = found["open_loop"], _figure(7.5, 4.4)
    axes, steps = figure.subplots(), np.array(part["steps"])
    errors = np.array(part["error"], float)
    for i, name in enumerate(part["names"][:LINES]):
        look: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i % len(DASHES)],
            "linewidth": 1.2,
        }
        axes.plot(steps, errors[:, i], label=name, **look)
    if not part["tabular"]:
        low, middle, high = np.array(part["quantiles"], float).T
        axes.fill_between(steps, low, high, color="0.2", alpha=0.15, linewidth=0, label="all: middle half")
        axes.plot(steps, middle, color="0.2", linewidth=2.2, label="all: median")
    axes.plot(steps, part["still"], color=STILL, linestyle=":", linewidth=1.8, label="if nothing changed")
    axes.set_xlabel("steps ahead, along recorded actions")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if part["tabular"]:
        tidy(axes, "share of wrong states")
    else:
        if max(part["all"]) > 0:
            axes.set_yscale("log")
        tidy(axes, "root mean square error\n(standard deviations of the data)")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _example(found: Found) -> Figure:
    part, names = found["example"], found["names"][: len(found["example"]["start"])]
    true, mean, sampled = (np.array(part[name], float) for name in ("true", "mean", "sampled"))
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(7.5, 1.0 + 1.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    steps = np.arange(len(true) + 1)
    for i, name in enumerate(names):
        with_start = lambda y: np.concatenate([[part["start"][i]], y])  # noqa: B023, E731
        for j, member in enumerate(sampled):
            label = "sampled, one per elite" if j == 0 else None
            panels[i].plot(steps, with_start(member[:, i]), color=MEMBER, linewidth=0.9, label=label)
        panels[i].plot(steps, with_start(true[:, i]), color=TRUE, linewidth=2.2, label="what happened")
        panels[i].plot(steps, with_start(mean[:, i]), color=PREDICTED, linestyle="--", linewidth=1.6, label="predicted")
        tidy(panels[i], "")
        panels[i].set_title(name, fontsize=9, loc="left")
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(names) - columns) : len(names)]:
        panel.set_xlabel("steps ahead, along recorded actions")
        panel.tick_params(labelbottom=True)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    looks = panels[0].get_legend_handles_labels()
    figure.legend(*looks, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _calibration(found: Found) -> Figure:
    part, figure = found["calibration"], _figure(5.6, 4.4)
    axes, levels = figure.subplots(), np.array(part["levels"])
    axes.plot([0, 1], [0, 1], color=STILL, linewidth=1.0)
    names = part["names"]
    shown = [*range(min(len(names) - 1, LINES - 1)), len(names) - 1]  # the reward is the last
    for i, entry in enumerate(shown):
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        axes.plot(levels, part["share"][entry], label=names[entry], linewidth=1.6, **look)
    axes.set_xlabel("predicted quantile, one step ahead")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    tidy(axes, "share of true values below it")
    axes.set_title(f"mean gap {part['ece']:.3f}; {part['inside']:.0%} inside the middle 90 %", fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _map(found: Found) -> Figure:
    part, figure = found["map"], _figure(6.2, 4.6)
    axes = figure.subplots()
    if part["tabular"]:
        rows, columns = (1 + max(cell[i] for cell in part["cells"]) for i in (0, 1))
        grid = np.full((rows, columns), np.nan)
        for (i, j), value in zip(part["cells"], part["doubt"], strict=True):
            grid[i, j] = value
        drawn = axes.imshow(grid, cmap="cividis", vmin=0.0, vmax=1.0)
        axes.set(xticks=[], yticks=[])
        figure.colorbar(drawn, label="share of actions never tried")
        return figure
    drawn = axes.pcolormesh(part["x"], part["y"], np.array(part["doubt"], float), cmap="cividis", shading="nearest")
    u, v = np.array(part["data"]).T
    axes.plot(u, v, ".", color="white", markersize=2.5, markeredgewidth=0.0, alpha=0.7)
    axes.set(xlabel=part["names"][0], ylabel=part["names"][1])
    axes.set_title("dots: real states, projected onto the slice", fontsize=9, loc="left")
    figure.colorbar(drawn, label="disagreement of the elites\n(standard deviations of the targets)")
    return figure


def _identity(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    both = np.concatenate([x, y])
    ends = [both.min(), both.max()]
    axes.plot(ends, ends, color=STILL, linewidth=1.0)


def _returns(found: Found) -> Figure:
    part, figure = found["returns"], _figure(5.2, 4.4)
    axes, real, imagined = figure.subplots(), np.array(part["real"], float), np.array(part["imagined"], float)
    _identity(axes, real, imagined.ravel())
    axes.vlines(real, imagined.min(0), imagined.max(0), color=MEMBER, linewidth=1.2, label="lowest to highest elite")
    axes.plot(real, imagined.mean(0), "o", color=TRUE, markersize=5, label="mean of the elites")
    axes.set_xlabel("real return")
    tidy(axes, "imagined return")
    title = f"the policy's mode, from the same starts, first {part['steps']:,} steps"
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _critic(found: Found) -> Figure:
    part, figure = found["critic"], _figure(5.2, 4.4)
    axes = figure.subplots()
    actual, predicted = np.array(part["actual"], float), np.array(part["predicted"], float)
    if len(actual):
        _identity(axes, actual, predicted)
    axes.plot(actual, predicted, ".", color=TRUE, markersize=4, alpha=0.6)
    soft = ", with the bonus for entropy" if part["soft"] else ""
    axes.set_xlabel(f"discounted return that followed{soft}")
    tidy(axes, "predicted (mean of the critics)")
    if len(actual):
        title = f"predicted minus actual: {part['bias']:.3g} on average; discount {part['discount']:g}"
        axes.set_title(title, fontsize=9, loc="left")
    return figure


def _time(found: Found) -> Figure:
    part = found["phases"]
    seconds, names = np.array(part["seconds"], float), part["names"]
    figure = _figure(6.2, 1.4 + 0.42 * len(names))
    axes, share, rows = figure.subplots(), 100 * seconds / seconds.sum(), np.arange(len(names))
    axes.barh(rows, share, height=0.62, color=[TRUE if name not in ON_HOST else STILL for name in names])
    for row, width, taken in zip(rows, share, seconds, strict=True):
        axes.annotate(f"{width:.1f} %, {taken:.3g} s", (width, row), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 130)  # room for the text next to the longest bar
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("share of an epoch's time [%] (grey: between epochs)")
    tidy(axes, "")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    with_others = "" if part["seeds"] == 1 else f", {part['seeds']} seeds at once"
    own = "" if part["run"] is None else f"; the run's own took {part['run']:.3g} s{with_others}"
    title = f"{seconds.sum():.3g} s for {part['epoch_steps']:,} env steps of one seed alone{own}"
    axes.set_title(title, fontsize=9, loc="left")
    return figure


ON_HOST = ("evaluate", "save")
PICTURES: dict[str, tuple[str, Callable[[Found], Figure]]] = {
    "open_loop_error.png": ("open_loop", _open_loop),
    "predicted_and_true.png": ("example", _example),
    "calibration.png": ("calibration", _calibration),
    "disagreement.png": ("map", _map),
    "imagined_returns.png": ("returns", _returns),
    "critic.png": ("critic", _critic),
    "time.png": ("phases", _time),
}
