"""Gymnasium's bodies from the side, against MuJoCo's own places of them."""

from __future__ import annotations

import numpy as np
import pytest

from branchax.views import scenes, sideways

gymnasium, mujoco = pytest.importorskip("gymnasium"), pytest.importorskip("mujoco")


@pytest.mark.parametrize("task", ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "InvertedPendulum-v5"])
def test_bodies_are_where_the_simulator_has_them(task):
    env = gymnasium.make(task)
    env.reset(seed=0)
    inner, rng, rows = env.unwrapped, np.random.default_rng(0), []
    for _ in range(12):
        obs = env.step(rng.uniform(-0.3, 0.3, env.action_space.shape))[0]
        data, model = inner.data, inner.model
        mujoco.mj_kinematics(model, data)  # after a step the places are those before its last substep
        shown = [i for i in range(model.ngeom) if model.geom_type[i] in sideways.SHOWN]
        rows.append((obs, data.geom_xpos[shown][:, [0, 2]].copy(), float(data.qpos[0])))
    env.close()
    scene = scenes.scene(f"gym/{task}", np.stack([obs for obs, *_ in rows]))
    assert scene is not None and scenes.has_scene(f"gym/{task}")
    lines = [shape.at for shape in scene.shapes if shape.role != "ground"]
    centre = np.stack([(at[:, :2] + at[:, 2:]) / 2 for at in lines], 1)  # [T, shapes, 2]
    true = np.stack([place for _, place, _ in rows])
    kind = sideways.PLANAR[task.partition("-v")[0]]
    travels = kind.travels
    assert kind.seconds == pytest.approx(inner.dt) == scenes.step_seconds(f"gym/{task}")
    true[..., 0] -= np.array([x for *_, x in rows])[:, None] if travels else 0.0
    np.testing.assert_allclose(centre, true, atol=1e-6)


def test_the_ground_passes_by_as_fast_as_the_body_travels():
    kind = sideways.PLANAR["Hopper"]
    marks = np.stack([shape.at for shape in sideways.ground(kind, np.array([0.0, 0.1]))[1:]])
    np.testing.assert_allclose(marks[:, 1, 0] - marks[:, 0, 0], -0.1, atol=1e-9)
    assert (marks[..., 0] >= kind.view[0]).all() and (marks[..., 0] <= kind.view[2]).all()


def test_worlds_without_a_side_have_no_drawing():
    assert scenes.scene("gym/Ant-v5", np.zeros((2, 105))) is None and not scenes.has_scene("my_module:my_world")
