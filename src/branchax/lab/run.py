"""Runs `branchax lab gradients` and writes the table, the JSON file and the figure."""

from __future__ import annotations

import time
from pathlib import Path

import jax
from rich.console import Console

from branchax.devices import cache
from branchax.errors import ConfigError
from branchax.gradients.base import EstimatorError
from branchax.lab import cases, measure, report
from branchax.lab.options import LabOptions, estimators_of, horizons_of
from branchax.runs import rundir

RESULTS, FIGURE = "gradients.json", "gradients.png"


def gradients(options: LabOptions, directory: Path, command: str, console: Console | None = None) -> None:
    """Measures and writes. The file is written after each horizon, so that an interruption loses no results.

    Raises:
      ConfigError: if the world does not support a named estimator, or cannot be built.
    """
    start = time.perf_counter()
    console = console or Console(highlight=False, soft_wrap=True)
    cache.enable()
    console.print(f"{options.world} · {options.dynamics} · on {jax.devices()[0].device_kind}", style="bold")
    case = cases.make_case(
        options.world,
        options.dynamics,
        policy_std=options.policy_std,
        discount=options.discount,
        steps=options.steps,
        seed=options.seed,
    )
    makers, refused = cases.possible(case, estimators_of(options), options.samples)
    if (refused and options.estimators.strip() != "all") or not makers:
        raise ConfigError("estimators: " + "\n  ".join(_grouped(refused)))
    for line in _grouped({name: reason.partition("; possible")[0] for name, reason in refused.items()}):
        console.print(f"  left out: {line}", style="yellow", markup=False)
    if "model" in case.about:
        error = case.about["model"]["holdout_error"]
        console.print(f"  model: {case.about['real_steps']:,} real steps, holdout error {error:.2g} of the variance")
    settings = measure.Settings(
        samples=options.samples,
        estimates=options.estimates,
        seed=options.seed,
        truth_seconds=options.truth_seconds,
        limit_seconds=options.limit_seconds,
    )
    try:
        levels = measure.survey(
            case.problem,
            case.params,
            makers,
            horizons_of(options),
            settings,
            exact=case.exact,
            references=cases.references(case, options.samples),
        )
    except EstimatorError as error:
        raise ConfigError(f"policy_std: {error}") from error
    console.print(
        f"  {options.estimates} estimates of {options.samples} samples; variance is per sample, bias and its standard"
        f" error are relative to |truth|\n  into {directory}"
    )
    facts = {
        "case": case.about,
        "settings": settings._asdict(),
        "refused": refused,
        "made": {"command": command, "environment": rundir.environment()},
    }
    done: list[measure.Level] = []
    for level in levels:
        done.append(level)
        report.write(directory / RESULTS, done, {**facts, "seconds": round(time.perf_counter() - start, 1)})
        console.print()
        console.print(report.heading(level), style="bold", markup=False)
        console.print(report.table(level))
        for name, reason in level.left_out.items():
            console.print(f"  left out from here on: {name}, {reason}", style="yellow")
    report.draw(directory / FIGURE, done, f"{options.world}, {options.dynamics} dynamics")
    compiling = sum(level.compile_seconds for level in done)
    console.print()
    for line in report.summary(done):
        console.print(f"  {line}")
    console.print(f"  {time.perf_counter() - start:.0f} s in total, {compiling:.0f} s of it compiling", style="dim")
    console.print(f"  figure     {directory / FIGURE}\n  numbers    {directory / RESULTS}")


def _grouped(reasons: dict[str, str]) -> list[str]:
    """One line per reason, with its estimators."""
    names = {reason: [name for name in reasons if reasons[name] == reason] for reason in reasons.values()}
    return [f"{', '.join(group)}: {reason}" for reason, group in names.items()]
