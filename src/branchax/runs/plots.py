"""Learning curves as PNG files: over env steps and over seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from branchax.runs import runlog
from branchax.runs.comparing import Group, groups
from branchax.runs.runlog import Row
from branchax.runs.statistics import bootstrap, interquartile_mean

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; dashes help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


class Line(NamedTuple):
    """One quantity of a group."""

    x: np.ndarray  # [T]
    seeds: np.ndarray  # [K, T], of the seeds with this quantity; NaN before a seed's first value and after its last
    middle: np.ndarray  # [T], the interquartile mean
    low: np.ndarray  # [T], of its bootstrap interval
    high: np.ndarray  # [T]


def curve(
    run_dirs: Iterable[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    seconds: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> None:
    """Draws evaluation return, and model error where there is one, over env steps (or `seconds`); writes a PNG.

    Runs that differ only in their seeds form one curve: their interquartile mean, a band for its 95 % bootstrap
    interval (`statistics`) and a thin line per seed. For a single seed, the band is ± 1 standard deviation over its
    evaluation episodes. Each world has its own panel. `say` gets the messages of `comparing.groups`.
    """
    found = groups([Path(d) for d in run_dirs], say)
    worlds = list(dict.fromkeys(group.world for group in found))
    has_model = any(row.get(runlog.MODEL_ERROR) is not None for row in _rows(found))
    width = 7.5 if len(worlds) == 1 else 5.5 * len(worlds)
    figure = Figure(figsize=(width, 6.0 if has_model else 4.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    heights = (3, 1.5)[: 1 + has_model]
    panels = figure.subplots(len(heights), len(worlds), sharex="col", squeeze=False, height_ratios=heights)
    for column, world in enumerate(worlds):
        here = [group for group in found if group.world == world]
        _panel(list(panels[:, column]), here, seconds, heading=world if len(worlds) > 1 else "")
    if len(worlds) == 1:
        figure.suptitle(as_text(worlds[0]), fontsize=12, x=0.01, ha="left")
    save(figure, Path(path))


FEW = 5  # of three seeds a bootstrap interval holds the truth in 63 to 75 of 100 cases (`experiments.coverage`)


def interval_of(seeds: int) -> str:
    """What a band over so many seeds is."""
    return "95 % bootstrap interval" if seeds >= FEW else f"bootstrap interval, too narrow for {seeds} seeds"


EPISODES = "± 1 SD over the episodes of an evaluation"


def _rows(found: list[Group]) -> list[Row]:
    return [row for group in found for rows in group.seeds for row in rows]


def _panel(axes: list[Axes], found: list[Group], seconds: bool, heading: str) -> None:
    """Draws the groups of one world: returns on the first axes, and the model's error on the second, if there is one.

    The `heading` names the world if there are several panels.
    """
    for i, group in enumerate(found):
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        add(axes[0], group, runlog.RETURN, look, seconds, name=f"{group.label}: " if len(found) > 1 else "")
        for below in axes[1:]:
            add(below, group, runlog.MODEL_ERROR, look, seconds)
    tidy(axes[0], "return of an episode")
    if len(found) == 1 or not axes[0].lines:
        axes[0].set_title(as_text(heading), fontsize=12, loc="left")
        if axes[0].lines:
            axes[0].legend(frameon=False, fontsize=9, loc="best")
    else:  # above the curves: many curves leave no free corner
        counts = [len(group.seeds) for group in found if len(group.seeds) > 1]
        bands = f"{interval_of(min(counts))}, thin: each seed" if counts else EPISODES
        axes[0].legend(
            frameon=False,
            fontsize=8,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=1 if heading else 2,
            title=as_text(f"{heading}\nbands: {bands}".lstrip()),
            title_fontsize=8,
            alignment="left",
        )
    for below in axes[1:]:
        below.set_yscale("log")
        below.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        below.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        below.yaxis.set_minor_formatter(NullFormatter())
        tidy(below, "model's holdout error\n(share of variance)")
    offline = any(runlog.OFFLINE in row for row in _rows(found))
    steps = "steps of training offline" if offline else "env steps"
    axes[-1].set_xlabel("seconds, with compilation" if seconds else steps)
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[-1].set_xlim(left=0)


def line(group: Group, what: str, seconds: bool = False) -> Line | None:
    """A metric of a group over env steps or seconds, each seed as far as it has come; None when no row has it.

    The curve of a seed is interpolated between its rows. Over env steps, it is read at each step that any seed has.
    Seconds differ from seed to seed, so there it is read at evenly spaced times: as many as the longest seed has rows,
    from the time when all seeds had begun to the end.
    """
    found = [rows for rows in ([row for row in rows if row.get(what) is not None] for rows in group.seeds) if rows]
    if not found:
        return None
    ys = [np.array([float(row[what]) for row in rows]) for rows in found]
    if seconds:
        xs = [np.array([row["wall_s"] for row in rows]) for rows in found]
        first, last = max(x[0] for x in xs), max(x[-1] for x in xs)
        x = xs[0] if len(xs) == 1 else np.linspace(first, last, max(map(len, xs)))
    else:
        xs = [np.array([runlog.clock(row) for row in rows]) for rows in found]
        x = np.unique(np.concatenate(xs))
    values = np.stack([np.interp(x, at, y, left=np.nan, right=np.nan) for at, y in zip(xs, ys, strict=True)])
    return Line(x, values, *_middle(values))


def _middle(values: np.ndarray) -> np.ndarray:
    """The interquartile mean and its interval [3, T] over the seeds [K, T] that have a value at each time."""
    there = ~np.isnan(values)
    found = np.full((3, values.shape[1]), np.nan)
    for seeds in np.unique(there, axis=1).T:
        at = (there == seeds[:, None]).all(0)
        part = values[seeds][:, at]
        if len(part) == 1:
            found[:, at] = part
        elif len(part):
            found[:, at] = interquartile_mean(part), *bootstrap(interquartile_mean, part)
    return found


def add(
    axes: Axes, group: Group, what: str, look: dict[str, Any], seconds: bool = False, name: str | None = None
) -> None:
    """Draws the middle and the seeds (thin) of one group; also the band, if there is a `name` for the legend."""
    found = line(group, what, seconds)
    if found is None:
        return
    many, low, high = len(found.seeds) > 1, found.low, found.high
    for y in found.seeds if many else []:
        axes.plot(found.x, y, color=look["color"], linewidth=0.6, alpha=0.4)
    mine = [row for rows in group.seeds for row in rows if row.get(what) is not None]
    if name is not None and not many:
        spread = [row.get(runlog.RETURN_SPREAD) or 0.0 for row in mine]
        low, high = found.middle - spread, found.middle + spread
    if name is not None:
        # With several curves, the legend has no room for one line per band: its title explains the bands.
        band = None if name else interval_of(len(found.seeds)) if many else EPISODES
        axes.fill_between(found.x, low, high, color=look["color"], alpha=0.18, linewidth=0, label=band)
    centre = f"interquartile mean of {len(found.seeds)} seeds" if many else f"seed {mine[0]['seed']}"
    if (left := int((~np.isnan(found.seeds[:, -1])).sum())) < len(found.seeds):
        centre += f" ({left} to the end)"
    marker = "o" if len(found.x) < 3 else None
    axes.plot(
        found.x,
        found.middle,
        **look,
        linewidth=2.0,
        marker=marker,
        label=None if name is None else as_text(f"{name}{centre}"),
    )


def as_text(label: str) -> str:
    """Escapes a label for Matplotlib, where dollar signs start a formula and a leading underscore hides the label."""
    shown = label.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG; makes its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def tidy(axes: Axes, label: str) -> None:
    """Sets the style of a panel and the label of its y axis."""
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
