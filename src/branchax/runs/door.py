"""The door of a run: its settings are checked here, once, and its directory is entered here. Nothing loads JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from branchax.checks import check
from branchax.config import Config
from branchax.runs import rundir


def prepare(config: Config) -> Config:
    """Checked settings that a run can begin with: its replay buffer is as large as its dataset.

    Raises `ConfigError` for what cannot work. Nothing behind it checks again.
    """
    if config.dataset is not None:
        from branchax.runs import dataset  # which loads NumPy

        config = dataset.sized(config)
    check(config)
    return config


def enter(runs: Sequence[tuple[Path, Config]], force: bool, held: contextlib.ExitStack) -> list[str]:
    """Takes the directories of runs, which `held` lets go again; returns what has changed since they were left.

    Raises `ConfigError` when one is in use, cannot be written, or holds something else (`rundir.admit`), and when
    metrics are to be sent and cannot be.
    """
    if any(config.wandb for _, config in runs):
        from branchax.runs import trackers  # which loads NumPy

        trackers.check_wandb()
    changed: list[str] = []
    for directory, config in runs:
        rundir.check_writable(directory)
        held.enter_context(rundir.opened(directory))
        changed += [x for x in rundir.admit(directory, config, force) if x not in changed]
    return changed
