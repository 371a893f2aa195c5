"""`branchax plot`: learning curves and a run's diagnostics as PNG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from branchax.commands.base import aside, chosen, place_for
from branchax.commands.flags import Directories, Switch, parse
from branchax.errors import ConfigError


@dataclass(frozen=True)
class PlotOptions:
    """Draws learning curves over env steps and over seconds, a panel to each world. Runs that differ in their seeds
    alone are one curve. With --diagnose it also draws, for each run that has a checkpoint, what its model and critic
    are worth (open-loop error, predicted against true trajectories, calibration, disagreement, imagined against real
    returns)."""

    runs: Directories
    """Directories of runs, or folders: the runs in them."""
    out: Path | None = None
    """Folder for the curves (DIR/plots; of several runs: plots)."""
    diagnose: Switch = False
    """Also run the diagnostics, which read the checkpoints and take minutes."""
    seed: int | None = None
    """Whose model to diagnose; by default the run's first."""


def run(arguments: list[str]) -> None:
    """Draws and says what was written."""
    options = parse(PlotOptions, arguments, "branchax plot")
    runs = chosen(options.runs, options.diagnose, options.seed, "branchax plot")
    out = options.out or place_for(runs)
    aside(f"drawing the curves of {len(runs)} run{'s' * (len(runs) > 1)}")
    from branchax.runs import plots

    for name, seconds in (("learning_curve.png", False), ("learning_curve_seconds.png", True)):
        plots.curve(runs, out / name, seconds, say=(lambda text: None) if seconds else aside)  # said once
        print(out / name)
    if not options.diagnose:
        return

    from branchax.views import diagnose, pictures

    for number, directory in enumerate(runs, 1):
        aside(f"run {number} of {len(runs)}")
        try:
            found = diagnose.diagnose(directory, options.seed, say=aside)
        except ConfigError as error:  # no checkpoint: there are still the curves
            print(f"{directory}: no diagnostics: {error}")
            continue
        for path in pictures.draw(found, directory / "plots"):
            print(path)
        if found["why_no_model"]:
            print(f"{directory}: no diagnostics of a model: {found['why_no_model']}")
