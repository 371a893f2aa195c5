"""Gymnasium's bodies from the side, against MuJoCo's own places of them."""

from __future__ import annotations

import numpy as np
import pytest

from branchax.views import scenes, sideways

gymnasium, mujoco = pytest.importorskip("gymnasium"), pytest.importorskip("mujoco")


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("Hopper-v5", {}),
        ("Walker2d-v5", {}),
        ("HalfCheetah-v5", {}),
        ("InvertedPendulum-v5", {}),
        ("InvertedDoublePendulum-v5", {}),
        ("Hopper-v5", {"exclude_current_positions_from_observation": False, "frame_skip": 2}),
    ],
)
def test_bodies_are_where_the_simulator_has_them(task, arguments):
    env, made = gymnasium.make(task, **arguments), [f"{name}={value}" for name, value in arguments.items()]
    env.reset(seed=0)
    inner, rng, rows = env.unwrapped, np.random.default_rng(0), []
    for _ in range(12):
        obs = env.step(rng.uniform(-0.3, 0.3, env.action_space.shape))[0]
        data, model = inner.data, inner.model
        mujoco.mj_kinematics(model, data)  # after a step the places are those before its last substep
        shown = [i for i in range(model.ngeom) if model.geom_type[i] in sideways.SHOWN]
        rows.append((obs, data.geom_xpos[shown][:, [0, 2]].copy(), float(data.qpos[0])))
    env.close()
    scene = scenes.scene(f"gym/{task}", np.stack([obs for obs, *_ in rows]), made)
    assert scene is not None and scenes.has_scene(f"gym/{task}")
    lines = [shape.at for shape in scene.shapes if shape.role != "ground"]
    centre = np.stack([(at[:, :2] + at[:, 2:]) / 2 for at in lines], 1)  # [T, shapes, 2]
    true = np.stack([place for _, place, _ in rows])
    travels = sideways.PLANAR[task.partition("-v")[0]].travels
    assert scenes.step_seconds(f"gym/{task}", made) == pytest.approx(inner.dt)
    true[..., 0] -= np.array([x for *_, x in rows])[:, None] if travels else 0.0
    np.testing.assert_allclose(centre, true, atol=1e-6)


def test_the_ground_passes_by_as_fast_as_the_body_travels():
    kind = sideways.PLANAR["Hopper"]
    marks = np.stack([shape.at for shape in sideways.ground(kind, np.array([0.0, 0.1]))[1:]])
    np.testing.assert_allclose(marks[:, 1, 0] - marks[:, 0, 0], -0.1, atol=1e-9)
    assert (marks[..., 0] >= kind.view[0]).all() and (marks[..., 0] <= kind.view[2]).all()


def test_steps_last_as_long_as_the_world_was_made_with():
    obs = np.zeros((2, 11))
    obs[1, 5] = 1.0  # metres per second
    mark = sideways.side_view("gym/Hopper-v5", obs, ["frame_skip=2"]).shapes[1].at
    assert mark[1, 0] - mark[0, 0] == pytest.approx(-0.004)


def test_worlds_without_a_side_have_no_drawing():
    assert scenes.scene("gym/Ant-v5", np.zeros((2, 105))) is None and not scenes.has_scene("my_module:my_world")
