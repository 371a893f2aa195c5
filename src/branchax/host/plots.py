"""Learning curves as PNG files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from branchax.config import to_dict
from branchax.host import rundir, runlog
from branchax.host.runlog import Row

# Okabe and Ito's colours, told apart with any kind of colour vision; dashes help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


class Group(NamedTuple):
    """Runs that differ in their seeds alone."""

    label: str
    world: str
    seeds: list[list[Row]]  # rows of each seed


def curve(run_dirs: Iterable[str | Path], path: str | Path) -> None:
    """Draws evaluation return, and model error where there is one, over env steps; writes a PNG.

    Runs that differ in their seeds alone are one curve: their mean, a band from the lowest to the highest seed and a
    thin line per seed. A single seed has a band of ± 1 standard deviation over its evaluation episodes instead.
    """
    groups = _groups([Path(d) for d in run_dirs])
    every_row = [row for group in groups for rows in group.seeds for row in rows]
    has_model = any(row.get(runlog.MODEL_ERROR) is not None for row in every_row)
    figure = Figure(figsize=(7.5, 6.0 if has_model else 4.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + has_model, 1, sharex=True, squeeze=False, height_ratios=(3, 1.5)[: 1 + has_model])[:, 0]
    for i, group in enumerate(groups):
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        _draw(axes[0], group, runlog.RETURN, look, name=f"{group.label}: " if len(groups) > 1 else "")
        if has_model:
            _draw(axes[1], group, runlog.MODEL_ERROR, look)
    figure.suptitle(", ".join(sorted({group.world for group in groups})), fontsize=12, x=0.01, ha="left")
    _tidy(axes[0], "return of an episode")
    if axes[0].lines and len(groups) == 1:
        axes[0].legend(frameon=False, fontsize=9, loc="best")
    elif axes[0].lines:  # above the curves: there is no free corner among many
        bands = "lowest to highest seed" if max(len(group.seeds) for group in groups) > 1 else "± 1 SD over episodes"
        axes[0].legend(
            frameon=False,
            fontsize=8,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=2,
            title=f"bands: {bands}",
            title_fontsize=8,
            alignment="left",
        )
    if has_model:
        axes[1].set_yscale("log")
        axes[1].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes[1].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes[1].yaxis.set_minor_formatter(NullFormatter())
        _tidy(axes[1], "model's holdout error\n(share of variance)")
    offline = any(runlog.OFFLINE in row for row in every_row)
    axes[-1].set_xlabel("steps of training offline" if offline else "env steps")
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[-1].set_xlim(left=0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _groups(run_dirs: Sequence[Path]) -> list[Group]:
    groups: dict[str, Group] = {}
    for directory in run_dirs:
        config = rundir.load_config(directory)
        rows = runlog.read(directory / rundir.METRICS)
        label = re.sub(r"_s\d+(-\d+)?_\d+$", "", directory.resolve().name)
        alike = repr(to_dict(config) | {"seed": None, "seeds": None})
        group = groups.setdefault(alike, Group(label, config.world, []))
        group.seeds.extend(
            [row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})
        )
    return list(groups.values())


def _draw(axes: Axes, group: Group, what: str, look: dict[str, Any], name: str | None = None) -> None:
    """Mean, seeds and (when there is a `name` to say what it is) the band of one group."""
    found = [[row for row in rows if row.get(what) is not None] for rows in group.seeds]
    lines = [(np.array([runlog.clock(row) for row in rows]), np.array([row[what] for row in rows])) for rows in found]
    shared = set.intersection(*(set(x.tolist()) for x, _ in lines)) if lines else set()
    if not shared:
        return
    steps = np.array(sorted(shared))
    values = np.stack([y[np.isin(x, steps)] for x, y in lines])  # [K, T]
    mean, many, colour = values.mean(0), len(lines) > 1, look["color"]
    low, high = values.min(0), values.max(0)
    for x, y in lines if many else []:
        axes.plot(x, y, **look, linewidth=0.7, alpha=0.5)
    if name is not None and not many:
        spread = np.array([row.get(runlog.RETURN_SPREAD) or 0.0 for row in found[0]])
        low, high = mean - spread, mean + spread
    if name is not None:
        band = "lowest to highest seed" if many else "± 1 SD over the episodes of an evaluation"
        # Among several curves the legend has no room for a line per band: its title says what they are.
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0, label=None if name else band)
    centre = f"mean of {len(lines)} seeds" if many else f"seed {group.seeds[0][0]['seed']}"
    label = None if name is None else f"{name}{centre}"
    axes.plot(steps, mean, **look, linewidth=2.0, marker="o" if len(steps) < 3 else None, label=label)


def _tidy(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
