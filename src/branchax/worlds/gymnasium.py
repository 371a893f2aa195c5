"""Gymnasium's environments as worlds (Towers et al. 2024, arXiv:2407.17032). They are stepped on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np

from branchax import outside
from branchax.errors import ConfigError, WorldFault
from branchax.worlds import gymnasium_spec, terminations
from branchax.worlds.base import HostWorld, World, WorldSpec


def gymnasium_world(name: str, episode_length: int | None = None, arguments: Sequence[str] = ()) -> World:
    """A Gymnasium environment, or one of your own that is registered there, with all wrappers of `gymnasium.make`.

    Box actions are scaled to [-1, 1]. Discrete spaces give one action for each combination. Observations are flattened
    by `gymnasium.spaces.flatten` (`worlds/spaces.py`). Time limits are kept.

    Args:
      name: the id in Gymnasium's registry, such as `"Hopper-v5"`; `"module:Id-v0"` first imports a module that
        registers it.
      episode_length: steps until an episode is truncated, instead of the registered limit.
      arguments: keyword arguments for the environment, each as `"name=value"`; the value is JSON, a Python literal or a
        plain word.

    Raises:
      ConfigError: Gymnasium is missing, the id is unknown, or the environment cannot be made, has no time limit, has
        spaces that cannot be vectors, or breaks Gymnasium's rules at its first reset or step.
    """
    gymnasium_spec(name)
    from branchax.worlds import environments, snapshots
    from branchax.worlds.spaces import Unusable, own_terms

    given = outside.arguments_of(arguments, "world_args")
    guard = partial(environments.make_guard, name, given, episode_length)
    try:
        with contextlib.closing(guard()) as first:
            length = environments.time_limit(first.env)
            first.reset(seed=0)
            first.step(np.zeros(first.actions.size, np.float32))
            observations, actions = first.observations, first.actions
            terms = {"observation": str(first.env.observation_space), "action": own_terms(actions)}
    except (WorldFault, Unusable) as problem:
        raise ConfigError(f"world: gym/{name} is not possible: {problem}") from problem
    if length is None:
        raise ConfigError(f"episode_length: unset is not possible for gym/{name}, which has no limit; allowed: >= 1")
    spec = WorldSpec(
        name=f"gym/{name}",
        obs_size=observations.size,
        action_size=actions.size,
        episode_length=length,
        discrete=actions.discrete,
        differentiable=False,
        termination=None if given.keys() & terminations.CHANGED_BY else terminations.GYMNASIUM.get(name),
        tabular=observations.tabular,
    )

    def make(count: int, workers: int, once: bool) -> environments.Fleet:
        return environments.Fleet(partial(guard, once=once), count, workers, observations.size, actions.size)

    def refuse(*_: Any) -> NoReturn:
        raise ConfigError(
            f"world: gym/{name} is stepped on the host, so that no compiled program (an oracle, a gradient through the"
            " simulator) can step it; allowed here: a world of JAX, such as those of Brax"
        )

    fleet = environments.Fleet
    host = HostWorld(
        make,
        fleet.reset,
        fleet.step,
        fleet.save_state,
        fleet.set_state,
        fleet.close,
        partial(snapshots.comes_back, guard),
        terms,
    )
    return World(spec, refuse, refuse, host)
