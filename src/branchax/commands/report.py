"""`branchax report`: one page about a run or several."""

from __future__ import annotations

import argparse
from pathlib import Path

from branchax.commands.base import aside, beside, check_run, parse


def run(arguments: list[str]) -> None:
    """Writes the page and says where."""
    parser = argparse.ArgumentParser(
        "branchax report",
        description="Writes one HTML page that opens offline: interactive curves, a player that shows real and imagined"
        " episodes side by side, diagnostics of model and critic, evaluations, settings and environment.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="directory of a run")
    parser.add_argument("--out", type=Path, help="the file to write (DIR/report.html; of several runs: beside them)")
    parser.add_argument(
        "--curves", action="store_true", help="without what needs the checkpoints, which takes a second"
    )
    parser.add_argument("--seed", type=int, help="whose model to diagnose; by default each run's first")
    options = parse(parser, arguments)
    for directory in options.runs:
        check_run(directory, options.seed)
    path = options.out or beside(options.runs) / "report.html"

    from branchax.views.report import report

    report(options.runs, path, options.curves, options.seed, say=aside)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB; open it in a browser, no network needed)")
