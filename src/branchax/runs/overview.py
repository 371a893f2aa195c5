"""A summary of runs: one line each, read only from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from branchax.config import decisive
from branchax.runs import lock, rundir, runlog
from branchax.runs.comparing import TOLD_BY, told_apart

ASIDE = ("world", "seed", "seeds", "env_steps")  # settings with their own column, or in a run's name


class Line(NamedTuple):
    """The summary of a run."""

    directory: Path
    world: str
    state: str  # running, preempted, failed, done (`rundir.write_status`), or killed: "running", but without a process
    steps: int  # done so far
    wanted: int  # to do in total
    returned: float | None  # the mean over seeds at the last evaluation
    seconds: float  # of training
    differs: str  # the settings in which it differs from others with the same world and kind of agent


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
