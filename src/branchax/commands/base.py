"""What the commands share: exit codes, what has to be installed, where what they make goes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from branchax.errors import ConfigError
from branchax.runs import rundir

# Exit codes. PREEMPTED: a run was asked to end and did so well; INTERRUPTED: at once. `RunError`s bring their own.
OK, FAILED, REFUSED, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def check_installed(world: str) -> None:
    """Raises `ConfigError`, with the cure, when the package of a world is missing."""
    if world.startswith("brax/") and not installed("brax"):
        raise ConfigError(f"world: {world!r} needs brax, which is not installed: pip install brax==0.14.2")
    if world.startswith("playground/") and not installed("mujoco_playground"):
        raise ConfigError(
            f"world: {world!r} needs playground, which is not installed: pip install 'branchax[playground]'"
        )
    if world.startswith("gym/"):
        from branchax.worlds import gymnasium_spec  # which loads no JAX

        gymnasium_spec(world.removeprefix("gym/"))
    elif ":" in world:  # a world of one's own
        module = world.partition(":")[0]
        top = module.partition(".")[0]
        if importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd()), *sys.path]) is None:
            raise ConfigError(f"world: {world!r} cannot be imported: no module {top!r} here or where Python looks")


def check_run(directory: Path, seed: int | None) -> None:
    """Raises `ConfigError` unless a run is there, its world is installed and `seed`, if given, is one of its own."""
    config = rundir.load_config(directory)
    check_installed(config.world)
    last = config.seed + config.seeds - 1
    if seed is not None and not config.seed <= seed <= last:
        raise ConfigError(f"seed: {seed} is not in {directory}; allowed: {config.seed} to {last}")


def check_runs(directories: Sequence[Path], seed: int | None, command: str) -> None:
    """Raises `ConfigError` as `check_run` does, and when no directory is named."""
    if not directories:
        raise ConfigError(f"run: name the directory of a run: {command} DIR...")
    for directory in directories:
        check_run(directory, seed)


def aside(text: str) -> None:
    """Says what goes on to those who watch, and not to what reads the output."""
    print(text, file=sys.stderr, flush=True)


def beside(runs: Sequence[Path]) -> Path:
    """Where what is made of runs goes: into the one run's directory, or into the folder that holds them all."""
    if len(runs) == 1:
        return runs[0]
    folder = Path(os.path.commonpath([run.absolute() for run in runs]))
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
