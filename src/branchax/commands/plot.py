"""`branchax plot`: learning curves and a run's diagnostics as PNG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from branchax.commands.base import aside, beside, check_runs
from branchax.commands.flags import Directories, Switch, parse
from branchax.errors import ConfigError


@dataclass(frozen=True)
class PlotOptions:
    """Draws learning curves over env steps and over seconds, and for each run that has a checkpoint the diagnostics of
    its model and critic (open-loop error, predicted against true trajectories, calibration, disagreement, imagined
    against real returns). Runs that differ in their seeds alone are one curve."""

    runs: Directories
    """Directories of runs."""
    out: Path | None = None
    """Folder for the curves (DIR/plots; of several runs: beside them)."""
    curves: Switch = False
    """Curves only, which takes a second."""
    seed: int | None = None
    """Whose model to diagnose; by default the run's first."""


def run(arguments: list[str]) -> None:
    """Draws and says what was written."""
    options = parse(PlotOptions, arguments, "branchax plot")
    check_runs(options.runs, options.seed, "branchax plot")
    out = options.out or beside(options.runs) / "plots"

    from branchax.runs import plots

    for name, seconds in (("learning_curve.png", False), ("learning_curve_seconds.png", True)):
        plots.curve(options.runs, out / name, seconds)
        print(out / name)
    if options.curves:
        return

    from branchax.views import diagnose, pictures

    for directory in options.runs:
        try:
            found = diagnose.diagnose(directory, options.seed, say=aside)
        except ConfigError as error:  # no checkpoint: there are still the curves
            print(f"{directory}: no diagnostics: {error}")
            continue
        for path in pictures.draw(found, directory / "plots"):
            print(path)
        if found["why_no_model"]:
            print(f"{directory}: no diagnostics of a model: {found['why_no_model']}")
