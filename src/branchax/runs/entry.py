"""The entry point of a run: checks its settings, once, and takes its directory. Nothing here loads JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from branchax.checks import check
from branchax.config import Config
from branchax.runs import rundir


def prepare(config: Config) -> Config:
    """Checks settings and returns them ready for a run: the replay buffer is made as large as the dataset.

    Raises `ConfigError` for settings that cannot work. They are not checked again later.
    """
    if config.dataset is not None:
        from branchax.runs import dataset  # not above: it loads NumPy

        config = dataset.sized(config)
    check(config)
    return config


def enter(runs: Sequence[tuple[Path, Config]], force: bool, held: contextlib.ExitStack) -> list[str]:
    """Locks the directories of runs until `held` is closed; returns the settings that have changed since the last time.

    Raises `ConfigError` when a directory is in use, cannot be written, or holds something else (`rundir.admit`), and
    when metrics are to be sent to Weights & Biases but cannot be.
    """
    if any(config.wandb for _, config in runs):
        from branchax.runs import trackers  # not above: it loads NumPy

        trackers.check_wandb()
    changed: list[str] = []
    for directory, config in runs:
        rundir.check_writable(directory)
        held.enter_context(rundir.opened(directory))
        changed += [x for x in rundir.admit(directory, config, force) if x not in changed]
    return changed
