"""The rollout: one scan that steps any world (environment), real, analytic or learned, with any policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from branchax.types import Key, Trajectory, choose, finite
from branchax.worlds.base import World, WorldState

# (key, obs [D]) -> action [A], extras; with a memory: (key, obs [D], memory) -> action [A], extras, memory
Act = Callable[..., tuple[Any, ...]]


def rollout(  # noqa: PLR0913 (one loop for all uses; most options are off by default)
    key: Key,
    world: World | Callable[[Any], World],
    act: Act | None,
    start: WorldState,
    length: int,
    *,
    context: Any = None,
    horizon: jax.Array | None = None,
    restart: bool = False,
    window: int | None = None,
    actions: jax.Array | None = None,
    memory: Any = None,
    products_only: bool = False,
) -> tuple[WorldState, Trajectory]:
    """Steps `B` worlds in parallel for `length` steps.

    Args:
      key: consumed.
      world: the world; with `context`, a function from one step's slice of `context` to the world of that step (such as
        a learned model with a different member at each step).
      act: the policy, unbatched; may be None if `actions` covers every step.
      start: the start states, [B, ...].
      length: H, static.
      context: pytree of [H, ...] shared by the batch.
      horizon: [] int, number of steps to compute; later ones cost nothing and are not valid. Default: all.
      restart: after the end of an episode, continue from a new reset (collecting). Otherwise a rollout
        stays in the state before its end, and its further steps are not valid (imagining): what lies beyond
        may be anything, and zero times an infinite derivative is not zero.
      window: gradients stop at the states whose time is a multiple of it. Default: no stops.
      actions: the actions of the first h <= H steps, instead of the policy's, [h, B, A].
      memory: the policy's memory, [B, ...], at the start and after every `restart`. An `act` whose memory is needed
        afterwards must also return it in its extras.
      products_only: for derivatives keep of a step only its start and its matrix products, and compute the rest again
        on the way back: less memory, and less time where products are most of the work. The values are the same but
        for rounding.

    Returns:
      The states after the last step [B, ...], and the trajectory [H, B, ...].
    """
    batch = start.obs.shape[0]
    given = 0 if actions is None else actions.shape[0]
    assert given <= length, f"{given} actions for {length} steps"
    if actions is not None:
        actions = jnp.pad(actions, ((0, length - given), *[(0, 0)] * (actions.ndim - 1)))
    at_first = () if memory is None else (memory,)

    def advance(carry: tuple[WorldState, jax.Array, Any], x: tuple[jax.Array, Any, Any]) -> tuple[Any, Trajectory]:
        state, alive, carried = carry
        time, slice_, action = x
        here: World = world(slice_) if context is not None else world  # type: ignore[assignment, operator]
        if window is not None:
            cut = time % window == 0
            state = jax.tree.map(lambda x: jnp.where(cut, jax.lax.stop_gradient(x), x), state)
        keys_act, keys_step, key_reset = step_keys(key, time, batch)
        extras: Any = ()
        if given < length:
            assert act is not None, "`actions` is shorter than the rollout, and there is no policy"
            chosen, extras, *later = jax.vmap(act)(keys_act, state.obs, *carried)
            carried = tuple(later)
            action = chosen if action is None else jnp.where(time < given, action, chosen)
        after, transition = jax.vmap(here.step)(keys_step, state, action)
        record = Trajectory(transition, alive, state, extras)
        if restart:
            over = transition.terminated | transition.truncated | ~finite(transition)
            fresh = jax.vmap(here.reset)(jax.random.split(key_reset, batch))
            # A reset is computed at every step: of many worlds one ends at almost every step, and `vmap` would run
            # both sides of a branch anyway.
            after, carried = choose(over, (fresh, at_first), (after, carried))
        else:
            alive = alive & ~transition.terminated & ~transition.truncated
            after = choose(alive, after, state)
        return (after, alive, carried), record

    def skip(carry: tuple[WorldState, jax.Array, Any], x: tuple[jax.Array, Any, Any]) -> tuple[Any, Trajectory]:
        blank = jax.eval_shape(advance, carry, x)[1]
        return carry, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank)

    def body(carry: tuple[WorldState, jax.Array, Any], x: tuple[jax.Array, Any, Any]) -> tuple[Any, Trajectory]:
        # A branch instead of a mask, because `horizon` is the same for the whole batch and all seeds.
        return advance(carry, x) if horizon is None else jax.lax.cond(x[0] < horizon, advance, skip, carry, x)

    if products_only:
        # `prevent_cse` is for code outside a scan; in a scan there is nothing to merge with.
        body = jax.checkpoint(body, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)
    alive = jnp.ones(batch, bool)
    with jax.named_scope("rollout"):  # its name in profiles and in the compiled program's text
        (state, *_), trajectory = jax.lax.scan(body, (start, alive, at_first), (jnp.arange(length), context, actions))
    return state, trajectory


def step_keys(key: Key, time: jax.Array, batch: int) -> tuple[Key, Key, Key]:
    """The keys of one rollout step: [B] for `act`, [B] for `step`, one for the resets."""
    key_act, key_step, key_reset = jax.random.split(jax.random.fold_in(key, time), 3)
    return jax.random.split(key_act, batch), jax.random.split(key_step, batch), key_reset


def copies(memory: Any, count: int) -> Any:
    """`count` copies of a memory, [B, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), memory)
