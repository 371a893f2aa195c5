"""Brax's bodies for the viewer: their shapes, their poses, and their poses read back from observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from branchax.worlds.base import WorldState

SHAPES = {0: "plane", 2: "sphere", 3: "capsule", 4: "ellipsoid", 5: "cylinder", 6: "box"}  # MuJoCo's own numbers
EXACT = 5e-3  # largest error of a rebuilt body: in metres, and as 1 - |cosine of half the angle|


class Bodies(NamedTuple):
    """A system of rigid bodies. Poses [..., L, 7] are positions [m] and unit quaternions (w, x, y, z) of its links."""

    geoms: list[dict[str, Any]]  # JSON-ready: link (-1: fixed), kind, size, pos, rot
    links: int
    seconds: float  # of one step
    rebuild: Callable[[np.ndarray, np.ndarray], np.ndarray | None]  # (obs [T, D], first pose [L, 7]) -> [T, L, 7]


def pose(state: WorldState) -> jax.Array:
    """The pose [L, 7] of a Brax world's state."""
    x = state.inner.pipeline_state.x
    return jax.numpy.concatenate([x.pos, x.rot], -1)


def joints(state: WorldState) -> jax.Array:
    """The joint positions [Q] of a Brax world's state, MuJoCo's `qpos`."""
    return state.inner.pipeline_state.q


def has_bodies(world: str) -> bool:
    """Whether a world is a Brax environment with physics."""
    return world.startswith("brax/") and world != "brax/fast"


def bodies(env: Any, name: str) -> Bodies:
    """The bodies of a Brax environment; `name` is its name in Brax (without `brax/`)."""
    system, model = env.sys, env.sys.mj_model
    geoms = []
    for i in range(model.ngeom):
        kind = SHAPES.get(int(model.geom_type[i]))
        if kind is None or model.geom_group[i] > 2:  # MuJoCo's viewer hides the groups from 3 on
            continue
        place = [model.geom_size[i], model.geom_pos[i], model.geom_quat[i]]
        size, pos, rot = (np.round(x, 4).tolist() for x in place)
        link = int(model.geom_bodyid[i]) - 1  # Brax's links are MuJoCo's bodies, without the world
        geoms.append({"link": link, "kind": kind, "size": size, "pos": pos, "rot": rot})
    return Bodies(geoms, system.num_links(), float(env.dt), _rebuilder(name, system, float(env.dt)))


def _rebuilder(name: str, system: Any, dt: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray | None]:
    """A function that reads joint positions from observations and applies forward kinematics."""
    size = system.q_size()

    def joints(obs: np.ndarray, first: np.ndarray) -> np.ndarray | None:
        hidden = HIDDEN.get(name)
        if name == "inverted_double_pendulum":
            return np.concatenate([obs[:, :1], np.arctan2(obs[:, 1:3], obs[:, 3:5])], -1)
        if name == "reacher":
            return np.concatenate([np.arctan2(obs[:, 2:4], obs[:, 0:2]), obs[:, 4:6]], -1)
        if hidden is None:
            return None
        q = np.concatenate([np.zeros((len(obs), hidden)), obs[:, : size - hidden]], -1)
        speed = obs[:, size - hidden : size]
        q[:, :hidden] = first[0, :hidden] + dt * np.cumsum(np.concatenate([np.zeros((1, hidden)), speed[1:]]), 0)
        if name in ("hopper", "walker2d"):
            q[:, 1] -= poses(system, np.zeros((1, size)))[0, 0, 2]  # here the observation has the torso's height
        if system.link_types[0] == "f":
            q[:, 3:7] /= np.linalg.norm(q[:, 3:7], axis=-1, keepdims=True)
        return q

    def rebuild(obs: np.ndarray, first: np.ndarray) -> np.ndarray | None:
        q = joints(obs, first)
        return None if q is None else poses(system, q)

    return rebuild


# How many of the first joint positions an observation leaves out. It has the other positions and then all velocities,
# in order. The hidden ones are only the position of the body along the ground; they are integrated from velocities.
HIDDEN = {
    "inverted_pendulum": 0,
    "hopper": 1,
    "walker2d": 1,
    "halfcheetah": 1,
    "swimmer": 2,
    "ant": 2,
    "humanoid": 2,
    "humanoidstandup": 2,
}


def poses(system: Any, q: np.ndarray) -> np.ndarray:
    """Forward kinematics: joint positions [T, Q] -> poses [T, L, 7]."""
    from brax import kinematics

    def forward(q: jax.Array) -> jax.Array:
        x, _ = kinematics.forward(system, q, jax.numpy.zeros(system.qd_size()))
        return jax.numpy.concatenate([x.pos, x.rot], -1)

    return np.asarray(jax.jit(jax.vmap(forward))(jax.numpy.asarray(q, "float32")))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference between two poses [T, L, 7], ignoring the first link's position along the ground."""
    shift = lambda p: p[..., :3] - p[:, :1, :3] * np.array([1.0, 1.0, 0.0])  # noqa: E731
    turned = 1 - np.abs((one[..., 3:] * other[..., 3:]).sum(-1))
    return float(max(np.abs(shift(one) - shift(other)).max(), turned.max()))
