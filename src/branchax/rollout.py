"""The one rollout: a scan that drives any world, real, analytic or learned, with any policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from branchax.types import Key, Trajectory
from branchax.worlds.base import World, WorldState

Act = Callable[[Key, jax.Array], tuple[jax.Array, Any]]  # (key, obs [D]) -> action [A], extras


def rollout(
    key: Key,
    world: World | Callable[[Any], World],
    act: Act,
    start: WorldState,
    length: int,
    *,
    context: Any = None,
    horizon: jax.Array | None = None,
    restart: bool = False,
    window: int | None = None,
) -> tuple[WorldState, Trajectory]:
    """Steps `B` worlds side by side for `length` steps.

    Args:
      key: consumed.
      world: the world; with `context`, a function from one time step's slice of it to the world of that step (a learned
        model whose member changes as it goes).
      act: the policy, unbatched.
      start: the states to start from, [B, ...].
      length: H, static.
      context: pytree of [H, ...] shared by the batch.
      horizon: [] int, steps that are taken at all; later ones cost nothing and are not valid. Default: all.
      restart: at the end of an episode, go on from a fresh reset (collecting). Otherwise steps after a termination are
        still computed but are not valid (imagining).
      window: no derivative flows back past the steps whose time is a multiple of it. Default: all the way.

    Returns:
      The states after the last step [B, ...], and the trajectory [H, B, ...].
    """
    batch = start.obs.shape[0]

    def advance(carry: tuple[WorldState, jax.Array], x: tuple[jax.Array, Any]) -> tuple[Any, Trajectory]:
        state, alive = carry
        time, slice_ = x
        here: World = world(slice_) if context is not None else world  # type: ignore[assignment, operator]
        if window is not None:
            cut = time % window == 0
            state = jax.tree.map(lambda x: jnp.where(cut, jax.lax.stop_gradient(x), x), state)
        keys_act, keys_step, key_reset = step_keys(key, time, batch)
        action, extras = jax.vmap(act)(keys_act, state.obs)
        after, transition = jax.vmap(here.step)(keys_step, state, action)
        record = Trajectory(transition, alive, state, extras)
        if restart:
            over = transition.terminated | transition.truncated | ~finite(transition)
            after = _reset_where(over, key_reset, here, after)
        else:
            alive = alive & ~transition.terminated
        return (after, alive), record

    def skip(carry: tuple[WorldState, jax.Array], x: tuple[jax.Array, Any]) -> tuple[Any, Trajectory]:
        blank = jax.eval_shape(advance, carry, x)[1]
        return carry, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank)

    def body(carry: tuple[WorldState, jax.Array], x: tuple[jax.Array, Any]) -> tuple[Any, Trajectory]:
        # A real branch, not a mask: `horizon` is the same for the whole batch and all seeds.
        return advance(carry, x) if horizon is None else jax.lax.cond(x[0] < horizon, advance, skip, carry, x)

    alive = jnp.ones(batch, bool)
    (state, _), trajectory = jax.lax.scan(body, (start, alive), (jnp.arange(length), context))
    return state, trajectory


def step_keys(key: Key, time: jax.Array, batch: int) -> tuple[Key, Key, Key]:
    """The keys of one step of a rollout: [B] for `act`, [B] for `step`, one for the resets."""
    key_act, key_step, key_reset = jax.random.split(jax.random.fold_in(key, time), 3)
    return jax.random.split(key_act, batch), jax.random.split(key_step, batch), key_reset


def finite(rows: Any) -> jax.Array:
    """Whether every float of each row is finite: pytree of [B, ...] -> [B] bool."""
    leaves = jax.tree.leaves(rows)
    floats = [jnp.isfinite(x).reshape(x.shape[0], -1).all(-1) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.ones(leaves[0].shape[0], bool), *floats]).all(0)


def _reset_where(over: jax.Array, key: Key, world: World, state: WorldState) -> WorldState:
    """Replaces the states of the worlds that are over [B] by fresh resets, each from its own key.

    A reset is computed at every step: with many worlds one of them nearly always ends, and under `vmap` a branch would
    run both sides anyway.
    """
    fresh = jax.vmap(world.reset)(jax.random.split(key, over.shape[0]))
    return jax.tree.map(lambda new, old: jnp.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old), fresh, state)


def episode_returns(key: Key, world: World, act: Act, episodes: int, block: int = 50) -> tuple[jax.Array, jax.Array]:
    """The returns and lengths of `episodes` whole episodes, run side by side: [N], [N].

    Runs block by block until the last episode is over, so short episodes cost little.
    """
    length = world.spec.episode_length
    block = min(block, length)
    key_reset, key_run = jax.random.split(key)
    start = jax.vmap(world.reset)(jax.random.split(key_reset, episodes))

    def running(carry: tuple[Any, ...]) -> jax.Array:
        return carry[1].any()

    def run(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, alive, total, steps, count = carry
        state, trajectory = rollout(jax.random.fold_in(key_run, count), world, act, state, block)
        over = trajectory.transition.terminated | trajectory.transition.truncated
        ended_before = jnp.cumsum(over, 0) - over > 0  # [H, N]
        counted = alive & ~ended_before
        total = total + jnp.where(counted, trajectory.transition.reward, 0.0).sum(0)
        return state, alive & ~over.any(0), total, steps + counted.sum(0), count + 1

    blank = jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32), jnp.zeros((), jnp.int32)
    _, _, total, steps, _ = jax.lax.while_loop(running, run, (start, jnp.ones(episodes, bool), *blank))
    return total, steps
