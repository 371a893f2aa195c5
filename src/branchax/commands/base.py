"""What the commands share: exit codes, and whether what a world needs is installed."""

from __future__ import annotations

import importlib.util

from branchax.config import ConfigError

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130  # exit codes


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
