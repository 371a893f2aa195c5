"""What the claims share: predictions with thresholds, verdicts, intervals, the look of figures, where results go.

A prediction names a number and a threshold, both written down before the number was known. The number is measured with
a 95 % interval, and the verdict follows from the interval alone:

    holds            all of it is on the predicted side of the threshold
    does not hold    all of it is on the other side
    undecided        the threshold lies inside, or the number is not finite

Quick settings write into `runs/lecture/`, full ones (`--full`) into `results/lecture/`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from branchax.config import Config, with_field
from branchax.devices import cache
from branchax.runs import statistics
from branchax.runs.plots import COLOURS
from experiments import harness

NAMES = ("jacobians", "estimators", "compounding", "horizon", "mismatch", "versions", "oracle")
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
WIDTH = 3.3  # inches, a column of a paper


class Prediction(NamedTuple):
    """A number that could come out either way."""

    words: str  # what is predicted, the threshold included
    threshold: float
    at_least: bool = True  # False: at most
    unit: str = ""


class Claim(NamedTuple):
    """A claim and what follows from it."""

    name: str
    title: str
    words: str
    intervals: str  # of what the intervals are
    predictions: dict[str, Prediction]
    note: str = ""  # what one has to know before one believes a verdict


class Measured(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


class Found(NamedTuple):
    """What a claim's runs gave."""

    measured: dict[str, Measured]  # by the prediction's name
    data: dict[str, Any]  # all that the figure shows; ready for JSON
    configs: dict[str, Config] = {}  # noqa: RUF012
    directories: list[Path] = []  # noqa: RUF012


def verdict(prediction: Prediction, measured: Measured) -> str:
    """`HOLDS`, `FAILS` or `UNDECIDED`."""
    if not all(math.isfinite(x) for x in measured):
        return UNDECIDED
    sign = 1 if prediction.at_least else -1
    low, high = sorted((sign * measured.low, sign * measured.high))
    if low >= sign * prediction.threshold:
        return HOLDS
    return FAILS if high < sign * prediction.threshold else UNDECIDED


# --- numbers ----------------------------------------------------------------------------------------------------------


def bootstrap(statistic: Callable[..., float], *groups: Any) -> Measured:
    """`statistic(*groups)` with its 95 % percentile bootstrap interval, each group [n, ...] resampled along its n."""
    arrays = [np.asarray(g, float) for g in groups]
    of = lambda *units: statistic(*(a[i] for a, i in zip(arrays, units, strict=True)))  # noqa: E731
    low, high = statistics.bootstrap(of, *(np.arange(len(a)) for a in arrays))
    return Measured(float(statistic(*arrays)), float(low), float(high))


def band(values: Any, statistic: Callable[..., Any] = np.mean) -> dict[str, list[float]]:
    """Centre and 95 % bootstrap band of curves [n, T] over the n units: {"centre", "low", "high"}, [T] each."""
    along = functools.partial(statistic, axis=0)
    values = np.asarray(values, float)
    low, high = statistics.bootstrap(along, values)
    return {"centre": along(values).tolist(), "low": low.tolist(), "high": high.tolist()}


iqm = functools.partial(statistics.interquartile_mean, axis=None)  # of five seeds the middle three


def changed(config: Config, **fields: object) -> Config:
    """`config` with fields replaced; `agent__tau` means `agent.tau`."""
    for name, value in fields.items():
        config = with_field(config, name.replace("__", "."), value)
    return config


# --- figures ----------------------------------------------------------------------------------------------------------

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


def whiskers(axes: Axes, x: Any, found: Sequence[Measured | list[float]], label: str, colour: int, mark: str) -> None:
    """Numbers with their intervals as bars, joined by a line."""
    value, low, high = np.array(found, float).T
    bars = np.maximum([value - low, high - value], 0)
    axes.errorbar(x, value, bars, fmt=f"{mark}-", color=COLOURS[colour], label=label, markersize=3.5, capsize=2)


def legend(axes: Axes, title: str, ncols: int = 1) -> None:
    """What is drawn in `axes`, above the whole figure."""
    axes.get_figure(root=True).legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", title=title, ncols=ncols, alignment="left"
    )


# --- results ----------------------------------------------------------------------------------------------------------


def folder(full: bool) -> Path:
    """Where a claim's results lie."""
    return harness.RESULTS / "lecture" if full else Path("runs") / "lecture"


def directory(claim: str, full: bool, name: str) -> str:
    """The name of a run's directory under `runs/experiments/`."""
    return f"lecture-{claim}/{'full' if full else 'quick'}_{name.replace('/', '-')}"


def read(claim: str, full: bool) -> dict[str, Any] | None:
    """A claim's results, or None where it has not been run."""
    path = folder(full) / f"{claim}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def publish(claim: Claim, found: Found, full: bool) -> None:
    """Writes the results of a claim with their provenance."""
    assert claim.predictions.keys() == found.measured.keys(), f"{claim.name}: predictions and measurements differ"
    verdicts = {
        name: {**p._asdict(), "measured": list(found.measured[name]), "verdict": verdict(p, found.measured[name])}
        for name, p in claim.predictions.items()
    }
    text = {"title": claim.title, "claim": claim.words, "intervals": claim.intervals}
    settings = {"settings": "full" if full else "quick", "predictions": verdicts, "data": found.data}
    command = f"lecture.{claim.name}{' --full' if full else ''}"
    path = folder(full) / f"{claim.name}.json"
    harness.publish(command, {**text, **settings}, found.configs, found.directories, path=path)


def table(results: dict[str, dict[str, Any] | None]) -> Table:
    """Claim, prediction, what was measured, verdict; a claim without results is missing."""
    made = Table("claim", "prediction", "measured [95 % interval]", "verdict", show_lines=False)
    for name, result in results.items():
        if result is None:
            made.add_row(name, "", "", "[bold red]missing[/]")
            continue
        for p in result["predictions"].values():
            colour = {HOLDS: "green", FAILS: "red", UNDECIDED: "yellow"}[p["verdict"]]
            made.add_row(name, p["words"], shown(p["measured"], p["unit"]), f"[{colour}]{p['verdict']}[/]")
    return made


def shown(measured: Sequence[float], unit: str) -> str:
    """`1.2 [0.9, 1.5] unit`."""
    value, low, high = (f"{x:.3g}" for x in measured)
    return f"{value} [{low}, {high}] {unit}".strip()


def main(
    claim: Claim,
    measure: Callable[[bool], Found],
    draw: Callable[[dict[str, Any], Path], None],
    compiles_much: bool = False,
) -> None:
    """Measures (unless `--draw` is given), publishes, draws, and prints the verdicts.

    A claim that `compiles_much` asks for programs that are ready in half the time and a little slower.
    """
    if compiles_much:
        os.environ.setdefault("XLA_FLAGS", cache.as_flags(cache.ready_sooner(1)))
    full = "--full" in sys.argv[1:]
    cache.enable()
    if "--draw" not in sys.argv[1:]:
        publish(claim, measure(full), full)
    result = read(claim.name, full)
    assert result is not None, f"{claim.name}: nothing has been measured yet"
    draw(result["data"], folder(full) / f"{claim.name}.png")
    Console(width=140).print(table({claim.name: result}))
