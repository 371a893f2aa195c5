"""`branchax report`: one page about a run or several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from branchax.commands.base import aside, chosen, place_for
from branchax.commands.flags import Directories, Switch, parse


@dataclass(frozen=True)
class ReportOptions:
    """Writes one HTML page that opens offline: interactive curves, evaluations, settings and environment; with
    --diagnose also a player that shows real and imagined episodes side by side and diagnostics of model and critic."""

    runs: Directories
    """Directories of runs, or folders: the runs in them."""
    out: Path | None = None
    """The file to write (DIR/report.html; of several: plots/report.html)."""
    diagnose: Switch = False
    """Also run the diagnostics, which read the checkpoints and take minutes."""
    seed: int | None = None
    """Whose model to diagnose; by default each run's first."""


def run(arguments: list[str]) -> None:
    """Writes the page and says where."""
    options = parse(ReportOptions, arguments, "branchax report")
    runs = chosen(options.runs, options.diagnose, options.seed, "branchax report")
    path = options.out or (runs[0] if len(runs) == 1 else place_for(runs)) / "report.html"

    from branchax.views.report import report

    report(runs, path, options.diagnose, options.seed, say=aside)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB; open it in a browser, no network needed)")
