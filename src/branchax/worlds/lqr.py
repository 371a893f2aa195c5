"""Linear dynamics with quadratic cost: a world with closed forms of the optimal policy, value and policy gradient.

    x_0 ~ N(0, init_std^2 I)        x_{t+1} = A x_t + B u_t + w_t,   w_t ~ N(0, noise_std^2 I)
    reward_t = -(x_t' Q x_t + u_t' R u_t)

Gradient estimators and value functions learned elsewhere in the library are compared with these. All functions here are
exact for a horizon of T steps and a discount, and work in the precision of the system's arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax.types import Key
from branchax.worlds.base import World, WorldSpec, make_world, never


class LinearSystem(NamedTuple):
    """A linear-quadratic control problem. Q must be positive semidefinite, R positive definite, both symmetric."""

    a: jax.Array  # [D, D]
    b: jax.Array  # [D, A]
    q: jax.Array  # [D, D]
    r: jax.Array  # [A, A]
    noise_std: jax.Array | float = 0.0  # [] of the process noise in each entry of the state
    init_std: jax.Array | float = 1.0  # [] of the initial state in each entry


def double_integrator() -> LinearSystem:
    """A unit mass on a line, each force held for 0.1 s; the state is position and velocity (D = 2, A = 1)."""
    return LinearSystem(
        a=jnp.array([[1.0, 0.1], [0.0, 1.0]]),
        b=jnp.array([[0.005], [0.1]]),
        q=jnp.eye(2),
        r=0.1 * jnp.eye(1),
    )


def random_lqr(key: Key, obs_size: int, action_size: int, spectral_radius: float = 0.9) -> LinearSystem:
    """A random system with Q = I and R = I, stable without control when `spectral_radius` is below 1.

    A and B are Gaussian; A is rescaled so that its largest eigenvalue has magnitude `spectral_radius`, and the entries
    of B have variance 1 / D. Runs on the host, not under `jit`.
    """
    key_a, key_b = jax.random.split(key)
    a = np.asarray(jax.random.normal(key_a, (obs_size, obs_size)))
    b = np.asarray(jax.random.normal(key_b, (obs_size, action_size)))
    scale = spectral_radius / np.max(np.abs(np.linalg.eigvals(a)))
    matrices = a * scale, b / np.sqrt(obs_size), np.eye(obs_size), np.eye(action_size)
    return LinearSystem(*(jnp.asarray(x, float) for x in matrices))


def lqr(system: LinearSystem | None = None, episode_length: int = 100) -> World:
    """The system as a world (the default is `double_integrator`). The state is observed; actions are not clipped."""
    system = double_integrator() if system is None else system
    obs_size, action_size = system.b.shape

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        state = system.init_std * jax.random.normal(key, (obs_size,), system.a.dtype)
        return state, state

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        reward = -(state @ system.q @ state + action @ system.r @ action)
        noise = system.noise_std * jax.random.normal(key, (obs_size,), system.a.dtype)
        state = system.a @ state + system.b @ action + noise
        return state, state, reward, jnp.zeros((), bool)

    spec = WorldSpec("classic/lqr", obs_size, action_size, episode_length, termination=never, clips=False)
    return make_world(spec, reset, step)


# --- the optimum ------------------------------------------------------------------------------------------------------


class Optimum(NamedTuple):
    """The optimal policy u_t = -gain[t] x_t and its value -(x' cost[t] x + constant[t]) with T - t steps to go."""

    gain: jax.Array  # [T, A, D]
    cost: jax.Array  # [T + 1, D, D]
    constant: jax.Array  # [T + 1]


def riccati(system: LinearSystem, horizon: int, discount: jax.Array | float = 1.0) -> Optimum:
    """The optimum over `horizon` steps, by the discounted Riccati recursion backwards from P_T = 0, c_T = 0:

        K_t = (R + discount B' P_{t+1} B)^-1 discount B' P_{t+1} A
        P_t = Q + discount A' P_{t+1} (A - B K_t)            c_t = discount (c_{t+1} + noise_std^2 tr P_{t+1})

    (Bertsekas, Dynamic Programming and Optimal Control, volume 1: linear systems and quadratic cost.)
    """
    a, b, q, r = system.a, system.b, system.q, system.r

    def back(later: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], Optimum]:
        cost, constant = later
        gain = jnp.linalg.solve(r + discount * b.T @ cost @ b, discount * b.T @ cost @ a)
        constant = discount * (constant + system.noise_std**2 * jnp.trace(cost))
        cost = q + discount * a.T @ cost @ (a - b @ gain)
        cost = (cost + cost.T) / 2  # rounding would otherwise add up over long horizons
        return (cost, constant), Optimum(gain, cost, constant)

    last = jnp.zeros_like(q), jnp.zeros((), q.dtype)
    _, steps = jax.lax.scan(back, last, length=horizon, reverse=True)
    return Optimum(
        gain=steps.gain,
        cost=jnp.concatenate([steps.cost, last[0][None]]),
        constant=jnp.concatenate([steps.constant, last[1][None]]),
    )


def lqr_gain(system: LinearSystem, horizon: int, discount: jax.Array | float = 1.0) -> jax.Array:
    """The optimal gains `[T, A, D]`, first step first. The first is the stationary one once `horizon` is long."""
    return riccati(system, horizon, discount).gain


def lqr_value(system: LinearSystem, obs: jax.Array, horizon: int, discount: jax.Array | float = 1.0) -> jax.Array:
    """The optimal expected return `[...]` from `obs [..., D]` with `horizon` steps to go."""
    optimum = riccati(system, horizon, discount)
    return -(jnp.einsum("...i,ij,...j->...", obs, optimum.cost[0], obs) + optimum.constant[0])


# --- a given linear policy --------------------------------------------------------------------------------------------


def lqr_return(
    system: LinearSystem,
    gain: jax.Array,
    horizon: int,
    discount: jax.Array | float = 1.0,
    policy_std: jax.Array | float = 0.0,
    moment: jax.Array | None = None,
) -> jax.Array:
    """The expected return `[]` of the policy u = -K x + policy_std e, e ~ N(0, I), over `horizon` steps.

    By the second moments S_t = E[x_t x_t'], with A_K = A - B K and s = policy_std:

        J = -sum_t discount^t (tr((Q + K' R K) S_t) + s^2 tr R)
        S_{t+1} = A_K S_t A_K' + s^2 B B' + noise_std^2 I

    Args:
      system: the problem.
      gain: K `[A, D]`.
      horizon: T.
      discount: of the rewards.
      policy_std: of the policy's noise, `[]` or `[A]`.
      moment: S_0 `[D, D]`, such as `x0 x0'` for a fixed start; the default is the world's own, init_std^2 I.
    """
    moments, discounts = _moments(system, gain, horizon, discount, policy_std, moment)
    stage = system.q + gain.T @ system.r @ gain
    spread = jnp.trace(system.r @ _covariance(system, policy_std))
    return -discounts @ (jnp.einsum("ij,tji->t", stage, moments) + spread)


def lqr_gradient(
    system: LinearSystem,
    gain: jax.Array,
    horizon: int,
    discount: jax.Array | float = 1.0,
    policy_std: jax.Array | float = 0.0,
    moment: jax.Array | None = None,
) -> jax.Array:
    """The exact gradient `[A, D]` of `lqr_return` with respect to the gain; arguments as there.

    With the policy's cost to go backwards from P_T = 0, P_t = Q + K' R K + discount A_K' P_{t+1} A_K,

        dJ/dK = -2 sum_t discount^t ((R + discount B' P_{t+1} B) K - discount B' P_{t+1} A) S_t

    (Fazel et al. 2018, arXiv:1801.05039, lemma 1, here for a finite horizon.) The policy's noise enters only through
    S_t.
    """
    a, b, r = system.a, system.b, system.r
    moments, discounts = _moments(system, gain, horizon, discount, policy_std, moment)
    closed, stage = a - b @ gain, system.q + gain.T @ r @ gain

    def back(cost: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        slope = r @ gain - discount * b.T @ cost @ closed  # [A, D], the bracket in the formula above
        return stage + discount * closed.T @ cost @ closed, slope

    _, slopes = jax.lax.scan(back, jnp.zeros_like(system.q), length=horizon, reverse=True)
    return -2 * jnp.einsum("t,tai,tij->aj", discounts, slopes, moments)


def _moments(
    system: LinearSystem,
    gain: jax.Array,
    horizon: int,
    discount: jax.Array | float,
    policy_std: jax.Array | float,
    moment: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """E[x_t x_t'] `[T, D, D]` under the policy, and discount^t `[T]`."""
    closed, eye = system.a - system.b @ gain, jnp.eye(system.a.shape[0], dtype=system.a.dtype)
    added = system.b @ _covariance(system, policy_std) @ system.b.T + system.noise_std**2 * eye

    def forward(now: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return closed @ now @ closed.T + added, now

    first = system.init_std**2 * eye if moment is None else moment
    _, moments = jax.lax.scan(forward, first, length=horizon)
    return moments, discount ** jnp.arange(horizon, dtype=system.a.dtype)


def _covariance(system: LinearSystem, policy_std: jax.Array | float) -> jax.Array:
    """The covariance of the policy's noise, `[A, A]`."""
    action_size = system.b.shape[1]
    return jnp.diag(jnp.broadcast_to(jnp.asarray(policy_std, system.a.dtype) ** 2, (action_size,)))
