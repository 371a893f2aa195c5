"""Returns and advantages of trajectories, time first. After a termination the value is zero, after a truncation not.

Every recursion runs backwards over `[H, ...]` arrays and stops at the last step of each episode (`goes_on`), so that
neither a reset within the trajectory nor the blank rows after an end affect earlier steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from branchax.types import Trajectory


def goes_on(trajectory: Trajectory) -> jax.Array:
    """Whether the next row continues this one [H, B]: both are valid, and no episode ended in between."""
    t = trajectory.transition
    next_valid = jnp.concatenate([trajectory.valid[1:], jnp.zeros_like(trajectory.valid[:1])])
    return trajectory.valid & next_valid & ~t.terminated & ~t.truncated


def discounted_sum(x: jax.Array, carries: jax.Array, rate: jax.Array | float) -> jax.Array:
    """y_t = x_t + rate carries_t y_{t+1}, y_H = 0; x [H, ...], carries [H, ...] bool -> [H, ...]."""

    def back(later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y = now[0] + rate * jnp.where(now[1], later, 0.0)
        return y, y

    return jax.lax.scan(back, jnp.zeros_like(x[0]), (x, carries), reverse=True)[1]


def rewards_to_go(trajectory: Trajectory, discount: jax.Array | float) -> jax.Array:
    """R_t = sum_{k >= t} discount^(k - t) r_k over the valid steps of t's episode, without bootstrap; [H, B]."""
    reward = jnp.where(trajectory.valid, trajectory.transition.reward, 0.0)
    return discounted_sum(reward, goes_on(trajectory), discount)


def gae(
    trajectory: Trajectory,
    value: jax.Array,
    next_value: jax.Array,
    discount: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> jax.Array:
    """Generalised advantage estimates [H, B] (Schulman et al. 2016, arXiv:1506.02438, eq. 11 and 16).

        delta_t = r_t + discount (1 - terminated_t) V(s'_t) - V(s_t)        A_t = delta_t + discount lambda A_{t+1}

    Args:
      trajectory: [H, B, ...].
      value: V(s_t) [H, B].
      next_value: V(s'_t) [H, B], at the true next observations: truncated and last steps bootstrap from it.
      discount: gamma.
      gae_lambda: 1 gives Monte Carlo returns minus the value, 0 one-step temporal differences.
    """
    t = trajectory.transition
    delta = t.reward + discount * jnp.where(t.terminated, 0.0, next_value) - value
    delta = jnp.where(trajectory.valid, delta, 0.0)
    return discounted_sum(delta, goes_on(trajectory), discount * gae_lambda)


def bootstrapped(
    trajectory: Trajectory, next_value: jax.Array, bonus: jax.Array, discount: jax.Array | float
) -> jax.Array:
    """Action values q_t [H, B] along a rollout that ends with a bootstrap value: model-based value expansion.

        q_t = r_t + discount (1 - terminated_t) (bonus_{t+1} + q_{t+1}),    with V(s'_t) for the last bracket at the end

    (Feinberg et al. 2018, arXiv:1803.00101, eq. 1.) `bonus` is added for each action: the entropy, for soft values.

    Args:
      trajectory: [H, B, ...].
      next_value: V(s'_t) [H, B].
      bonus: [H, B], for the actions of the trajectory.
      discount: gamma.
    """
    t, on = trajectory.transition, goes_on(trajectory)
    later = jnp.where(on, jnp.roll(bonus, -1, 0), next_value)
    reward = t.reward + discount * jnp.where(t.terminated, 0.0, later)
    return discounted_sum(jnp.where(trajectory.valid, reward, 0.0), on, discount)
