"""What is drawn is where the closed forms, or MuJoCo's own kinematics, say it is; films have their frames."""

import shutil
import subprocess

import jax
import mujoco
import numpy as np
import pytest
from PIL import Image

from branchax import worlds
from branchax.errors import ConfigError
from branchax.views import bodies, render, scenes
from branchax.worlds.brax import environment
from branchax.worlds.catalog import WORLDS, observation_names


def test_every_classic_world_has_a_scene_and_a_speed():
    assert (
        set(scenes.SCENES)
        == {name for name, world in WORLDS.items() if world.seconds}
        == {name for name in WORLDS if name.startswith("classic/")}
    )


@pytest.mark.parametrize("name", scenes.SCENES)
def test_every_scene_shows_its_world_s_states_inside_the_view(name):
    world = worlds.make(name)
    obs = np.stack([world.reset(jax.random.key(i)).obs for i in range(3)])
    scene = scenes.scene(name, obs)
    x0, y0, x1, y1 = scene.view
    moving = [shape for shape in scene.shapes if shape.at.ndim == 2]
    assert moving and all(len(shape.at) == 3 for shape in moving)
    for shape in moving:
        x, y = shape.at[:, 0], shape.at[:, 1]
        assert (x0 <= x).all() and (x <= x1).all() and (y0 <= y).all() and (y <= y1).all()
    picture = np.asarray(render.picture(scene, 0, width=60))
    assert picture.shape[1] == 60 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
    assert len(observation_names(name, world.spec.obs_size)) == world.spec.obs_size


def test_a_pendulum_is_where_its_angle_says_even_off_the_circle():
    angle = np.array([0.0, np.pi / 2, np.pi])
    obs = 1.7 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    np.testing.assert_allclose(scenes.scene("classic/pendulum", obs).shapes[1].at, [[0, 1], [1, 0], [0, -1]], atol=1e-9)


def test_the_acrobot_has_arrived_where_its_world_says_so():
    from branchax.worlds.discrete import acrobot_arrived

    a = np.random.default_rng(0).uniform(-np.pi, np.pi, (50, 2))
    obs = np.stack([np.cos(a[:, 0]), np.sin(a[:, 0]), np.cos(a[:, 1]), np.sin(a[:, 1]), *np.zeros((2, 50))], -1)
    links = [shape for shape in scenes.scene("classic/acrobot", obs).shapes if shape.kind == "line"]
    tip = links[-1].at[:, 3]
    for height, o in zip(tip, obs, strict=True):
        assert (height > 1) == bool(acrobot_arrived(o, None, o))


def observed(name, q, model, data):
    """The part of an observation that says where the bodies are, from joint positions, as Brax's `_get_obs` has it."""
    if name == "hopper":
        return np.concatenate([[data.xpos[1, 2]], q[2:], np.zeros(6)])
    return np.concatenate([q[2:], np.zeros(model.nv)])  # ant


@pytest.mark.parametrize("name", ["hopper", "ant"])
def test_bodies_read_from_an_observation_are_where_mujoco_has_them(name):
    env = environment(name, "generalized")
    model = env.sys.mj_model
    rng, data, obs, poses = np.random.default_rng(0), mujoco.MjData(model), [], []
    for _ in range(5):
        q = np.asarray(env.sys.init_q) + rng.uniform(-0.4, 0.4, model.nq)
        if name == "ant":
            q[3:7] /= np.linalg.norm(q[3:7])
            q[:2] = 0.3  # where it is along the ground is not observed
        elif name == "hopper":
            q[0] = 0.3
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        obs.append(observed(name, q, model, data))
        poses.append(np.concatenate([data.xpos[1:], data.xquat[1:]], -1))
    poses = np.stack(poses)
    found = bodies.bodies(env, name).rebuild(np.stack(obs), poses[0])
    assert bodies.apart(found, poses) < 1e-4
    np.testing.assert_allclose(found[..., 0].mean(), poses[..., 0].mean(), atol=1e-4)
    assert bodies.apart(found + np.array([0, 0, 0.1, 0, 0, 0, 0]), poses) > 0.09


def test_a_world_that_says_too_little_is_not_rebuilt():
    env = environment("pusher", "generalized")
    assert bodies.bodies(env, "pusher").rebuild(np.zeros((2, 23)), np.zeros((9, 7))) is None


def test_films_have_their_frames(tmp_path):
    pictures = [Image.new("RGB", (20, 10), (i * 10, 0, 255 - i * 10)) for i in range(10)]
    render.write(tmp_path / "a.gif", iter(pictures), 0.05)
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (10, 50, 0)
    render.write(tmp_path / "b.gif", iter(pictures), 0.004)  # 250 a second are more than a film shows
    with Image.open(tmp_path / "b.gif") as film:
        assert (film.n_frames, film.info["duration"]) == (2, 20)
    if shutil.which("ffprobe"):
        render.write(tmp_path / "a.mp4", iter(pictures), 0.05)
        asked = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
        found = subprocess.run([*asked, str(tmp_path / "a.mp4")], capture_output=True, text=True, check=True)
        assert int(found.stdout.strip().strip(",")) == 10


def test_a_pipe_gets_no_empty_lines_of_a_progress_bar(capfd):
    assert list(render._counted(iter("ab"), 2)) == ["a", "b"]
    assert capfd.readouterr() == ("", "")


def test_two_pictures_stand_beside_each_other_with_their_names():
    left, right = (Image.new("RGB", (60, 20), ink) for ink in ("red", "blue"))
    both = np.asarray(render.put_beside(left, right))
    assert both.shape == (46, 132, 3)
    assert (both[26:, :60] == (255, 0, 0)).all() and (both[26:, 72:] == (0, 0, 255)).all()
    assert (both[:26, :60] < 200).any() and (both[:26, 72:] < 200).any()  # the words


def test_what_cannot_be_drawn_is_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"ends in \.gif or \.mp4"):
        render.render(tmp_path, tmp_path / "a.png")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="needs ffmpeg"):
        render.render(tmp_path, tmp_path / "a.mp4")

    def fails(*arguments, **options):
        raise RuntimeError("no display")

    monkeypatch.setattr(mujoco, "Renderer", fails)
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    with pytest.raises(render.RenderError, match=r"MUJOCO_GL.*no display.*libEGL"):
        next(render.mujoco_pictures(model, np.zeros((1, 0))))
    monkeypatch.setattr(render.importlib, "import_module", fails)
    with pytest.raises(render.RenderError, match="cannot draw here"):
        render._mujoco()
