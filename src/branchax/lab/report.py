"""Results of `branchax lab`: a table in the terminal, a JSON file, and a figure that shows where the curves cross."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from rich.table import Table

from branchax.lab.measure import TARGET, Level, Score, Truth, crossing
from branchax.runs import rundir, runlog

# Okabe and Ito's colours. Estimators of a family share a colour and differ in their dashes. Lines that often coincide
# have different widths; the widest is drawn first.
LOOKS: dict[str, tuple[str, str, float]] = {
    "pathwise": ("#0072B2", "-", 4.0),
    "pathwise_window": ("#56B4E9", "--", 1.6),
    "pathwise_critic": ("#56B4E9", ":", 1.6),
    "deterministic": ("#000000", ":", 1.6),
    "likelihood_total": ("#E69F00", ":", 1.6),
    "likelihood_to_go": ("#E69F00", "--", 1.6),
    "likelihood_baseline": ("#D55E00", "-", 4.0),
    "likelihood_gae": ("#D55E00", ":", 1.6),
    "finite_differences": ("#009E73", "-", 2.5),
    "evolution_strategies": ("#009E73", "--", 1.6),
    "inverse_variance": ("#CC79A7", "--", 1.6),
    "total_propagation": ("#CC79A7", "-", 1.6),
}
OTHER = ("0.4", "-.", 1.6)


# --- the table --------------------------------------------------------------------------------------------------------


def table(level: Level) -> Table:
    """One horizon, one row per estimator, cheapest first; 80 columns. `!` marks a bias above 3 standard errors."""
    made = Table(box=None, padding=(0, 1, 0, 0))
    made.add_column("estimator", no_wrap=True)
    for name in ("variance", "|bias| ± SE, %", "cosine", "SNR", "s/estimate", f"s to {TARGET:.0%}"):
        made.add_column(name, justify="right", no_wrap=True)
    cost = {n: math.inf if math.isnan(s.seconds_to_target) else s.seconds_to_target for n, s in level.scores.items()}
    for name in sorted(level.scores, key=lambda n: (cost[n], level.scores[n].variance)):
        s = level.scores[name]
        unit = 100 * s.bias_relative / s.bias if s.bias else math.nan
        bias = "?" if math.isnan(unit) else f"{'! ' * s.biased}{number(s.bias * unit)} ± {number(s.bias_error * unit)}"
        cosine = "?" if math.isnan(s.cosine) else f"{s.cosine:.2f}"
        lost = "" if s.nonfinite == 0 else f" ({s.nonfinite:.0%} not finite)"
        numbers = [number(x) for x in (s.variance, s.snr, s.seconds, s.seconds_to_target)]
        made.add_row(name, numbers[0], bias, cosine, numbers[1], numbers[2], numbers[3] + lost)
    return made


def heading(level: Level) -> str:
    """Describes the truth at a horizon."""
    truth = level.truth
    if truth.samples == 0 and truth.known:
        found = f"|truth| {number(truth.norm)}, in closed form"
    elif truth.known:
        found = (
            f"|truth| {number(truth.norm)} ± {truth.relative_error:.1%}: {truth.samples:,} samples of {truth.source}"
        )
    else:
        found = f"truth unknown after {truth.samples:,} samples of {truth.source}"
        found += f" (|mean| {number(float(np.linalg.norm(truth.gradient)))}, SE {number(truth.error)})"
    return f"horizon {level.horizon}   {found}" + (f"; {truth.note}" if truth.note else "")


def number(value: float) -> str:
    """Two digits; `?` for NaN (unknown), `never` for infinity."""
    if not math.isfinite(value):
        return "?" if math.isnan(value) else "never"
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def summary(levels: Sequence[Level]) -> list[str]:
    """Where the variances of pathwise and likelihood ratio cross, and the cheapest estimator at each horizon."""
    lines = []
    if all({"pathwise", "likelihood_baseline"} <= level.scores.keys() for level in levels):
        at = crossing(levels, "pathwise", "likelihood_baseline")
        which = [level.scores["pathwise"].variance < level.scores["likelihood_baseline"].variance for level in levels]
        if at is not None:
            lines.append(f"pathwise has less variance than likelihood_baseline up to a horizon of about {at:.0f}")
        else:
            lines.append(f"pathwise has {'less' if which[-1] else 'more'} variance than likelihood_baseline throughout")
    for level in levels:
        costs = {name: s.seconds_to_target for name, s in level.scores.items() if math.isfinite(s.seconds_to_target)}
        if costs:
            best = min(costs, key=lambda name: costs[name])
            lines.append(f"horizon {level.horizon:>4}: cheapest is {best}, {number(costs[best])} s to {TARGET:.0%}")
    return lines


# --- the file ---------------------------------------------------------------------------------------------------------


def write(path: Path, levels: Sequence[Level], facts: dict[str, Any]) -> None:
    """Writes the levels and further facts. NaN is written as null, infinity as "inf" or "-inf"."""
    rows = [
        {
            "horizon": level.horizon,
            "truth": {**level.truth._asdict(), "norm": level.truth.norm, "known": level.truth.known},
            "estimators": {name: s._asdict() for name, s in level.scores.items()},
            "left_out": level.left_out,
            "seconds": round(level.seconds, 3),
            "compile_seconds": round(level.compile_seconds, 3),
        }
        for level in levels
    ]
    rundir.write_json(path, runlog.plain({**facts, "levels": rows}, infinity=True))


def read(path: Path) -> tuple[list[Level], dict[str, Any]]:
    """The inverse of `write`."""
    facts = _back(json.loads(path.read_text(encoding="utf-8")))
    levels = []
    for row in facts.pop("levels"):
        truth = Truth(np.array(row["truth"]["gradient"], float), *(row["truth"][name] for name in Truth._fields[1:]))
        scores = {name: Score(**values) for name, values in row["estimators"].items()}
        levels.append(Level(row["horizon"], truth, scores, row["left_out"], row["seconds"], row["compile_seconds"]))
    return levels, facts


def _back(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _back(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_back(value) for value in data]
    return math.nan if data is None else float(data) if data in ("inf", "-inf") else data


# --- the figure -------------------------------------------------------------------------------------------------------


def draw(path: Path, levels: Sequence[Level], title: str) -> None:
    """Four panels over the horizon, one line style per estimator; writes a PNG.

    In the bias panel, a hollow marker means that noise alone explains the bias. Horizons without a truth show only the
    variance.
    """
    figure = Figure(figsize=(10.5, 7.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True)
    panels: list[tuple[Axes, str, str]] = [
        (axes[0, 0], "variance", "variance of a sample"),
        (axes[0, 1], "bias_relative", "|bias| / |truth|"),
        (axes[1, 0], "cosine", "cosine of an estimate to the truth"),
        (axes[1, 1], "seconds_to_target", f"seconds to a relative error of {TARGET:.0%}"),
    ]
    names = [name for name in LOOKS if any(name in level.scores for level in levels)]
    names += sorted({name for level in levels for name in level.scores} - set(names))
    for panel, field, label in panels:
        drawn = [_line(panel, levels, name, field) for name in names]
        panel.set_xscale("log")
        if field != "cosine" and any(drawn):
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(numticks=9))
        panel.set_title(label, fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks([level.horizon for level in levels], minor=False)
        panel.set_xticks([], minor=True)
    axes[0, 1].axhline(TARGET, color="0.6", linewidth=0.8)
    dot = {"color": "0.4", "marker": "o", "linestyle": "", "markersize": 4}
    kinds = [Line2D([], [], **dot, label="above 3 standard errors")]
    kinds += [Line2D([], [], **dot, fillstyle="none", label="explained by noise")]
    axes[0, 1].legend(handles=kinds, frameon=False, fontsize=8, loc="best")
    axes[1, 0].axhline(0.0, color="0.6", linewidth=0.8)
    axes[1, 0].set_ylim(top=1.05)
    at = crossing(levels, "pathwise", "likelihood_baseline")
    if at is not None:
        axes[0, 0].axvline(at, color="0.4", linewidth=0.8, linestyle=":")
        where, off = {"xycoords": ("data", "axes fraction")}, {"xytext": (-4, 2), "textcoords": "offset points"}
        note = f"pathwise and likelihood_baseline\ncross at {at:.0f}"
        axes[0, 0].annotate(note, (at, 0.0), fontsize=8, color="0.3", ha="right", va="bottom", **where, **off)
    for panel in axes[1]:
        panel.set_xlabel("horizon")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _line(panel: Axes, levels: Sequence[Level], name: str, field: str) -> bool:
    """Draws one estimator in one panel; unknown or infinite values leave a gap. Returns whether there are others."""
    colour, dashes, width = LOOKS.get(name, OTHER)
    found = [(level.horizon, level.scores[name]) for level in levels if name in level.scores]
    x = np.array([horizon for horizon, _ in found])
    y = np.array([getattr(s, field) for _, s in found], float)
    y = np.where(np.isfinite(y) & ((y > 0) | (field == "cosine")), y, np.nan)
    filled = np.array([field != "bias_relative" or s.biased for _, s in found])
    dots = {"color": colour, "marker": "o", "markersize": 3 + width / 2, "linestyle": ""}
    order = 3.0 - width / 10
    panel.plot(x, y, color=colour, linestyle=dashes, linewidth=width, label=name, zorder=order)
    panel.plot(x[~filled], y[~filled], **dots, markerfacecolor="white", zorder=order)
    panel.plot(x[filled], y[filled], **dots, zorder=order if field != "bias_relative" else 4.0)
    return bool(np.isfinite(y).any())
