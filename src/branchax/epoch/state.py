"""The state of a run: one pytree that holds everything, so that saving it is an exact resume."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from branchax.replay import Ring
from branchax.types import Key, Trajectory, Transition, choose, finite
from branchax.worlds.base import WorldState

copy_state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


class Counts(NamedTuple):
    """How much has been done; all []."""

    env_steps: jax.Array  # int32; offline, the steps by which the schedule has advanced
    model_steps: jax.Array  # uint32: long rollouts by the thousand pass 2^31
    updates: jax.Array  # int32
    epochs: jax.Array  # int32


class Fault(NamedTuple):
    """The rows of the last epoch in which a real world returned a number that is not finite.

    They never enter the buffer, nor any statistics, and the world starts a new episode after each.
    """

    step: jax.Array  # [] int32, the env step of the first; -1 while there is none
    field: jax.Array  # [] int32, index into `Transition._fields`
    rows: jax.Array  # [] int32, how many there are
    first: Transition  # the first, unbatched


class TrainState(NamedTuple):
    """Everything a run needs to go on. `imagined` and `model` are `()` in a model-free run."""

    key: Key  # [] the seed's root key; never advanced, every draw is `stream(key, component, count)`
    world: WorldState  # [W, ...] the real worlds
    real: Ring  # of `Row`
    imagined: Ring | tuple[()]  # of `Transition`
    model: Any
    agent: Any
    counts: Counts
    fault: Fault


def no_counts() -> Counts:
    """Nothing is done yet. One array each: donated buffers must not be shared."""
    zero = jnp.zeros((), jnp.int32)
    return Counts(jnp.copy(zero), jnp.zeros((), jnp.uint32), jnp.copy(zero), jnp.copy(zero))


def no_fault(row: Any) -> Fault:
    """Nothing has gone wrong; `row` is like a transition, unbatched."""
    minus, zero = jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), row)
    return Fault(minus, zero, jnp.copy(zero), blank)  # one array each: donated buffers must not be shared


def first_fault(fault: Fault, env_steps: jax.Array, rows: Transition) -> Fault:
    """`fault` with the non-finite ones among rows [N, ...] taken from step `env_steps` on."""
    bad = jnp.stack([~finite(x) for x in rows], -1)  # [N, fields]: `finite` takes any pytree of rows
    row, field = jnp.argmax(bad.any(-1)), jnp.argmax(bad, -1)
    found = bad.any() & (fault.step < 0)
    return Fault(
        jnp.where(found, env_steps + row.astype(jnp.int32), fault.step),
        jnp.where(found, field[row].astype(jnp.int32), fault.field),
        fault.rows + bad.any(-1).sum(dtype=jnp.int32),
        jax.tree.map(lambda old, new: jnp.where(found, new[row], old), fault.first, rows),
    )


def without_faults(trajectory: Trajectory, good: jax.Array) -> Trajectory:
    """The trajectory [H, W, ...] with the rows that are not `good` [H, W] made invalid: blank and truncated steps.

    Blank, and not only invalid, because zero times NaN is NaN.
    """
    t = trajectory.transition

    blank = jax.tree.map(jnp.zeros_like, t)
    obs = choose(good, t.obs, blank.obs)
    blank = blank._replace(obs=obs, next_obs=obs, truncated=jnp.ones_like(good))
    transition = choose(good, t, blank)
    return trajectory._replace(transition=transition, valid=trajectory.valid & good)
