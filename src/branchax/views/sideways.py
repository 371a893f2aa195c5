"""Gymnasium's planar MuJoCo bodies seen from the side, read from observations: no window and no OpenGL is needed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from branchax.outside import arguments_of
from branchax.views.shapes import ACCENT, BODY, GROUND, Scene, Shape

TICKS = 0.5  # metres between two marks on the ground


class Planar(NamedTuple):
    """How a body that moves in the plane of x and z is shown."""

    view: tuple[float, float, float, float]  # x from, z from, x to, z to [m], about the first body where it travels
    travels: bool = True
    joints: Callable[[np.ndarray], np.ndarray] | None = None  # obs [T, D] -> positions [T, n], where they are not in it


def _two_poles(obs: np.ndarray) -> np.ndarray:
    """The cart's place, and two angles of which observations have the sines and then the cosines."""
    return np.concatenate([obs[:, :1], np.arctan2(obs[:, 1:3], obs[:, 3:5])], -1)


# Unless `joints` says otherwise, observations are the joint positions, but for the first ones that are left out (where
# the body is along the ground, if it was not asked for), and then all velocities.
PLANAR = {
    "Hopper": Planar((-1.3, -0.15, 1.3, 2.1)),
    "Walker2d": Planar((-1.3, -0.15, 1.3, 1.8)),
    "HalfCheetah": Planar((-1.5, -0.15, 1.5, 1.4)),
    "InvertedPendulum": Planar((-1.4, -0.4, 1.4, 0.9), travels=False),
    "InvertedDoublePendulum": Planar((-1.4, -0.4, 1.4, 1.5), travels=False, joints=_two_poles),
}


def planar(world: str) -> str | None:
    """The task of a world `gym/<task>-v<n>` that can be drawn, or None."""
    family, _, name = world.partition("/")
    task = name.partition("-v")[0]
    return task if family == "gym" and task in PLANAR else None


def step_seconds(world: str, arguments: Sequence[str] = ()) -> float:
    """Seconds that a step takes in a world that `planar` knows, made with `arguments` ("name=value")."""
    return _body(world, tuple(arguments))[1]


@functools.lru_cache(maxsize=8)
def _body(world: str, arguments: tuple[str, ...]) -> tuple[Any, float]:
    """MuJoCo's model of a world, and the seconds of a step."""
    import gymnasium

    env: Any = gymnasium.make(world.removeprefix("gym/"), **arguments_of(arguments, "world_args"))
    try:
        return env.unwrapped.model, float(env.unwrapped.dt)
    finally:
        env.close()


def side_view(world: str, obs: np.ndarray, arguments: Sequence[str] = ()) -> Scene:
    """The scene of observations [T, D] of a world that `planar` knows, made with `arguments` ("name=value")."""
    mujoco: Any = importlib.import_module("mujoco")  # its names are made as it loads, so that no checker sees them
    kind = PLANAR[str(planar(world))]
    model, seconds = _body(world, tuple(arguments))
    q = kind.joints(obs) if kind.joints else read_joints(obs, model.nq, model.nq + model.nv - obs.shape[1], seconds)
    data, shown = mujoco.MjData(model), [i for i in range(model.ngeom) if model.geom_type[i] in SHOWN]
    places = np.empty((len(q), len(shown), 2))
    axes = np.empty((len(q), len(shown), 2))
    for t, pose in enumerate(q):
        data.qpos[:] = pose
        mujoco.mj_kinematics(model, data)
        places[t] = data.geom_xpos[shown][:, [0, 2]]
        axes[t] = data.geom_xmat[shown].reshape(-1, 3, 3)[:, [0, 2], 2]
    travelled = q[:, 0] if kind.travels else np.zeros(len(q))
    places[..., 0] -= travelled[:, None]
    ends = np.isin(np.arange(model.nbody), model.body_parentid, invert=True)  # bodies that carry no other
    shapes = ground(kind, travelled)
    for j, i in enumerate(shown):
        half = SHOWN[model.geom_type[i]](model.geom_size[i]) * axes[:, j]
        at = np.concatenate([places[:, j] - half, places[:, j] + half], -1)
        role = ACCENT if ends[model.geom_bodyid[i]] else BODY
        shapes.append(Shape("line", role, [2 * float(model.geom_size[i][0])], at))
    return Scene(kind.view, shapes)


# MuJoCo's shapes that are drawn as a thick line -> half the length of the line: spheres, capsules, cylinders.
SHOWN = {2: lambda size: 0.0, 3: lambda size: float(size[1]), 5: lambda size: float(size[1])}


def read_joints(obs: np.ndarray, count: int, hidden: int, dt: float) -> np.ndarray:
    """Joint positions [T, `count`] of observations [T, D], `dt` seconds apart; the hidden ones start at zero."""
    q = np.zeros((len(obs), count))
    q[:, hidden:] = obs[:, : count - hidden]
    speed = obs[:, count - hidden : count]  # of the hidden joints
    q[1:, :hidden] = dt * np.cumsum(speed[1:], 0)
    return q


def ground(kind: Planar, travelled: np.ndarray) -> list[Shape]:
    """A line, and marks on it that pass by as the body travels [T] metres."""
    low, bottom, high, _ = kind.view
    if not kind.travels:
        return [Shape("line", GROUND, [0.03], np.array([low, 0.0, high, 0.0]))]
    first = low + np.mod(-travelled - low, TICKS)
    marks = []
    for i in range(int((high - low) / TICKS)):
        x = first + i * TICKS
        marks.append(Shape("line", GROUND, [0.02], np.stack([x, 0 * x + bottom / 2, x, 0 * x], -1)))
    return [Shape("line", GROUND, [0.03], np.array([low, 0.0, high, 0.0])), *marks]
