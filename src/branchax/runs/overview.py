"""What the runs in some folders are and how they stand: a line each, from their files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from branchax.config import decisive
from branchax.runs import lock, rundir, runlog
from branchax.runs.comparing import TOLD_BY, told_apart

ASIDE = ("world", "seed", "seeds", "env_steps")  # settings that have a column of their own, or are in a run's name


class Line(NamedTuple):
    """A run."""

    directory: Path
    world: str
    state: (
        str  # running, preempted, failed, done (`rundir.write_status`), or killed: it says that it runs, and does not
    )
    steps: int  # that it has done, and ...
    wanted: int  # ... those that it was to do
    returned: float | None  # the mean over seeds at the last evaluation
    seconds: float  # that it has worked
    differs: str  # the settings that tell it from the others of its world and its kind of agent


def overview(directories: Sequence[Path]) -> list[Line]:
    """A line for each run, in the order of `directories`. Raises `ConfigError` when one holds none."""
    configs = [rundir.load_config(directory) for directory in directories]
    settings = [{k: v for k, v in decisive(config).items() if k not in ASIDE} for config in configs]
    kinds = [(config.world, config.agent.kind, config.model_free) for config in configs]
    lines = []
    for i, (directory, config) in enumerate(zip(directories, configs, strict=True)):
        rows = runlog.read(directory / rundir.METRICS)
        evaluated = [row for row in rows if row.get(runlog.RETURN) is not None]
        last = [row[runlog.RETURN] for row in evaluated if row["epoch"] == evaluated[-1]["epoch"]]
        told = told_apart(settings[i], [other for other, kind in zip(settings, kinds, strict=True) if kind == kinds[i]])
        lines.append(
            Line(
                directory,
                config.world,
                _state(directory),
                max(map(runlog.clock, rows), default=0),
                config.env_steps,
                float(np.mean(last)) if last else None,
                max((row["wall_s"] for row in rows), default=0.0),
                f"more than {TOLD_BY} settings" if told is None else told,
            )
        )
    return lines


def _state(directory: Path) -> str:
    state = rundir.status(directory).get("state", "new")
    return "killed" if state == "running" and lock.owner(directory) is None else state
