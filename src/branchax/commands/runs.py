"""`branchax runs`: what there is and how it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from branchax.commands.base import aside
from branchax.commands.flags import parse

COLOURS = {"done": "green", "running": "cyan", "preempted": "yellow", "failed": "red", "killed": "red"}


@dataclass(frozen=True)
class RunsOptions:
    """Shows a line for each run: its state, steps, return at the last evaluation (mean over seeds), time, its world
    where there are several, and the settings in which it differs from the others of its world and its kind of agent."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DIR...]")] = (Path("runs"),)
    """Directories of runs, or folders: the runs in them."""


def run(arguments: list[str]) -> None:
    """Prints the table."""
    options = parse(RunsOptions, arguments, "branchax runs")
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from branchax.runs import comparing
    from branchax.runs.overview import overview
    from branchax.runs.progress import elapsed, number

    lines = overview(comparing.runs_in(options.runs, aside))
    worlds, differs = len({line.world for line in lines}) > 1, any(line.differs for line in lines)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    if worlds:
        table.add_column("world", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("steps", "return", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    if differs:
        table.add_column("differs in", overflow="fold")
    for line in lines:
        table.add_row(
            Text(str(line.directory)),
            *([Text(line.world)] if worlds else []),
            Text(line.state, COLOURS.get(line.state, "")),
            f"{line.steps:,}" + (f"/{line.wanted:,}" if line.steps < line.wanted else ""),
            number(line.returned),
            elapsed(line.seconds),
            *([Text(line.differs)] if differs else []),
        )
    console = Console(highlight=False)
    console.print(table)
