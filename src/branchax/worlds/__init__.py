"""Worlds (environments): real simulators and analytic systems. `make` builds a world from its name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from branchax.worlds.base import World as World
    from branchax.worlds.base import WorldSpec as WorldSpec
    from branchax.worlds.base import WorldState as WorldState
    from branchax.worlds.base import make_world as make_world
    from branchax.worlds.contract import check_world as check_world
else:
    from branchax.public import hand_on

    __getattr__, __dir__, __all__ = hand_on(
        __name__,
        {
            "World": "branchax.worlds.base",
            "WorldSpec": "branchax.worlds.base",
            "WorldState": "branchax.worlds.base",
            "check_world": "branchax.worlds.contract",
            "make": "branchax.worlds",  # below
            "make_world": "branchax.worlds.base",
        },
    )


def make(
    name: str, backend: str = "generalized", episode_length: int | None = None, arguments: Sequence[str] = ()
) -> World:
    """The world called `name` in the catalog (`branchax list`).

    Args:
      name: `"classic/..."`, `"probe/..."`, `"brax/..."`, `"gym/..."`, `"playground/..."`, or `"module:function"` for
        your own world.
      backend: Brax's physics backend; the other worlds ignore it.
      episode_length: steps until an episode is truncated; the default is the world's own.
      arguments: keyword arguments for `gymnasium.make`, each as `"name=value"`; other worlds take none.

    Raises:
      ConfigError: the name is unknown, or the world cannot have this backend, episode length or arguments.
    """
    # Imported here: the configuration reads this package's catalog before JAX is loaded.
    from branchax.errors import ConfigError, nearest
    from branchax.worlds.catalog import WORLDS

    if episode_length is not None and episode_length < 1:
        raise ConfigError(f"episode_length: {episode_length} is not possible; allowed: >= 1")
    family, _, short = name.partition("/")
    if family == "gym":
        from branchax.worlds.gymnasium import gymnasium_world

        return gymnasium_world(short, episode_length, arguments)
    if arguments:
        raise ConfigError(f"world_args: {' '.join(arguments)} is not possible for {name}; allowed: unset")
    if family == "brax":
        from branchax.worlds.brax import brax_world

        return brax_world(short, backend, episode_length)
    if family == "playground":
        from branchax.worlds.playground import playground_world

        return playground_world(short, episode_length)
    if ":" in name:
        return _own(name, {} if episode_length is None else {"episode_length": episode_length})
    if name not in WORLDS:
        raise ConfigError(f"world: {name!r} is unknown{nearest(name, WORLDS)}; `branchax list` shows all")
    if family == "classic":
        from branchax.worlds.classic import CLASSIC
        from branchax.worlds.discrete import DISCRETE
        from branchax.worlds.tabular import TABULAR

        world = (CLASSIC | DISCRETE | TABULAR)[short]
        return world() if episode_length is None else world(episode_length=episode_length)
    from branchax.worlds.probes import DISCRETE_PROBES, PROBES

    if episode_length is not None:
        raise ConfigError(f"episode_length: {episode_length} is not possible for {name}; allowed: unset")
    return (PROBES | DISCRETE_PROBES)[short].world()


def _own(name: str, options: dict[str, Any]) -> World:
    """The world that `function` returns, for a name `module:function`."""
    from branchax import outside
    from branchax.errors import ConfigError
    from branchax.worlds import contract
    from branchax.worlds.base import World

    make_own = outside.find(name, "world")
    if not callable(make_own):
        raise ConfigError(
            f"world: {name!r} is no function, but {type(make_own).__name__}; allowed: one that returns a World"
        )
    try:
        world = make_own(**options)
    except Exception as error:
        given = f" with {', '.join(options)}" if options else ""
        raise ConfigError(f"world: {name!r} cannot be made{given}: {type(error).__name__}: {error}") from error
    if not isinstance(world, World):
        raise ConfigError(
            f"world: {name!r} returned {type(world).__name__}; allowed: a World (`worlds.base.make_world`)"
        )
    check_precision(name)
    for found in contract.find_misshapen(world):
        raise ConfigError(f"world: {name!r}: {found.seen}")
    return world


def check_precision(world: str) -> None:
    """Raises `ConfigError` in JAX's 64-bit mode, which the variable asks for or the module of one's own world."""
    import jax

    from branchax.errors import ConfigError

    if jax.config.read("jax_enable_x64"):
        raise ConfigError(
            f"jax_enable_x64: True is not possible for {world}: models, agents and counters are of 32 bits; allowed:"
            " False (unset JAX_ENABLE_X64; a world of one's own must not set it)"
        )


def gymnasium_spec(name: str) -> Any:
    """Gymnasium's registry entry of `name`, found without JAX; for `"module:Id-v0"`, the module is imported first.

    Raises:
      ConfigError: Gymnasium or the module is not installed or cannot be imported, or the id is unknown.
    """
    from branchax import outside
    from branchax.errors import ConfigError, nearest

    module, _, short = name.rpartition(":")
    try:
        from gymnasium.envs.registration import registry

        if module:
            outside.look_in_folder_of(f"gym/{name}")
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        advice = ": pip install 'branchax[gym]'" if error.name == "gymnasium" else ""
        raise ConfigError(f"world: gym/{name} needs {error.name}, which is not installed{advice}") from error
    except Exception as error:  # a user's module may raise any error
        raise ConfigError(f"world: gym/{name} cannot be imported: {type(error).__name__}: {error}") from error
    if short not in registry:
        raise ConfigError(f"world: gym/{name} is unknown to Gymnasium{nearest(short, registry)}")
    return registry[short]
