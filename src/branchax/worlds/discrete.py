"""Gymnasium's classic control with discrete actions: the one-hot vector [A] of the action's index there."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from branchax.types import Key, Transition
from branchax.worlds.base import World, WorldSpec, WorldState, make_world
from branchax.worlds.classic import cartpole, runge_kutta


def cartpole_discrete(episode_length: int = 500) -> World:
    """Gymnasium's CartPole-v1: `classic.cartpole` with the full force to the left or to the right, F = -10 or 10 N.

    `obs [4]` and reward are the same; `action [2]`.
    """
    continuous = cartpole(episode_length)

    def step(key: Key, state: WorldState, action: jax.Array) -> tuple[WorldState, Transition]:
        force = jnp.array([[-1.0], [1.0]])[jnp.argmax(action)]
        after, transition = continuous.step(key, state, force)
        return after, transition._replace(action=action)

    spec = continuous.spec._replace(
        name="classic/cartpole_discrete", action_size=2, discrete=True, differentiable=False
    )
    return World(spec, continuous.reset, step)


def acrobot_arrived(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The acrobot's tip is more than 1 m above the pivot: -cos(a_1) - cos(a_1 + a_2) > 1. Returns [] bool."""
    del obs, action
    cos_1, sin_1, cos_2, sin_2 = next_obs[:4]
    return -cos_1 - (cos_1 * cos_2 - sin_1 * sin_2) > 1.0


def acrobot(episode_length: int = 500) -> World:
    """Gymnasium's Acrobot-v1 (Sutton 1996, with the equations of Sutton and Barto's book): swing the tip above a line.

    Two links of 1 m and 1 kg hang from a pivot, with their centres of mass halfway and moments of inertia of 1 kg m^2.
    With a_1 the angle of the first from hanging down and a_2 that of the second relative to the first [rad], w_i their
    velocities [rad/s], c = cos(a_2), s = sin(a_2), g = 9.8 m/s^2 and u = -1, 0 or 1 N m the torque at the joint,

        (3.5 + c) w_1'      + (1.25 + c / 2) w_2' = s w_2 (w_1 + w_2 / 2) - 1.5 g sin(a_1) - g/2 sin(a_1 + a_2)
        (1.25 + c / 2) w_1' + 1.25 w_2'           = u - s w_1^2 / 2                        - g/2 sin(a_1 + a_2)

    A step of 0.2 s is one of the classical Runge-Kutta method, after which |w_1| is clipped to 4 pi and |w_2| to 9 pi.
    `obs [6]` is cos(a_1), sin(a_1), cos(a_2), sin(a_2), w_1, w_2; `action [3]`. Episodes start within 0.1 of rest. The
    reward is -1 until the step that lifts the tip high enough (`acrobot_arrived`), which has 0 and terminates.
    """
    gravity = 9.8

    def observe(state: jax.Array) -> jax.Array:
        a_1, a_2, w_1, w_2 = state
        return jnp.stack([jnp.cos(a_1), jnp.sin(a_1), jnp.cos(a_2), jnp.sin(a_2), w_1, w_2])

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        state = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return state, observe(state)

    def slope(state: jax.Array, torque: jax.Array) -> jax.Array:
        a_1, a_2, w_1, w_2 = state
        cos, sin = jnp.cos(a_2), jnp.sin(a_2)
        m_11, m_12, m_22 = 3.5 + cos, 1.25 + cos / 2, 1.25  # the mass matrix
        weight = gravity / 2 * jnp.sin(a_1 + a_2)
        first = sin * w_2 * (w_1 + w_2 / 2) - 1.5 * gravity * jnp.sin(a_1) - weight
        second = torque - sin * w_1**2 / 2 - weight
        determinant = m_11 * m_22 - m_12**2
        spins = (m_22 * first - m_12 * second) / determinant, (m_11 * second - m_12 * first) / determinant
        return jnp.stack([w_1, w_2, *spins])

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        del key
        torque = jnp.array([-1.0, 0.0, 1.0])[jnp.argmax(action)]
        after = runge_kutta(lambda state: slope(state, torque), state, 0.2)
        angle = jnp.mod(after[:2] + jnp.pi, 2 * jnp.pi) - jnp.pi
        fastest = jnp.array([4 * jnp.pi, 9 * jnp.pi])
        after = jnp.concatenate([angle, jnp.clip(after[2:], -fastest, fastest)])
        obs = observe(after)
        terminated = acrobot_arrived(obs, action, obs)
        return after, obs, jnp.where(terminated, 0.0, -jnp.ones_like(torque)), terminated

    spec = WorldSpec("classic/acrobot", 6, 3, episode_length, True, False, acrobot_arrived)
    return make_world(spec, reset, step)


def mountain_car_arrived(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The car is at the flag, at 0.5, or past it, and not on its way back. Returns [] bool."""
    del obs, action
    return (next_obs[0] >= 0.5) & (next_obs[1] >= 0.0)


def mountain_car(episode_length: int = 200) -> World:
    """Gymnasium's MountainCar-v0 (Moore 1990; Sutton and Barto 2018, Example 10.1): rock a weak car out of a valley.

    With push u = -1, 0 or 1, one step, which is the unit of time, is

        velocity' = clip(velocity + 0.001 u - 0.0025 cos(3 position), -0.07, 0.07)
        position' = clip(position + velocity', -1.2, 0.6)

    and running into the wall at -1.2 stops the car. `obs [2]` is position and velocity, `action [3]`. An episode starts
    at rest at -0.6 to -0.4 and terminates at the flag (`mountain_car_arrived`). The reward is -1 at every step, the
    last one too.
    """

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        position = jax.random.uniform(key, minval=-0.6, maxval=-0.4)
        state = jnp.stack([position, jnp.zeros_like(position)])
        return state, state

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        del key
        position, velocity = state
        push = jnp.array([-0.001, 0.0, 0.001])[jnp.argmax(action)]
        velocity = jnp.clip(velocity + push - 0.0025 * jnp.cos(3 * position), -0.07, 0.07)
        position = jnp.clip(position + velocity, -1.2, 0.6)
        velocity = jnp.where(position <= -1.2, jnp.maximum(velocity, 0.0), velocity)
        after = jnp.stack([position, velocity])
        return after, after, -jnp.ones_like(push), mountain_car_arrived(state, action, after)

    spec = WorldSpec("classic/mountain_car", 2, 3, episode_length, True, False, mountain_car_arrived)
    return make_world(spec, reset, step)


DISCRETE: dict[str, Callable[..., World]] = {
    "cartpole_discrete": cartpole_discrete,
    "acrobot": acrobot,
    "mountain_car": mountain_car,
}
