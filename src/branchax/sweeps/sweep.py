"""Sweeps: a grid of settings. Each point is a run in its own directory; a table at the end compares them.

sweep.json       the grid, the points and their results
<point>/         the run of a point, as made by `branchax train`
    failed.txt   why it failed: one line, then the full message

Points that differ only in floats form a group: one process and, as far as the floats allow, one compiled program
(`lockstep.py`). The same sweep again resumes; finished runs stay as they are.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from branchax.config import Config, decisive, from_dict, to_dict, value_at, with_field
from branchax.errors import ConfigError
from branchax.runs import rundir

SWEEP, FAILED = "sweep.json", "failed.txt"
GROUP = "--group"  # the process of a group is started as `branchax sweep --group DIR N`


class Point(NamedTuple):
    """One run of a sweep."""

    name: str  # of its directory
    settings: dict[str, str]  # its values in the grid, by field
    config: Config
    group: int  # points of the same group run in one process


def plan(grid: dict[str, list[str]], configs: list[Config]) -> list[Point]:
    """The points of a grid, whose last field varies fastest; `configs` are their checked settings in that order."""
    groups: dict[Config, int] = {}
    points = []
    for values, config in zip(itertools.product(*grid.values()), configs, strict=True):
        settings = dict(zip(grid, values, strict=True))
        rest = config  # without the floats of the grid
        for path in settings:
            rest = with_field(rest, path, 0.0) if isinstance(value_at(config, path), float) else rest
        group = groups.setdefault(rest, len(groups))
        points.append(Point(name_of(settings), settings, config, group))
    return points


def name_of(settings: dict[str, str]) -> str:
    """The directory's name of a run with these settings."""
    return ",".join(f"{path}={value}" for path, value in settings.items()).replace("/", "-").replace(" ", "+")


def directory_of(points: list[Point], stem: str, chosen: Path | None) -> Path:
    """The sweep's directory, as `place` finds it. Raises `ConfigError`."""

    def same(directory: Path) -> bool | None:
        if not (directory / SWEEP).exists():
            return None
        return list(map(_lasting, load(directory))) == list(map(_lasting, points))

    return place(stem, chosen, same, "sweep")


def place(stem: str, chosen: Path | None, same: Callable[[Path], bool | None], kind: str) -> Path:
    """`chosen`, or `<stem>_<n>` with the first `n` that is free or holds the same; for searches as well.

    `same` says whether a directory holds the same sweep as is meant, and None where it holds none.

    Raises:
      ConfigError: when `chosen` holds another one or other files.
    """
    for number in itertools.count(1):
        directory = chosen or Path(f"{stem}_{number}")
        if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
            return directory
        found = same(directory)
        if found:
            return directory
        if chosen is not None:
            what = "other files" if found is None else f"another {kind}"
            raise ConfigError(f"run: {directory} holds {what}; name another directory, or repeat the same {kind}")
    raise AssertionError("unreachable")


def _lasting(point: Point) -> dict[str, Any]:
    return point._asdict() | {"config": decisive(point.config)}


def save(directory: Path, points: list[Point], command: str) -> None:
    """Writes sweep.json, with the results of the points so far."""
    rows = [point._asdict() | {"config": to_dict(point.config)} for point in points]
    results = [{"result": result(directory / point.name)} for point in points]
    found = {"command": command, "points": [row | outcome for row, outcome in zip(rows, results, strict=True)]}
    rundir.write_json(directory / SWEEP, found)


def load(directory: Path) -> list[Point]:
    """The points of sweep.json. Raises `ConfigError` when it cannot be read."""
    try:
        rows = json.loads((directory / SWEEP).read_text(encoding="utf-8"))["points"]
        return [Point(r["name"], r["settings"], from_dict(Config, r["config"]), r["group"]) for r in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"sweep: cannot read {directory / SWEEP}: {error}") from error


def commands(directory: Path, points: list[Point]) -> list[list[str]]:
    """One command for each unfinished group."""
    open_groups = sorted({point.group for point in points if not is_over(directory / point.name, point.config)})
    return [[sys.executable, "-m", "branchax", "sweep", GROUP, str(directory), str(group)] for group in open_groups]


def is_over(directory: Path, config: Config) -> bool:
    """Whether the run is finished or has failed."""
    found = result(directory)
    return "failed" in found or (found.get("finished", 0) >= config.env_steps and rundir.is_done(directory))


def result(directory: Path) -> dict[str, Any]:
    """The result of a run so far: mean and standard deviation of its seeds' last evaluations, and their time.

    `failed` is the reason why it failed; `stopped` is an outside reason why it ended early.
    """
    from branchax.runs import checkpoint, runlog  # not above: the command line loads this module before it needs JAX

    failed = directory / FAILED
    found: dict[str, Any] = {"failed": failed.read_text(encoding="utf-8").strip()} if failed.exists() else {}
    status = rundir.status(directory)
    if not found and status.get("state") in ("preempted", "failed"):  # "done" has no reason
        found["stopped"] = status["reason"]
    rows = [row for row in runlog.read(directory / rundir.METRICS) if row.get(runlog.RETURN) is not None]
    if not rows:
        return found
    last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    returns = [row[runlog.RETURN] for row in last]
    saved = checkpoint.steps(directory / rundir.CHECKPOINTS)
    return found | {
        "return_mean": statistics.fmean(returns),
        "return_std": statistics.pstdev(returns),
        "seeds": len(returns),
        "env_steps": runlog.clock(last[0]),
        "finished": saved[-1] if saved else 0,
        "wall_s": last[0]["wall_s"],
    }


def show(directory: Path, points: list[Point]) -> None:
    """Prints the table, and below it the reasons of unfinished runs."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    fields, seeds = list(points[0].settings), points[0].config.seeds
    spread = f", mean ± SD over {seeds} seeds" if seeds > 1 else ""
    table = Table(box=box.SIMPLE_HEAD)
    for name in fields:
        table.add_column(name.replace(".", ".\n"), justify="right", overflow="fold")
    for name in ("return", "env\nsteps", "wall\n[s]"):
        table.add_column(name, justify="right", no_wrap=True)
    reasons = []
    for point in points:
        found = result(directory / point.name)
        cells = [_score(found, point.config), f"{found.get('env_steps', 0):,}", f"{found.get('wall_s', 0.0):.0f}"]
        table.add_row(*(point.settings[name] for name in fields), *cells)
        if why := found.get("failed", found.get("stopped")):
            reasons.append(f"{point.name}: {why.splitlines()[-1]}")
    console = Console(highlight=False, markup=False)
    console.print(f"{directory}: last evaluations{spread}", soft_wrap=True)
    console.print(table)
    for reason in reasons:
        console.print(reason, soft_wrap=True)


def _score(found: dict[str, Any], config: Config) -> str:
    """The table's cell of the return, in short lines."""
    if "failed" in found:
        return "failed:\n" + found["failed"].splitlines()[0].replace(", ", ",\n", 1)
    score = ""
    if "return_mean" in found:
        score = f"{found['return_mean']:.1f}" + (f" ± {found['return_std']:.1f}" if found["seeds"] > 1 else "")
    if found.get("finished", 0) >= config.env_steps:
        return score
    return f"{score}\n{'stopped' if 'stopped' in found else 'unfinished'}".strip()
