"""What the claims share: verdicts, intervals, runs that are taken up again, where results go.

A prediction (`predictions.py`) names a number and a threshold, both written down before the number was known. The
number is measured with a 95 % interval, and the verdict follows from the interval alone:

    holds            all of it is on the predicted side of the threshold
    does not hold    all of it is on the other side
    undecided        the threshold lies inside, or the number is not finite
    too few          fewer than `LEAST` seeds (models, blocks): the interval is not to be trusted
    not run yet      nothing was measured in this design, with these words and this threshold

Intervals are percentiles of the bootstrap at the quantiles of Student's t, widened by sqrt(n / (n - 1)) (Hesterberg
2015, The American Statistician 69, section 5.3), over units that are drawn whole: a seed with all its arms. Of the
interquartile mean of 8 seeds they hold the truth in 93 to 97 of 100 simulated cases (`results/coverage.json`,
"expanded"); of the mean of ten pairs in 92 to 94 (tests/test_lecture.py).

Quick settings write into `runs/lecture/`, full ones (`--full`) into `results/lecture/`. Each prediction is written as
soon as it is measured, so that an interrupted command goes on where it stopped; `--only NAME` measures that one.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from branchax.config import Config, with_field
from branchax.devices import cache
from branchax.runs import statistics
from experiments import harness
from experiments.lecture.predictions import CLAIMS, DESIGN, DEVELOPMENT, LEAST, REPORTED, Claim, Prediction

HOLDS, FAILS, UNDECIDED, TOO_FEW, NOT_RUN = "holds", "does not hold", "undecided", "too few", "not run yet"
VERDICTS = {HOLDS: "hold", FAILS: "do not", UNDECIDED: "are undecided", TOO_FEW: "have too few seeds"}
VERDICTS[NOT_RUN] = "have not been run yet"


class Measured(NamedTuple):
    """A number and its 95 % interval, over so many units; None where it is exact."""

    value: float
    low: float
    high: float
    units: int | None = None


class Work(NamedTuple):
    """How a claim is measured; nothing runs before it is asked for."""

    measured: dict[str, Callable[[], Measured]]  # by the prediction's name
    data: Callable[[], dict[str, Any]]  # all that the figure shows; ready for JSON
    arms: Arms | None = None


class Arms:
    """The runs of a claim, each made or taken up again when it is first asked for.

    Args:
      arms: by name, the `directory` of its run, which several claims may share, and its config.
    """

    def __init__(self, arms: Mapping[str, tuple[str, Config]]) -> None:
        self.arms = arms
        self.made: dict[str, Path] = {}

    def __getitem__(self, name: str) -> Path:
        if name not in self.made:
            where, config = self.arms[name]
            self.made[name] = harness.run(config, where)
        return self.made[name]

    @property
    def configs(self) -> dict[str, Config]:
        """Of all of them, run or not."""
        return {name: config for name, (_, config) in self.arms.items()}


def first_seed(full: bool) -> int:
    """Where seeds begin; those of quick settings are those of development."""
    return REPORTED if full else DEVELOPMENT


def verdict(prediction: Prediction, measured: Measured | None) -> str:
    """One of `VERDICTS`."""
    if measured is None:
        return NOT_RUN
    if not all(math.isfinite(x) for x in measured[:3]):
        return UNDECIDED
    if measured.units is not None and measured.units < LEAST:
        return TOO_FEW
    sign = 1 if prediction.at_least else -1
    low, high = sorted((sign * measured.low, sign * measured.high))
    if low >= sign * prediction.threshold:
        return HOLDS
    return FAILS if high < sign * prediction.threshold else UNDECIDED


# --- numbers ----------------------------------------------------------------------------------------------------------


def bootstrap(statistic: Callable[..., float], *groups: Any) -> Measured:
    """`statistic(*groups)` with its interval, each group [n, ...] resampled along its n."""
    arrays = [np.asarray(g, float) for g in groups]
    units = min(len(a) for a in arrays)
    of = lambda *drawn: statistic(*(a[i] for a, i in zip(arrays, drawn, strict=True)))  # noqa: E731
    low, high = statistics.bootstrap(of, *(np.arange(len(a)) for a in arrays))
    return Measured(float(statistic(*arrays)), float(low), float(high), units)


def mean_of_means(*groups: np.ndarray) -> float:
    """Of worlds, the mean of their units'."""
    return float(np.mean([g.mean() for g in groups]))


def gap(*pairs: tuple[Any, Any]) -> Measured:
    """The mean difference of the first and the second of each pair, over the units [n] that both have; several pairs
    are worlds."""
    return bootstrap(mean_of_means, *(np.subtract(*_common(*pair)) for pair in pairs))


def times(*pairs: tuple[Any, Any]) -> Measured:
    """The geometric mean of the ratio of the first and the second of each pair, likewise."""
    logs = (np.log(np.divide(*_common(*pair))) for pair in pairs)
    return bootstrap(lambda *g: math.exp(mean_of_means(*g)), *logs)


def _common(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    count = min(len(first), len(second))
    return np.asarray(first, float)[:count], np.asarray(second, float)[:count]


def exact(value: float) -> Measured:
    """A number without an interval."""
    return Measured(value, value, value)


def band(values: Any, statistic: Callable[..., Any] = np.mean) -> dict[str, list[float]]:
    """Centre and 95 % band of curves [n, T] over the n units: {"centre", "low", "high"}, [T] each."""
    along = functools.partial(statistic, axis=0)
    values = np.asarray(values, float)
    low, high = statistics.bootstrap(along, values)
    return {"centre": along(values).tolist(), "low": low.tolist(), "high": high.tolist()}


def changed(config: Config, **fields: object) -> Config:
    """`config` with fields replaced; `agent__tau` means `agent.tau`."""
    for name, value in fields.items():
        config = with_field(config, name.replace("__", "."), value)
    return config


def kept(claim: str, full: bool, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `compute` gives, from its file if it has been computed before."""
    path = harness.RUNS / f"{directory(claim, full, name)}.npz"
    if path.exists():
        return dict(np.load(path))
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **found)  # type: ignore[arg-type]
    part.replace(path)
    return found


# --- results ----------------------------------------------------------------------------------------------------------


def folder(full: bool) -> Path:
    """Where a claim's results lie."""
    return harness.RESULTS / "lecture" if full else Path("runs") / "lecture"


def directory(claim: str, full: bool, name: str) -> str:
    """The name of a run's directory under `runs/experiments/`."""
    return f"lecture-{claim}/{'full' if full else 'quick'}{DESIGN}_{name.replace('/', '-').replace(' ', '_')}"


def read(claim: str, full: bool) -> dict[str, Any]:
    """A claim's results, empty where it has not been run in this design."""
    path = folder(full) / f"{claim}.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return result if result.get("design") == DESIGN else {}


def known(claim: Claim, result: dict[str, Any]) -> dict[str, Measured | None]:
    """What a claim's results say of its predictions, None where they speak of another threshold or of none."""
    found: dict[str, Measured | None] = {}
    for name, p in claim.predictions.items():
        entry = result.get("predictions", {}).get(name, {})
        same = (entry.get("words"), entry.get("threshold"), entry.get("at_least")) == p[:3]
        found[name] = Measured(*entry["measured"], entry["units"]) if same else None
    return found


def publish(claim: Claim, found: dict[str, Measured | None], full: bool, work: Work) -> dict[str, Any]:
    """Writes what is known of a claim, with its provenance and, if that is all, what the figure shows."""
    predictions = {
        name: {**p._asdict(), "measured": list(m[:3]), "units": m.units, "verdict": verdict(p, m)}
        for name, p in claim.predictions.items()
        if (m := found[name]) is not None
    }
    text = {"title": claim.title, "claim": claim.words, "intervals": claim.intervals, "design": DESIGN}
    settings = {"settings": "full" if full else "quick", "predictions": predictions}
    data = {"data": work.data()} if len(predictions) == len(claim.predictions) else {}
    path, earlier = folder(full) / f"{claim.name}.json", read(claim.name, full).get("runs")
    command = f"lecture.{claim.name}{' --full' if full else ''}"
    configs, made = (work.arms.configs, list(work.arms.made.values())) if work.arms else ({}, [])
    harness.publish(command, {**text, **settings, **data}, configs, made, earlier, path=path)
    return read(claim.name, full)


def table(results: dict[str, dict[str, Any]]) -> Table:
    """Claim, prediction, what was measured, verdict."""
    made = Table("claim", "prediction", "measured [95 % interval]", "verdict", show_lines=False)
    colours = {HOLDS: "green", FAILS: "red", UNDECIDED: "yellow", NOT_RUN: "bold red"}
    for name, result in results.items():
        for p, m in zip(CLAIMS[name].predictions.values(), known(CLAIMS[name], result).values(), strict=True):
            said = verdict(p, m)
            colour = colours.get(said, "dim")
            made.add_row(name, p.words, shown(m, p.unit), f"[{colour}]{said}{' (sure)' if p.sure else ''}[/]")
    return made


def shown(measured: Measured | None, unit: str) -> str:
    """`1.2 [0.9, 1.5] unit`, or nothing."""
    if measured is None:
        return ""
    value, low, high = (f"{x:.3g}" for x in measured[:3])
    return f"{value} [{low}, {high}] {unit}".strip()


def main(
    name: str,
    measure: Callable[[bool], Work],
    draw: Callable[[dict[str, Any], Path], None],
    compiles_much: bool = False,
) -> None:
    """Measures what is not known yet (nothing with `--draw`), publishes, draws, and prints the verdicts.

    A claim that `compiles_much` asks for programs that are ready in half the time and a little slower.
    """
    claim = CLAIMS[name]
    parser = argparse.ArgumentParser(f"experiments.lecture.{name}")
    parser.add_argument("--full", action="store_true", help="as published, on the seeds that are reported")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--again", action="store_true", help="measure what is known as well; runs are kept")
    parser.add_argument("--only", action="append", choices=list(claim.predictions), help="measure this prediction")
    given = parser.parse_args()
    if compiles_much:
        os.environ.setdefault("XLA_FLAGS", cache.as_flags(cache.ready_sooner(1)))
    cache.enable()
    result = read(name, given.full)
    found = known(claim, result)
    missing = [p for p in given.only or claim.predictions if given.again or found[p] is None]
    if missing and not given.draw:
        work = measure(given.full)
        assert claim.predictions.keys() == work.measured.keys(), f"{name}: predictions and measurements differ"
        for prediction in missing:
            found[prediction] = work.measured[prediction]()
            result = publish(claim, found, given.full, work)
    picture = folder(given.full) / f"{name}.png"
    if "data" in result:
        draw(result["data"], picture)
    else:
        picture.unlink(missing_ok=True)
    Console(width=140).print(table({name: result}))
