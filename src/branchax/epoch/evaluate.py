"""Whole episodes of a policy in the real world."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from branchax.epoch.parts import Parts
from branchax.rollout import Act, copies, rollout
from branchax.types import Key, Metrics
from branchax.worlds.base import World


def evaluate(parts: Parts, key: Key, params: Any) -> Metrics:
    """`{"return": [N], "length": [N]}` of the mode of the agent `params` over `eval_episodes` whole episodes."""
    agent = parts.agent

    def act(_: Key, obs: jax.Array, *memory: Any) -> tuple[Any, ...]:
        if agent.memory is None:
            return agent.mode(params, obs), ()
        action, later = agent.mode(params, obs, *memory)
        return action, (), later

    memory = None if agent.memory is None else agent.memory(params)
    total, length = episode_returns(key, parts.world, act, parts.sizes.eval_episodes, memory=memory)
    return {"return": total, "length": length}


def episode_returns(
    key: Key, world: World, act: Act, episodes: int, block: int = 50, memory: Any = None
) -> tuple[jax.Array, jax.Array]:
    """The returns and lengths of `episodes` whole episodes, run side by side: [N], [N].

    Runs block by block until the last episode is over, so short episodes cost little. `memory` is what the policy
    carries at the start of an episode, unbatched.
    """
    length = world.spec.episode_length
    block = min(block, length)
    key_reset, key_run = jax.random.split(key)
    start = jax.vmap(world.reset)(jax.random.split(key_reset, episodes))

    def remembering(key: Key, obs: jax.Array, *carried: Any) -> tuple[Any, ...]:
        action, _, *later = act(key, obs, *carried)
        return action, later, *later  # the memory among the extras, for the next block

    def running(carry: tuple[Any, ...]) -> jax.Array:
        return carry[1].any()

    def run(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, alive, carried, total, steps, count = carry
        key_block = jax.random.fold_in(key_run, count)
        state, trajectory = rollout(key_block, world, remembering, state, block, memory=carried)
        carried = jax.tree.map(lambda x: x[-1], trajectory.extras[0]) if trajectory.extras else None
        over = trajectory.transition.terminated | trajectory.transition.truncated
        ended_before = jnp.cumsum(over, 0) - over > 0  # [H, N]
        counted = alive & ~ended_before
        total = total + jnp.where(counted, trajectory.transition.reward, 0.0).sum(0)
        return state, alive & ~over.any(0), carried, total, steps + counted.sum(0), count + 1

    blank = jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32), jnp.zeros((), jnp.int32)
    carry = start, jnp.ones(episodes, bool), copies(memory, episodes), *blank
    *_, total, steps, _ = jax.lax.while_loop(running, run, carry)
    return total, steps
