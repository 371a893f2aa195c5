"""The figure of a task: our curves and published ones, over env steps and over the clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from branchax.runs import plots
from branchax.runs.statistics import interquartile_mean
from experiments.published import table
from experiments.published.curves import Curve, Ours, Published
from experiments.published.plan import COUNTERPART

# A preset has the colour of the published method that it is the counterpart of.
_KNOWN = {"DHMBPO": 0, "MBPO": 1, "SAC": 2, "MACURA": 3, "CrossQ": 4, "XQC": 5}
MEAN_ALONE = 3  # of so many seeds or fewer the interquartile mean is the mean
LEAST_SHOWN = 30_000  # env steps, where there is something published


def colour_of(method: str, others: list[str]) -> str:
    """The colour of a published method, or of one of ours."""
    name = COUNTERPART.get(method, method)
    place = _KNOWN.get(name, 6 + (others.index(method) if method in others else 0))
    return plots.COLOURS[place % len(plots.COLOURS)]


def draw(task: str, arms: list[Ours], published: dict[str, Published], path: Path) -> None:
    """Writes the figure. Ours: solid, thin lines are seeds, the band is ± 1 SD over them; published: dashed.

    Variants of a preset are left to the tables, but for those that are the counterpart of a published method.
    """
    arms = [arm for arm in arms if "+" not in arm.method or arm.method in COUNTERPART]
    figure = Figure(figsize=(9.6, 5.0), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    over_steps, over_time = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    end = max([1.05 * arm.asked for arm in arms] + [LEAST_SHOWN] * bool(published))
    for method, curve in published.items():
        _add_published(over_steps, over_time, method, curve, end)
    others = [arm.method for arm in arms if arm.method not in COUNTERPART]
    colours = [colour_of(arm.method, others) for arm in arms]
    for i, arm in enumerate(arms):  # dashes are for published ones
        again = colours[:i].count(colours[i])
        _add_ours(over_steps, over_time, arm, colours[i], ("-", "-.", ":")[again % 3])
    plots.tidy(over_steps, "return of an episode")
    plots.tidy(over_time, "")
    over_steps.set(xlabel="env steps", xlim=(0, end))
    over_steps.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    over_time.set(xlabel="minutes, with compilation", xscale="log")
    over_time.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    over_time.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    over_time.xaxis.set_minor_formatter(NullFormatter())
    dotted = ", dotted their interquartile mean" * any(len(arm.seeds) > MEAN_ALONE for arm in arms)
    title = f"gym/{task}-v5: bands are ± 1 SD over seeds, thin lines ours{dotted}"
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    figure.legend(*over_steps.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    plots.save(figure, path)


def _add_published(over_steps: Axes, over_time: Axes, method: str, curve: Published, end: float) -> None:
    """The mean, with a band where deviations are those of seeds."""
    inside = int(np.sum(curve.steps <= end))
    if not inside:
        return
    seen = np.arange(len(curve.steps)) <= inside  # one point past the edge, so that the line leaves the panel
    look = {"color": colour_of(method, []), "linestyle": (0, (4, 2)), "linewidth": 1.2, "alpha": 0.9}
    seeds = "published mean" if curve.seeds is None else f"published, {curve.seeds} seeds"
    over_steps.plot(curve.steps[seen], curve.mean[seen], label=f"{method}, {seeds}", **look)
    known = seen & ~np.isnan(curve.sd)
    low, high = (curve.mean + sign * curve.sd for sign in (-1, 1))
    over_steps.fill_between(curve.steps[known], low[known], high[known], color=look["color"], alpha=0.07, linewidth=0)
    timed = seen & ~np.isnan(curve.wall_s)
    over_time.plot(curve.wall_s[timed] / 60, curve.mean[timed], **look)


def _add_ours(over_steps: Axes, over_time: Axes, arm: Ours, colour: str, dash: str) -> None:
    """Each seed thin; their mean and deviation as far as all of them are."""
    for curve in arm.seeds.values():
        over_steps.plot(curve.steps, curve.returns, color=colour, linewidth=0.6, alpha=0.45)
    steps, returns, wall_s = together(list(arm.seeds.values()))
    mean, count = returns.mean(0), len(arm.seeds)
    minutes = wall_s.mean(0) / 60
    partly = "" if arm.reached >= arm.asked else f", to {arm.reached:,} of {arm.asked:,} so far"
    seeds = f"{count} seed{'s' * (count > 1)}"
    label = f"{arm.method}, {seeds}: {minutes[-1]:.0f} min, {arm.where}{partly}{table.EARLIER * arm.earlier}"
    look = {"color": colour, "linestyle": dash, "linewidth": 2.2}
    over_steps.plot(steps, mean, label=label, marker="o" if len(steps) < 3 else None, **look)
    if count > 1:
        sd = returns.std(0, ddof=1)
        over_steps.fill_between(steps, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
    if count > MEAN_ALONE:
        over_steps.plot(steps, interquartile_mean(returns), color=colour, linestyle=":", linewidth=1.6)
    over_time.plot(minutes, mean, **look)


def together(seeds: list[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps [T] that all seeds have been evaluated at, returns [K, T] and seconds [K, T] there."""
    steps = np.array(sorted(set.intersection(*(set(curve.steps.tolist()) for curve in seeds))))
    pick = [np.isin(curve.steps, steps) for curve in seeds]
    returns, wall_s = (
        np.stack([getattr(curve, name)[mask] for curve, mask in zip(seeds, pick, strict=True)])
        for name in ("returns", "wall_s")
    )
    return steps, returns, wall_s
