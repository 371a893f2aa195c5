"""`branchax plot`: learning curves and a run's diagnostics as PNG files."""

from __future__ import annotations

import argparse
from pathlib import Path

from branchax.commands.base import aside, beside, check_run, parse
from branchax.errors import ConfigError


def run(arguments: list[str]) -> None:
    """Draws and says what was written."""
    parser = argparse.ArgumentParser(
        "branchax plot",
        description="Draws learning curves over env steps and over seconds, and for each run that has a checkpoint the"
        " diagnostics of its model and critic (open-loop error, predicted against true trajectories, calibration,"
        " disagreement, imagined against real returns). Runs that differ in their seeds alone are one curve.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="directory of a run")
    parser.add_argument("--out", type=Path, help="folder for the curves (DIR/plots; of several runs: beside them)")
    parser.add_argument("--curves", action="store_true", help="curves only, which takes a second")
    parser.add_argument("--seed", type=int, help="whose model to diagnose; by default the run's first")
    options = parse(parser, arguments)
    for directory in options.runs:
        check_run(directory, options.seed)
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
