"""Learning curves as PNG files: over env steps and over seconds."""

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

from branchax.config import decisive
from branchax.runs import rundir, runlog
from branchax.runs.runlog import Row
from branchax.runs.statistics import bootstrap, interquartile_mean

# Okabe and Ito's colours, told apart with any kind of colour vision; dashes help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


class Group(NamedTuple):
    """Runs that differ in their seeds alone."""

    label: str
    world: str
    seeds: list[list[Row]]  # rows of each seed


class Line(NamedTuple):
    """One quantity of a group."""

    x: np.ndarray  # [T]
    seeds: np.ndarray  # [K, T]
    middle: np.ndarray  # [T], the interquartile mean
    low: np.ndarray  # [T], of its bootstrap interval
    high: np.ndarray  # [T]


def curve(run_dirs: Iterable[str | Path], path: str | Path, seconds: bool = False) -> None:
    """Draws evaluation return, and model error where there is one, over env steps (or `seconds`); writes a PNG.

    Runs that differ in their seeds alone are one curve: their interquartile mean, a band for its 95 % bootstrap
    interval (`statistics`) and a thin line per seed. A single seed has a band of ± 1 standard deviation over its
    evaluation episodes instead.
    """
    found = groups([Path(d) for d in run_dirs])
    every_row = [row for group in found for rows in group.seeds for row in rows]
    has_model = any(row.get(runlog.MODEL_ERROR) is not None for row in every_row)
    figure = Figure(figsize=(7.5, 6.0 if has_model else 4.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + has_model, 1, sharex=True, squeeze=False, height_ratios=(3, 1.5)[: 1 + has_model])[:, 0]
    for i, group in enumerate(found):
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        add(axes[0], group, runlog.RETURN, look, seconds, name=f"{group.label}: " if len(found) > 1 else "")
        if has_model:
            add(axes[1], group, runlog.MODEL_ERROR, look, seconds)
    figure.suptitle(", ".join(sorted({group.world for group in found})), fontsize=12, x=0.01, ha="left")
    tidy(axes[0], "return of an episode")
    if axes[0].lines and len(found) == 1:
        axes[0].legend(frameon=False, fontsize=9, loc="best")
    elif axes[0].lines:  # above the curves: there is no free corner among many
        many = max(len(group.seeds) for group in found) > 1
        axes[0].legend(
            frameon=False,
            fontsize=8,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=2,
            title=f"bands: {INTERVAL}, thin: each seed" if many else f"bands: {EPISODES}",
            title_fontsize=8,
            alignment="left",
        )
    if has_model:
        axes[1].set_yscale("log")
        axes[1].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes[1].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes[1].yaxis.set_minor_formatter(NullFormatter())
        tidy(axes[1], "model's holdout error\n(share of variance)")
    offline = any(runlog.OFFLINE in row for row in every_row)
    steps = "steps of training offline" if offline else "env steps"
    axes[-1].set_xlabel("seconds, with compilation" if seconds else steps)
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[-1].set_xlim(left=0)
    save(figure, Path(path))


INTERVAL = "95 % bootstrap interval"
EPISODES = "± 1 SD over the episodes of an evaluation"


def groups(run_dirs: Sequence[Path]) -> list[Group]:
    """The runs, those that differ in their seeds alone as one."""
    found: dict[str, Group] = {}
    for directory in run_dirs:
        config = rundir.load_config(directory)
        rows = runlog.read(directory / rundir.METRICS)
        label = re.sub(r"_s\d+(-\d+)?_\d+$", "", directory.resolve().name)
        alike = repr(decisive(config) | {"seed": None, "seeds": None})
        group = found.setdefault(alike, Group(label, config.world, []))
        group.seeds.extend(
            [row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})
        )
    return list(found.values())


def line(group: Group, what: str, seconds: bool = False) -> Line | None:
    """A metric of a group over env steps or seconds; None when no step has it for all seeds.

    Over env steps only those count that all seeds have. Seconds differ from seed to seed, so each seed's curve is read
    off, between its rows, at as many times from when all had begun to when the first was done.
    """
    found = [[row for row in rows if row.get(what) is not None] for rows in group.seeds]
    if not found or not all(found):
        return None
    ys = [np.array([float(row[what]) for row in rows]) for rows in found]
    if seconds:
        xs = [np.array([row["wall_s"] for row in rows]) for rows in found]
        first, last = max(x[0] for x in xs), min(x[-1] for x in xs)
        x = xs[0] if len(xs) == 1 else np.linspace(first, last, max(map(len, xs)))
        values = np.stack([np.interp(x, at, y) for at, y in zip(xs, ys, strict=True)]) if first <= last else None
    else:
        xs = [np.array([runlog.clock(row) for row in rows]) for rows in found]
        x = np.array(sorted(set.intersection(*(set(at.tolist()) for at in xs))))
        values = np.stack([y[np.isin(at, x)] for at, y in zip(xs, ys, strict=True)]) if x.size else None
    if values is None:
        return None
    if len(values) == 1:
        return Line(x, values, values[0], values[0], values[0])
    return Line(x, values, interquartile_mean(values), *bootstrap(interquartile_mean, values))


def add(
    axes: Axes, group: Group, what: str, look: dict[str, Any], seconds: bool = False, name: str | None = None
) -> None:
    """Middle, seeds (thin) and (when there is a `name` to say what it is) the band of one group."""
    found = line(group, what, seconds)
    if found is None:
        return
    many, low, high = len(found.seeds) > 1, found.low, found.high
    for y in found.seeds if many else []:
        axes.plot(found.x, y, color=look["color"], linewidth=0.6, alpha=0.4)
    if name is not None and not many:
        spread = [row.get(runlog.RETURN_SPREAD) or 0.0 for row in group.seeds[0] if row.get(what) is not None]
        low, high = found.middle - spread, found.middle + spread
    if name is not None:
        # Among several curves the legend has no room for a line per band: its title says what they are.
        band = None if name else INTERVAL if many else EPISODES
        axes.fill_between(found.x, low, high, color=look["color"], alpha=0.18, linewidth=0, label=band)
    centre = f"interquartile mean of {len(found.seeds)} seeds" if many else f"seed {group.seeds[0][0]['seed']}"
    label = None if name is None else f"{name}{centre}"
    marker = "o" if len(found.x) < 3 else None
    axes.plot(found.x, found.middle, **look, linewidth=2.0, marker=marker, label=label)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, and its folder if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def tidy(axes: Axes, label: str) -> None:
    """The look of all panels, and what their height is."""
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
