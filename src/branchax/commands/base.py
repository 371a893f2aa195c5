"""What the commands share: exit codes, what has to be installed, where what they make goes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from branchax import outside
from branchax.config import Config
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
        outside.check_module(world, "world")


def check_found(config: Config) -> None:
    """Raises `ConfigError` when what the settings name is not there: a world's package, a module of one's own."""
    check_installed(config.world)
    for field, name in config.own_parts.items():
        if field != "world":
            outside.check_module(name, field)


def check_run(directory: Path, seed: int | None = None) -> None:
    """Raises `ConfigError` unless a run is there, its world is installed and `seed`, if given, is one of its own."""
    config = rundir.load_config(directory)
    rundir.find_modules(directory)
    check_found(config)
    config.place_of(seed, directory)


def chosen(named: Sequence[Path], diagnose: bool, seed: int | None, command: str) -> list[Path]:
    """The runs that a command compares, among `named` directories and in the folders among them.

    Raises `ConfigError` when there is none, or one that is to be diagnosed cannot be.
    """
    from branchax.runs import comparing  # which loads NumPy

    if not named:
        raise ConfigError(f"run: name the directory of a run: {command} DIR...")
    if seed is not None and not diagnose:
        raise ConfigError(f"seed: {seed} is for --diagnose: whose model to diagnose")
    runs = comparing.runs_in(named, aside)
    for directory in runs if diagnose else ():
        check_run(directory, seed)
    return runs


def aside(text: str) -> None:
    """Prints a progress message to stderr, so that it does not mix with the output."""
    print(text, file=sys.stderr, flush=True)


def place_for(runs: Sequence[Path]) -> Path:
    """The folder for pictures: `plots` in the directory of a single run. For several it is `plots` in the current
    directory, or `.plots` if one of the runs lies there."""
    if len(runs) == 1:
        return runs[0] / "plots"
    here = Path.cwd()
    return Path(".plots" if any(run.resolve().parent == here.resolve() for run in runs) else "plots")
