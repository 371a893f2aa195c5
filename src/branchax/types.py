"""The records used throughout branchax, and the letters that name their axes.

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
Metrics = dict[str, Any]  # scalars [], `Largest` or `Total` ones; named "part/what"
Params = Any  # a pytree of arrays


class Transition(NamedTuple):
    """One step of any world (environment), real or imagined. All leaves share their leading axes.

    `next_obs` is always the observation *before* any reset, so `next_obs == f(obs, action)` holds for every row, also
    for the last of an episode. `terminated`: the episode ended, and the value after it is zero. `truncated`: in a real
    world, only the time limit was reached, so targets must bootstrap from the next value; in an imagined one, which has
    no time limit, the rollout left what the model knows.
    """

    obs: jax.Array  # [..., D]
    action: jax.Array  # [..., A]
    reward: jax.Array  # [...]
    next_obs: jax.Array  # [..., D]
    terminated: jax.Array  # [...] bool
    truncated: jax.Array  # [...] bool


class Row(NamedTuple):
    """A row of the replay buffer: a transition, and the simulator's state at `obs` if an oracle needs it."""

    transition: Transition
    state: Any = None  # the world's state before the step; None if rollouts never branch in the simulator


class Trajectory(NamedTuple):
    """The steps of a rollout, time first."""

    transition: Transition  # [H, B, ...]
    valid: jax.Array  # [H, B] bool; False after an end, and after a shortened horizon
    state: Any  # [H, B, ...] the world's state before each step (free if unused: the compiler drops it)
    extras: Any  # [H, B, ...] the second output of the policy's `act`


def row_at(obs: jax.Array, action_size: int, state: Any = None) -> Row:
    """A row that a model can branch off, at an observation [D] or a simulator's `state`; the rest of it is blank."""
    zero, no = jnp.zeros(()), jnp.zeros((), bool)
    return Row(Transition(obs, jnp.zeros(action_size), zero, obs, no, no), state)


def choose(mask: jax.Array, new: Any, old: Any) -> Any:
    """`new` where `mask` [...] is true, else `old`; pytrees of [..., *shape]."""
    pick = lambda x, y: jnp.where(mask.reshape(*mask.shape, *[1] * (y.ndim - mask.ndim)), x, y)  # noqa: E731
    return jax.tree.map(pick, new, old)


class Largest(NamedTuple):
    """A metric that is reported as its maximum over an epoch; others are averaged, but for a `Total`."""

    value: jax.Array  # []


class Total(NamedTuple):
    """A metric that is reported as its sum over an epoch."""

    value: jax.Array  # []


class Stream(enum.IntEnum):
    """One stream of random numbers per component, so that a new component does not change the draws of the others."""

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
    """The key of a component for its `count`-th use (such as an epoch): `fold_in(fold_in(key, component), count)`."""
    return jax.random.fold_in(jax.random.fold_in(key, component), count)


def finite(rows: Any) -> jax.Array:
    """Whether every float of each row is finite: pytree of [B, ...] -> [B] bool."""
    leaves = jax.tree.leaves(rows)
    floats = [jnp.isfinite(x).reshape(x.shape[0], -1).all(-1) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.ones(leaves[0].shape[0], bool), *floats]).all(0)
