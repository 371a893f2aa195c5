"""`branchax report`: one page about a run or several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from branchax.commands.base import aside, beside, check_runs
from branchax.commands.flags import Directories, Switch, parse


@dataclass(frozen=True)
class ReportOptions:
    """Writes one HTML page that opens offline: interactive curves, a player that shows real and imagined episodes side
    by side, diagnostics of model and critic, evaluations, settings and environment."""

    runs: Directories
    """Directories of runs."""
    out: Path | None = None
    """The file to write (DIR/report.html; of several runs: beside them)."""
    curves: Switch = False
    """Without what needs the checkpoints, which takes a second."""
    seed: int | None = None
    """Whose model to diagnose; by default each run's first."""


def run(arguments: list[str]) -> None:
    """Writes the page and says where."""
    options = parse(ReportOptions, arguments, "branchax report")
    check_runs(options.runs, options.seed, "branchax report")
    path = options.out or beside(options.runs) / "report.html"

    from branchax.views.report import report

    report(options.runs, path, options.curves, options.seed, say=aside)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB; open it in a browser, no network needed)")
