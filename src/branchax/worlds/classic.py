"""Classic control as pure, differentiable functions. Actions are in [-1, 1] and clipped there, as actuators do.

Episode lengths are Gymnasium's if it has the task. (Only `lqr` does not clip actions: see `worlds/lqr.py`.)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from branchax.types import Key
from branchax.worlds.base import World, WorldSpec, make_world, never
from branchax.worlds.lqr import lqr


def pendulum(episode_length: int = 200) -> World:
    """Gymnasium's Pendulum-v1: swing a pendulum up with a motor too weak to lift it, and hold it there.

    With g = 10 m/s^2, m = 1 kg, l = 1 m, dt = 0.05 s and torque u = 2 clip(action, -1, 1) N m:

        velocity' = clip(velocity + (3 g / (2 l) sin(angle) + 3 / (m l^2) u) dt, -8, 8)      [rad/s]
        angle'    = angle + velocity' dt                                                    [rad, 0 is upright]
        reward    = -(angle^2 + 0.1 velocity^2 + 0.001 u^2)           of the state before the step, |angle| <= pi

    `obs [3]` is cos(angle), sin(angle), velocity; `action [1]`; episodes start anywhere, at up to 1 rad/s, and end only
    by the clock.
    """

    def observe(state: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        state = jax.random.uniform(key, (2,), minval=-1.0) * jnp.array([jnp.pi, 1.0])
        return state, observe(state)

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        del key
        angle, velocity = state[0], state[1]
        torque = 2.0 * jnp.clip(action[0], -1.0, 1.0)
        reward = -(angle**2 + 0.1 * velocity**2 + 0.001 * torque**2)
        velocity = jnp.clip(velocity + (15.0 * jnp.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        angle = angle + velocity * 0.05
        state = jnp.stack([jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi, velocity])
        return state, observe(state), reward, jnp.zeros((), bool)

    return make_world(WorldSpec("classic/pendulum", 3, 1, episode_length, termination=never), reset, step)


def cartpole_fell(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The cart is more than 2.4 m from the middle, or the pole leans by more than 12 degrees. Returns [] bool."""
    del obs, action
    return (jnp.abs(next_obs[0]) > 2.4) | (jnp.abs(next_obs[2]) > 12 * jnp.pi / 180)


def cartpole(episode_length: int = 500) -> World:
    """Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983) with a continuous force.

    A cart of M = 1 kg carries a pole of m = 0.1 kg and half-length l = 0.5 m. With F = 10 clip(action, -1, 1) N,

        push    = (F + m l spin^2 sin(angle)) / (M + m)                                    g = 9.8 m/s^2
        angular = (g sin(angle) - cos(angle) push) / (l (4/3 - m cos(angle)^2 / (M + m)))  [rad/s^2]
        linear  = push - m l angular cos(angle) / (M + m)                                  [m/s^2]

    in explicit Euler steps of 0.02 s. `obs [4]` is the cart's position [m] and velocity, the pole's angle [rad, 0 is
    upright] and spin; `action [1]`. The reward is 1 at every step, the last one too, so it has no gradient of its own.
    An episode starts within 0.05 of rest and terminates when pole or cart leaves its range (`cartpole_fell`).
    """
    gravity, mass, half_length, dt = 9.8, 0.1, 0.5, 0.02
    total_mass = 1.0 + mass

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return state, state

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        del key
        _, velocity, angle, spin = state
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        push = (10.0 * jnp.clip(action[0], -1.0, 1.0) + mass * half_length * spin**2 * sin) / total_mass
        angular = (gravity * sin - cos * push) / (half_length * (4.0 / 3.0 - mass * cos**2 / total_mass))
        linear = push - mass * half_length * angular * cos / total_mass
        after = state + dt * jnp.stack([velocity, linear, spin, angular])
        return after, after, jnp.ones_like(angle), cartpole_fell(state, action, after)

    return make_world(WorldSpec("classic/cartpole", 4, 1, episode_length, termination=cartpole_fell), reset, step)


def point_mass(episode_length: int = 200) -> World:
    """Push a damped point of 1 kg to the origin of the plane and stop there.

    With dt = 0.05 s and force u = clip(action, -1, 1) N, semi-implicit Euler steps of

        velocity' = velocity + (u - 0.5 velocity) dt        position' = position + velocity' dt
        reward    = -(|position|^2 + 0.1 |velocity|^2 + 0.01 |u|^2)                of the state before the step

    `obs [4]` is position [m] and velocity [m/s], `action [2]`. Episodes start at rest in the square [-1, 1]^2 and end
    only by the clock.
    """

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        position = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        state = jnp.concatenate([position, jnp.zeros_like(position)])
        return state, state

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        del key
        position, velocity = state[:2], state[2:]
        force = jnp.clip(action, -1.0, 1.0)
        reward = -(position @ position + 0.1 * velocity @ velocity + 0.01 * force @ force)
        velocity = velocity + 0.05 * (force - 0.5 * velocity)
        after = jnp.concatenate([position + 0.05 * velocity, velocity])
        return after, after, reward, jnp.zeros((), bool)

    return make_world(WorldSpec("classic/point_mass", 4, 2, episode_length, termination=never), reset, step)


def runge_kutta(slope: Callable[[jax.Array], jax.Array], state: jax.Array, dt: float) -> jax.Array:
    """The state `[D]` after one step of `dt` seconds of the classical Runge-Kutta method on state' = slope(state)."""
    k1 = slope(state)
    k2 = slope(state + dt / 2 * k1)
    k3 = slope(state + dt / 2 * k2)
    k4 = slope(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def double_pendulum(episode_length: int = 200) -> World:
    """Raise and hold a double pendulum whose free motion is chaotic: smooth dynamics with gradients that explode.

    Two massless links of l = 1 m, each with m = 1 kg at its end, and g = 9.81 m/s^2. With a_i the angle of link i from
    the upright [rad], w_i its velocity [rad/s], c = cos(a_1 - a_2), s = sin(a_1 - a_2), and u = 5 clip(action, -1, 1)
    N m the torques at the base and at the joint between the links, which turns one on and the other back,

        2 w_1' + c w_2' = u_1 - u_2 - s w_2^2 + 2 g sin(a_1)
        c w_1' +   w_2' =       u_2 + s w_1^2 +   g sin(a_2)

    (Lagrange's equations: Landau and Lifshitz, Mechanics, section 5, problem 1, there with angles from below and
    without torques.) There is no friction. A step of 0.05 s is 10 of the classical Runge-Kutta method, which keep the
    energy of free motion to 1e-3 J over 10 s (hanging and upright are 59 J apart). The torques are too weak to lift the
    links directly, as gravity exerts up to 3 g N m on the base and g N m on the joint, so they have to swing them up.

        reward = cos(a_1) + cos(a_2) - 0.02 sum_i (sqrt(1 + w_i^2) - 1) - 0.001 |u|^2    of the state before the step

    is the height of the tip [m] minus penalties; its gradient is bounded even for fast links. `obs [6]` is
    cos(a_1), sin(a_1), cos(a_2), sin(a_2), w_1, w_2, none of them scaled; `action [2]`. Episodes start at any angles,
    at up to 1 rad/s, and end only by the clock. The largest Lyapunov exponent of free motion is about 1.1 / s at the
    median start: 1 to 1.5 / s for starts well above level, near 0 for those close to hanging.
    """
    gravity, substeps, dt = 9.81, 10, 0.05

    def observe(state: jax.Array) -> jax.Array:
        angle, velocity = state[:2], state[2:]
        turns = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)  # [2, 2]: each link's pair side by side
        return jnp.concatenate([turns.ravel(), velocity])

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        state = jax.random.uniform(key, (4,), minval=-1.0) * jnp.array([jnp.pi, jnp.pi, 1.0, 1.0])
        return state, observe(state)

    def slope(state: jax.Array, torque: jax.Array) -> jax.Array:
        angle, velocity = state[:2], state[2:]
        cos, sin = jnp.cos(angle[0] - angle[1]), jnp.sin(angle[0] - angle[1])
        first = torque[0] - torque[1] - sin * velocity[1] ** 2 + 2 * gravity * jnp.sin(angle[0])
        second = torque[1] + sin * velocity[0] ** 2 + gravity * jnp.sin(angle[1])
        determinant = 2 - cos**2  # of the mass matrix, never below 1
        return jnp.stack([*velocity, (first - cos * second) / determinant, (2 * second - cos * first) / determinant])

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        del key
        torque = 5.0 * jnp.clip(action, -1.0, 1.0)
        angle, velocity = state[:2], state[2:]
        penalty = 0.02 * jnp.sum(jnp.sqrt(1 + velocity**2) - 1) + 0.001 * torque @ torque
        reward = jnp.cos(angle).sum() - penalty

        def substep(state: jax.Array, _: None) -> tuple[jax.Array, None]:
            return runge_kutta(lambda state: slope(state, torque), state, dt / substeps), None

        state, _ = jax.lax.scan(substep, state, length=substeps)
        # Full turns are removed, because growing angles lose digits.
        state = state.at[:2].set(jnp.mod(state[:2] + jnp.pi, 2 * jnp.pi) - jnp.pi)
        return state, observe(state), reward, jnp.zeros((), bool)

    return make_world(WorldSpec("classic/double_pendulum", 6, 2, episode_length, termination=never), reset, step)


CLASSIC: dict[str, Callable[..., World]] = {
    "pendulum": pendulum,
    "cartpole": cartpole,
    "point_mass": point_mass,
    "double_pendulum": double_pendulum,
    "lqr": lqr,
}
