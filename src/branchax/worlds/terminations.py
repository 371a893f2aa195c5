"""When the episodes of Brax's and Gymnasium's environments end, as functions of what a model predicts.

Imagined rollouts have no simulator, so these functions state Brax's own conditions (0.14.2, with each environment's
default arguments) in terms of the observation. Strict and inclusive bounds and the handling of NaN are as in Brax.
Gymnasium's conditions (1.4, v4 and v5) differ only in ways that a model cannot see: exactly on a bound, for NaN, and,
for the double pendulum, by the motion of the tip in the last step of the integrator.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from branchax.worlds.base import Predicate, never
from branchax.worlds.classic import cartpole_fell
from branchax.worlds.discrete import acrobot_arrived, mountain_car_arrived


def inverted_pendulum(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The pole leans by more than 0.2 rad. `next_obs [4]`: cart, pole, and their velocities. Returns [] bool."""
    del obs, action
    return jnp.abs(next_obs[1]) > 0.2


def inverted_double_pendulum(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The tip of two poles of 0.6 m is at most 1 m above the cart. Returns [] bool.

    `next_obs [8]`: cart, sin(q1, q2), cos(q1, q2), velocities, with q2 measured from the first pole; so the tip is at
    y = 0.6 cos(q1) + 0.6 cos(q1 + q2).
    """
    del obs, action
    sin1, sin2, cos1, cos2 = next_obs[1], next_obs[2], next_obs[3], next_obs[4]
    return 0.6 * cos1 + 0.6 * (cos1 * cos2 - sin1 * sin2) <= 1.0


def hopper(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The torso sinks to 0.7 m or leans by 0.2 rad, or any other entry reaches 100. Returns [] bool.

    `next_obs [11]`: height, lean, three joints, six velocities. Brax has a bound of 100 on every state entry. The
    observation clips velocities at 10, so only the bound on positions can be checked here.
    """
    del obs, action
    height, lean = next_obs[0], next_obs[1]
    bounded = jnp.all(jnp.abs(next_obs[1:]) < 100.0)
    return ~(bounded & (height > 0.7) & (height < jnp.inf) & (jnp.abs(lean) < 0.2))


def walker2d(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The torso leaves heights of 0.8 to 2 m or leans by 1 rad. `next_obs [17]`: height, lean, ... Returns [] bool."""
    del obs, action
    height, lean = next_obs[0], next_obs[1]
    return ~((height > 0.8) & (height < 2.0) & (jnp.abs(lean) < 1.0))


def ant(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The torso leaves heights of 0.2 to 1 m. `next_obs [27]`: height, ... Returns [] bool."""
    del obs, action
    return (next_obs[0] < 0.2) | (next_obs[0] > 1.0)


def humanoid(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The torso leaves heights of 1 to 2 m. `next_obs [244]`: height, ... Returns [] bool."""
    del obs, action
    return (next_obs[0] < 1.0) | (next_obs[0] > 2.0)


# All environments of Brax are listed, so that none is forgotten.
BRAX: dict[str, Predicate] = {
    "ant": ant,
    "fast": never,
    "halfcheetah": never,
    "hopper": hopper,
    "humanoid": humanoid,
    "humanoidstandup": never,
    "inverted_pendulum": inverted_pendulum,
    "inverted_double_pendulum": inverted_double_pendulum,
    "pusher": never,
    "reacher": never,
    "swimmer": never,
    "walker2d": walker2d,
}

# Environments and backends where the observation does not show when an episode ends: the end depends on the positions
# of the bodies, but the observation has the joints. With `mjx`, the bodies are one physics step behind the joints; with
# `spring` and `positional`, joints stretch. (Elsewhere the two agree, or the observation has the deciding number.)
UNSEEN: dict[str, tuple[str, ...]] = {
    "ant": ("mjx",),
    "humanoid": ("mjx",),
    "inverted_double_pendulum": ("mjx", "positional", "spring"),
}


def known(name: str, backend: str) -> Predicate | None:
    """The predicate of Brax's environment `name`, or None if a model has to learn when episodes end."""
    return None if backend in UNSEEN.get(name, ()) else BRAX.get(name)


# Gymnasium's, by id. Brax's environments are modelled on these, so the deciding entries are at the same indices.
GYMNASIUM: dict[str, Predicate] = {
    f"{name}-{version}": predicate
    for versions, predicates in (
        (
            ("v4", "v5"),
            {
                "Ant": ant,
                "HalfCheetah": never,
                "Hopper": hopper,
                "Humanoid": humanoid,
                "HumanoidStandup": never,
                "InvertedDoublePendulum": inverted_double_pendulum,
                "InvertedPendulum": inverted_pendulum,
                "Pusher": never,
                "Reacher": never,
                "Swimmer": never,
                "Walker2d": walker2d,
            },
        ),
        (("v0", "v1"), {"CartPole": cartpole_fell}),
        (("v1",), {"Acrobot": acrobot_arrived, "Pendulum": never}),
        (("v0",), {"MountainCar": mountain_car_arrived}),
    )
    for name, predicate in predicates.items()
    for version in versions
}

# Arguments of environments that change when episodes end, or where the observation has the deciding entries.
CHANGED_BY = {
    "exclude_current_positions_from_observation",
    "frame_skip",
    "goal_velocity",
    "healthy_angle_range",
    "healthy_state_range",
    "healthy_z_range",
    "terminate_when_unhealthy",
    "xml_file",
}
