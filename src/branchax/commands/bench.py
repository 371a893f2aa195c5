"""`branchax bench compare`: what moved between two runs of a benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from branchax.commands.base import parse


def run(arguments: list[str]) -> None:
    """Prints each case's ratio, and says which are more than noise."""
    parser = argparse.ArgumentParser("branchax bench", description="Compares results that `make bench` wrote.")
    parser.add_argument(
        "verb", choices=["compare"], metavar="compare", help="rates of the second file over the first's"
    )
    parser.add_argument("first", type=Path, metavar="A.json")
    parser.add_argument("second", type=Path, metavar="B.json")
    options = parse(parser, arguments)

    from rich.console import Console
    from rich.table import Table

    from branchax.host import bench

    first, second = bench.load(options.first), bench.load(options.second)
    changes = bench.compare(first, second)
    table = Table("case", "B / A", "95 % interval", "", title=f"{second['benchmark']}: rates of B over those of A")
    for change in changes:
        table.add_row(change.case, f"{change.ratio:.2f}", f"{change.low:.2f} to {change.high:.2f}", change.verdict)
    console = Console()
    console.print(table)
    for name in ("device", "cpu", "jax", "commit"):
        before, after = (each["environment"].get(name) for each in (first, second))
        if before != after:
            console.print(f"{name}: {before} -> {after}", markup=False)
    moved = sum(bool(change.verdict) for change in changes)
    console.print(f"{moved} of {len(changes)} moved by more than a factor of {bench.TOLERANCE}")
