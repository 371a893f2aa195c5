"""The records that flow through branchax, and the letters that name their axes.

Every array in the library is described by these letters, outermost axis first:

    K  seeds trained at once        B  batch (samples, parallel worlds)
    H  horizon (time)               E  ensemble members
    D  observation entries          A  action entries
    C  capacity of a buffer

`[..., D]` means any leading axes. Scalars are written `[]`.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Key = jax.Array  # [] typed PRNG key (`jax.random.key`)
Metrics = dict[str, Any]  # scalars [], or `Largest` ones; named "part/what"
Params = Any  # a pytree of arrays


class Transition(NamedTuple):
    """One step of any world, real or imagined. All leaves share their leading axes.

    `next_obs` is always the observation *before* any reset, so `next_obs == f(obs, action)` holds on every row, the
    last of an episode too. `terminated` says that the world ended (its value is zero from there on); `truncated` says
    that only the clock ran out (its value goes on, and targets must bootstrap through it).
    """

    obs: jax.Array  # [..., D]
    action: jax.Array  # [..., A]
    reward: jax.Array  # [...]
    next_obs: jax.Array  # [..., D]
    terminated: jax.Array  # [...] bool
    truncated: jax.Array  # [...] bool


class Row(NamedTuple):
    """What the replay buffer stores: a transition, and the simulator's own state at `obs` when an oracle needs it."""

    transition: Transition
    state: Any = None  # the world's state before the step, or None when nothing will branch the simulator itself


class Trajectory(NamedTuple):
    """What a rollout returns, time first."""

    transition: Transition  # [H, B, ...]
    valid: jax.Array  # [H, B] bool; False from the step after a termination on, and past a shortened horizon
    state: Any  # [H, B, ...] the world's state before each step (free when unused: the compiler drops it)
    extras: Any  # [H, B, ...] whatever the policy's `act` returned beside the action


class Largest(NamedTuple):
    """A metric of updates that is reported as its largest value over an epoch, where others are as their mean."""

    value: jax.Array  # []


class Stream(enum.IntEnum):
    """One stream of random numbers per component, so that adding one leaves the draws of the others as they were."""

    WORLD = 0
    MODEL = 1
    AGENT = 2
    EXPLORE = 3
    COLLECT = 4
    FIT = 5
    IMAGINE = 6
    IMPROVE = 7
    EVALUATE = 8
    WARM_UP = 9


def stream(key: Key, component: Stream, count: jax.Array | int = 0) -> Key:
    """The key of a component at its `count`-th use (an epoch, say): `fold_in(fold_in(key, component), count)`."""
    return jax.random.fold_in(jax.random.fold_in(key, component), count)


def finite(rows: Any) -> jax.Array:
    """Whether every float of each row is finite: pytree of [B, ...] -> [B] bool."""
    leaves = jax.tree.leaves(rows)
    floats = [jnp.isfinite(x).reshape(x.shape[0], -1).all(-1) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.ones(leaves[0].shape[0], bool), *floats]).all(0)
