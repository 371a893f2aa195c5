"""The question that every gradient estimator answers, and the rollout that they all take.

    J(theta) = E[ sum_{t < H} discount^t r_t  (+ discount^H V(s_H)) ],    a_t ~ pi(. | s_t; theta)

An estimator is a function `(key, theta) -> gradient of J`, the mean over a number of samples fixed when it is made. The
likelihood ratio, the pathwise gradient, finite differences and total propagation produce the same trajectories for the
same key.

A trajectory ends with its episode: rewards after a termination or a time limit do not count, whatever the horizon.
Where the time limit or the horizon ended it, `value` replaces the missing return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax.policies import Policy
from branchax.returns import goes_on
from branchax.rollout import rollout
from branchax.types import Key, Params, Trajectory
from branchax.worlds.base import World, WorldState

Estimator = Callable[[Key, Params], Params]
Value = Callable[[jax.Array, jax.Array], jax.Array]  # (obs [D], time []) -> [], the return to be had from there on


class EstimatorError(ValueError):
    """An estimator was asked of a world or policy that cannot give it."""


class Problem(NamedTuple):
    """A return to differentiate. `world` may be real, analytic or learned."""

    world: World
    policy: Policy
    start: Callable[[Key, int], WorldState]  # (key, B) -> [B, ...]
    horizon: int  # H
    discount: jax.Array | float = 1.0


def initial(world: World) -> Callable[[Key, int], WorldState]:
    """Starts for a `Problem`: the world's own initial states."""
    return lambda key, count: jax.vmap(world.reset)(jax.random.split(key, count))


def sample(problem: Problem, key: Key, params: Params, samples: int, window: int | None = None) -> Trajectory:
    """`samples` trajectories [H, B, ...] under pi(theta); `extras` is zeta. Differentiable if the world is.

    Rows after the end of an episode are not valid.
    """
    key_start, key_run = jax.random.split(key)
    start, act = problem.start(key_start, samples), problem.policy.act(params)
    return rollout(key_run, problem.world, act, start, problem.horizon, window=window)[1]


def discounts(problem: Problem) -> jax.Array:
    """discount^t, [H, 1]."""
    return (problem.discount ** jnp.arange(problem.horizon, dtype=jnp.result_type(float)))[:, None]


def over_time(value: Value, obs: jax.Array, first: int = 0) -> jax.Array:
    """V at obs [H, B, D], whose first row is at time `first`: [H, B]."""
    times = first + jnp.arange(obs.shape[0])
    return jax.vmap(lambda x, t: jax.vmap(lambda o: value(o, t))(x))(obs, times)


def returns(
    trajectory: Trajectory, discount: jax.Array | float, value: Value | None = None, window: int | None = None
) -> jax.Array:
    """sum_t discount^t r_t over the valid steps of each trajectory, bootstrapped by `value` where it was cut: [B].

    Under a `window` the derivative is cut every so many steps. There the value, if there is one, stands in for what is
    lost: V(s) - stop(V(s)) adds nothing but V's own derivative (as the short windows of SHAC do, Xu et al. 2022,
    arXiv:2204.07137, eq. 5).
    """
    t, length = trajectory.transition, trajectory.valid.shape[0]
    powers = (discount ** jnp.arange(length, dtype=t.reward.dtype))[:, None]
    reward = jnp.where(trajectory.valid, t.reward, 0.0)
    if value is not None:
        on, later = goes_on(trajectory), over_time(value, t.next_obs, first=1)
        reward = reward + jnp.where(trajectory.valid & ~on & ~t.terminated, discount * later, 0.0)
        if window is not None:
            is_cut = on & ((1 + jnp.arange(length)) % window == 0)[:, None]
            reward = reward + jnp.where(is_cut, discount * (later - jax.lax.stop_gradient(later)), 0.0)
    return (powers * reward).sum(0)
