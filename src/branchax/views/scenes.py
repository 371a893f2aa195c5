"""Draws worlds in the plane: a scene is a few shapes with their positions at each time.

A scene is read only from observations, so that imagined episodes are drawn like real ones. If a model predicts an
impossible observation (a cosine and a sine off the unit circle), the nearest possible picture is drawn. The page of
`report` and the files of `render` draw the same scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from branchax.views import sideways
from branchax.views.shapes import ACCENT, BODY, GOAL, GROUND, Scene, Shape
from branchax.worlds import catalog
from branchax.worlds.tabular import MAZE

EDGE = 1.3  # of the visible plane; a mass outside is drawn at the edge


def scene(world: str, obs: np.ndarray, arguments: Sequence[str] = ()) -> Scene | None:
    """The scene of observations [T, D] of a world, made with `arguments`; None for one that has no drawing."""
    if sideways.planar(world) is not None:
        return sideways.side_view(world, obs, arguments)
    return SCENES[world](obs) if world in SCENES else None


def step_seconds(world: str, arguments: Sequence[str] = ()) -> float:
    """Seconds that one step of a world, made with `arguments`, takes when it is shown."""
    return catalog.step_seconds(world) if sideways.planar(world) is None else sideways.step_seconds(world, arguments)


def has_scene(world: str) -> bool:
    """Whether a world has a drawing in the plane."""
    return world in SCENES or sideways.planar(world) is not None


def _columns(*columns: np.ndarray | float) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*columns), -1)


def _pendulum(obs: np.ndarray) -> Scene:
    angle = np.arctan2(obs[:, 1], obs[:, 0])
    x, y = np.sin(angle), np.cos(angle)
    shapes = [
        Shape("line", BODY, [0.12], _columns(0.0, 0.0, x, y)),
        Shape("disc", ACCENT, [0.12], _columns(x, y)),
        Shape("disc", GROUND, [0.05], np.zeros(2)),
    ]
    return Scene((-1.3, -1.3, 1.3, 1.3), shapes)


def _cartpole(obs: np.ndarray) -> Scene:
    x, angle = np.clip(obs[:, 0], -2.8, 2.8), obs[:, 2]
    shapes = [
        Shape("line", GROUND, [0.03], np.array([-2.4, 0.0, 2.4, 0.0])),
        *[Shape("line", GROUND, [0.03], np.array([s * 2.4, -0.2, s * 2.4, 0.2])) for s in (-1, 1)],
        Shape("box", BODY, [0.5, 0.3], _columns(x, 0.0, 0.0)),
        Shape("line", ACCENT, [0.1], _columns(x, 0.1, x + np.sin(angle), 0.1 + np.cos(angle))),
    ]
    return Scene((-3.1, -0.6, 3.1, 1.4), shapes)


def _point_mass(obs: np.ndarray) -> Scene:
    x, y = np.clip(obs[:, :2].T, -EDGE, EDGE)
    u, v = obs[:, 2:].T
    shapes = [
        Shape("path", GROUND, [0.01], np.array([-1.4, 0.0, 1.4, 0.0])),
        Shape("path", GROUND, [0.01], np.array([0.0, -1.4, 0.0, 1.4])),
        Shape("disc", GOAL, [0.1], np.zeros(2)),
        Shape("line", ACCENT, [0.03], _columns(x, y, x + 0.3 * u, y + 0.3 * v)),  # where it goes in 0.3 s
        Shape("disc", BODY, [0.08], _columns(x, y)),
    ]
    return Scene((-1.4, -1.4, 1.4, 1.4), shapes)


def _lqr(obs: np.ndarray) -> Scene:
    x, v = np.clip(obs[:, 0], -3.0, 3.0), obs[:, 1]
    shapes = [
        Shape("line", GROUND, [0.04], np.array([-3.2, -0.24, 3.2, -0.24])),
        *[Shape("line", GROUND, [0.03], np.array([i, -0.36, i, -0.24])) for i in range(-3, 4)],
        Shape("line", GOAL, [0.08], np.array([0.0, -0.45, 0.0, -0.24])),
        Shape("box", BODY, [0.44, 0.44], _columns(x, 0.0, 0.0)),
        Shape("line", ACCENT, [0.08], _columns(x, 0.0, x + 0.5 * v, 0.0)),  # where it goes in 0.5 s
    ]
    return Scene((-3.4, -0.7, 3.4, 0.7), shapes)


def _links(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> list[Shape]:
    (x, y), (u, v) = first, second
    return [
        Shape("line", BODY, [0.12], _columns(0.0, 0.0, x, y)),
        Shape("line", ACCENT, [0.12], _columns(x, y, x + u, y + v)),
        Shape("disc", GROUND, [0.05], np.zeros(2)),
    ]


def _double_pendulum(obs: np.ndarray) -> Scene:
    a, b = np.arctan2(obs[:, 1], obs[:, 0]), np.arctan2(obs[:, 3], obs[:, 2])
    return Scene((-2.2, -2.2, 2.2, 2.2), _links((np.sin(a), np.cos(a)), (np.sin(b), np.cos(b))))


def _acrobot(obs: np.ndarray) -> Scene:
    a = np.arctan2(obs[:, 1], obs[:, 0])
    b = a + np.arctan2(obs[:, 3], obs[:, 2])  # the second joint is measured from the first link
    line = Shape("line", GOAL, [0.03], np.array([-2.2, 1.0, 2.2, 1.0]))
    return Scene((-2.2, -2.2, 2.2, 2.2), [line, *_links((np.sin(a), -np.cos(a)), (np.sin(b), -np.cos(b)))])


def _mountain_car(obs: np.ndarray) -> Scene:
    height = lambda x: 0.45 * np.sin(3 * x) + 0.55  # noqa: E731
    x, valley = obs[:, 0], np.linspace(-1.2, 0.6, 60)
    slope = np.arctan(1.35 * np.cos(3 * x))
    shapes = [
        Shape("path", GROUND, [0.02], _columns(valley, height(valley)).ravel()),
        Shape("line", GOAL, [0.02], np.array([0.5, height(0.5), 0.5, height(0.5) + 0.2])),
        Shape("box", GOAL, [0.1, 0.06], np.array([0.55, height(0.5) + 0.17, 0.0])),
        Shape("box", BODY, [0.14, 0.07], _columns(x - 0.04 * np.sin(slope), height(x) + 0.04 * np.cos(slope), slope)),
    ]
    return Scene((-1.3, -0.1, 0.7, 1.35), shapes)


def _cells() -> tuple[list[tuple[int, int]], list[tuple[int, int, str]]]:
    """The free cells of the maze (row, column) in the order of its states, and all cells with their marks."""
    marks = [(i, j, mark) for i, row in enumerate(MAZE.split()) for j, mark in enumerate(row)]
    return [(i, j) for i, j, mark in marks if mark != "#"], marks


def _gridworld(obs: np.ndarray) -> Scene:
    free, marks = _cells()
    rows, columns = 1 + max(i for i, _, _ in marks), 1 + max(j for _, j, _ in marks)
    walls = [Shape("box", GROUND, [1.0, 1.0], np.array([j, -i, 0.0])) for i, j, mark in marks if mark == "#"]
    goal = [Shape("box", GOAL, [0.9, 0.9], np.array([j, -i, 0.0])) for i, j, mark in marks if mark == "G"]
    edge = np.array([-0.5, 0.5, columns - 0.5, 0.5, columns - 0.5, 0.5 - rows, -0.5, 0.5 - rows, -0.5, 0.5])
    at = np.array([(j, -i) for i, j in free], float)[obs.argmax(-1)]
    shapes = [*walls, *goal, Shape("path", GROUND, [0.06], edge), Shape("disc", BODY, [0.32], at)]
    return Scene((-0.8, 0.2 - rows, columns - 0.2, 0.8), shapes)


def _chain(obs: np.ndarray) -> Scene:
    states = obs.shape[-1]
    # The large reward is for staying in the last state.
    places = [Shape("disc", GOAL if i == states - 1 else GROUND, [0.4], np.array([i, 0.0])) for i in range(states)]
    at = _columns(obs.argmax(-1).astype(float), 0.0)
    return Scene((-0.7, -0.7, states - 0.3, 0.7), [*places, Shape("disc", BODY, [0.25], at)])


SCENES: dict[str, Callable[[np.ndarray], Scene]] = {
    "classic/pendulum": _pendulum,
    "classic/cartpole": _cartpole,
    "classic/cartpole_discrete": _cartpole,
    "classic/point_mass": _point_mass,
    "classic/lqr": _lqr,
    "classic/double_pendulum": _double_pendulum,
    "classic/acrobot": _acrobot,
    "classic/mountain_car": _mountain_car,
    "classic/gridworld": _gridworld,
    "classic/chain": _chain,
}


class Plane(NamedTuple):
    """A slice of a world's states, for maps."""

    names: tuple[str, str]
    coordinates: Callable[[np.ndarray], np.ndarray]  # obs [N, D] -> [N, 2]
    obs: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (middle [D], coordinates [N, 2]) -> obs [N, D]


def plane(world: str, size: int) -> Plane:
    """The slice for a map of a world.

    For the pendulum: its angle and velocity; for cartpole: the pole's angle and spin; for two links: both angles; for
    other worlds: the first two entries. The other entries stay at the median of the data.
    """
    if world == "classic/pendulum":
        return Plane(
            ("angle [rad], 0 is upright", "velocity [rad/s]"),
            lambda obs: _columns(np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2]),
            lambda middle, at: _columns(np.cos(at[:, 0]), np.sin(at[:, 0]), at[:, 1]),
        )
    if world in ("classic/double_pendulum", "classic/acrobot"):

        def turned(middle: np.ndarray, at: np.ndarray) -> np.ndarray:
            still = np.broadcast_to(middle[4:], (len(at), 2))
            first, second = at.T
            return np.concatenate([_columns(np.cos(first), np.sin(first), np.cos(second), np.sin(second)), still], -1)

        return Plane(
            ("angle of the first link [rad]", "angle of the second [rad]"),
            lambda obs: _columns(np.arctan2(obs[:, 1], obs[:, 0]), np.arctan2(obs[:, 3], obs[:, 2])),
            turned,
        )
    first, second = (2, 3) if world.startswith("classic/cartpole") else (0, 1)

    def moved(middle: np.ndarray, at: np.ndarray) -> np.ndarray:
        obs = np.repeat(middle[None], len(at), 0)
        obs[:, [first, second]] = at
        return obs

    called = catalog.observation_names(world, size)
    return Plane((called[first], called[second]), lambda obs: obs[:, [first, second]], moved)


def layout(world: str, states: int) -> list[tuple[int, int]]:
    """The place (row, column) of each state of a tabular world in a map."""
    return _cells()[0] if world == "classic/gridworld" else [(0, i) for i in range(states)]
