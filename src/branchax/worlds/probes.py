"""Probe worlds: small environments for finding bugs in agents.

Each is solved in seconds, and has a known Q function that only one part of an agent can get wrong.

All have `obs [1]`, and `action [1]` in [-1, 1] or, in `DISCRETE_PROBES`, a one-hot `action [A]`. If an agent fails on
one but not on those above it, the bug is in the part that this one adds (after Andy Jones, "Debugging RL, without the
agonizing pain", 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax.types import Key
from branchax.worlds.base import World, WorldSpec, make_world, never

# inner (here the observation itself), obs, reward, terminated
Physics = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
# (obs [..., 1], action [..., A], discount) -> [...]
Q = Callable[[jax.Array, jax.Array, jax.Array | float], jax.Array]


class Probe(NamedTuple):
    """A probe world and its Q function, which is the same for every policy."""

    world: Callable[[], World]
    q: Q


def one_step(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The termination predicate of a world whose every step ends the episode. Returns [] bool."""
    del obs, action, next_obs
    return jnp.ones((), bool)


def second_step(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The termination predicate of `discounting`: the step that starts at obs 1 ends the episode. Returns [] bool."""
    del action, next_obs
    return obs[0] > 0.5


def _start_at_zero(key: Key) -> tuple[jax.Array, jax.Array]:
    del key
    return jnp.zeros(1), jnp.zeros(1)


def _start_at_either(key: Key) -> tuple[jax.Array, jax.Array]:
    obs = jax.random.rademacher(key, (1,), float)
    return obs, obs


def constant_reward() -> World:
    """One step, reward 1, terminated: Q = 1. Fails when the critic's loss or optimiser is wrong."""

    def step(key: Key, obs: jax.Array, action: jax.Array) -> Physics:
        del key
        return obs, obs, jnp.ones_like(obs[0]), one_step(obs, action, obs)

    return make_world(WorldSpec("probe/constant_reward", 1, 1, 1, termination=one_step), _start_at_zero, step)


def observation() -> World:
    """One step, obs -1 or 1, reward equal to it, terminated: Q = obs. Fails when gradients do not reach the input."""

    def step(key: Key, obs: jax.Array, action: jax.Array) -> Physics:
        del key
        return obs, obs, obs[0], one_step(obs, action, obs)

    return make_world(WorldSpec("probe/observation", 1, 1, 1, termination=one_step), _start_at_either, step)


def discounting() -> World:
    """Two steps, obs 0 then 1; reward 0, then 1 and terminated: Q = discount at obs 0, 1 at obs 1.

    Fails when the bootstrap, the discount or the mask of terminated states is wrong.
    """

    def step(key: Key, obs: jax.Array, action: jax.Array) -> Physics:
        del key
        next_obs = jnp.ones_like(obs)
        return next_obs, next_obs, obs[0], second_step(obs, action, next_obs)

    return make_world(WorldSpec("probe/discounting", 1, 1, 2, termination=second_step), _start_at_zero, step)


def action() -> World:
    """One step, reward -(action - 1/2)^2, terminated: Q = reward, best action 1/2. Fails when the policy stays put."""

    def step(key: Key, obs: jax.Array, action: jax.Array) -> Physics:
        del key
        return obs, obs, -jnp.square(action[0] - 0.5), one_step(obs, action, obs)

    return make_world(WorldSpec("probe/action", 1, 1, 1, termination=one_step), _start_at_zero, step)


def time_limit() -> World:
    """Reward 1; every episode is truncated, not terminated, after one step: Q = 1 / (1 - discount).

    Fails when a time limit is treated as a terminal state, which gives Q = 1.
    """

    def step(key: Key, obs: jax.Array, action: jax.Array) -> Physics:
        del key, action
        return obs, obs, jnp.ones_like(obs[0]), jnp.zeros((), bool)

    return make_world(WorldSpec("probe/time_limit", 1, 1, 1, termination=never), _start_at_zero, step)


def choice() -> World:
    """One step, obs -1 or 1, terminated: reward 1 for the first action at obs -1 and the second at obs 1, else 0.

    Q = reward. Fails when actions are mixed up, or when the policy does not look at the observation.
    """

    def step(key: Key, obs: jax.Array, action: jax.Array) -> Physics:
        del key
        right = (jnp.argmax(action) == 1) == (obs[0] > 0)
        return obs, obs, right.astype(obs.dtype), one_step(obs, action, obs)

    spec = WorldSpec("probe/choice", 1, 2, 1, discrete=True, differentiable=False, termination=one_step)
    return make_world(spec, _start_at_either, step)


PROBES: dict[str, Probe] = {
    "constant_reward": Probe(constant_reward, lambda obs, action, discount: jnp.ones_like(obs[..., 0])),
    "observation": Probe(observation, lambda obs, action, discount: obs[..., 0]),
    "discounting": Probe(discounting, lambda obs, action, discount: jnp.where(obs[..., 0] > 0.5, 1.0, discount)),
    "action": Probe(action, lambda obs, action, discount: -jnp.square(action[..., 0] - 0.5)),
    "time_limit": Probe(time_limit, lambda obs, action, discount: jnp.full_like(obs[..., 0], 1 / (1 - discount))),
}
DISCRETE_PROBES: dict[str, Probe] = {
    "choice": Probe(choice, lambda obs, action, discount: (1 + obs[..., 0] * (action[..., 1] - action[..., 0])) / 2),
}
