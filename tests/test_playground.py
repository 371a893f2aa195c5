"""MuJoCo Playground's worlds, against Playground itself. Skipped where it is not installed."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import cli, worlds
from branchax.checks import check
from branchax.epoch.collect import uniform
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.rollout import rollout
from branchax.worlds.catalog import PLAYGROUND


def test_names_are_checked_before_anything_is_loaded(capsys):
    with pytest.raises(ConfigError, match=r"^world: playground/CartpoleBalanc .*did you mean playground/CartpoleBal"):
        check(preset("mbpo", "playground/CartpoleBalanc"))
    with pytest.raises(ConfigError, match=r"^agent.kind: dqn is not possible on playground/PointMass"):
        check(preset("dqn", "playground/PointMass"))
    with pytest.raises(ConfigError, match=r"^world: playground/Go1 is unknown"):
        worlds.make("playground/Go1")
    assert cli.main(["list"]) == 0
    assert "playground/<Task>" in capsys.readouterr().out


@pytest.fixture(scope="module")
def registry():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Playground and what it brings along
        return pytest.importorskip("mujoco_playground").registry


def test_the_catalog_names_the_control_suite(registry):
    from mujoco_playground import dm_control_suite

    assert set(PLAYGROUND) == set(dm_control_suite.ALL_ENVS)


@pytest.mark.slow  # MJX is compiled
def test_steps_are_playgrounds_own_and_episodes_end_by_the_clock(registry):
    world = worlds.make("playground/CartpoleBalance", episode_length=6)
    assert (world.spec.obs_size, world.spec.action_size, world.spec.discrete) == (5, 1, False)
    assert worlds.make("playground/CartpoleBalance").spec.episode_length == 1000
    start = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 3))
    run = jax.jit(lambda start: rollout(jax.random.key(1), world, uniform(world.spec), start, 14, restart=True))
    _, trajectory = run(start)
    t = jax.tree.map(np.asarray, trajectory.transition)
    assert not t.terminated.any() and np.flatnonzero(t.truncated[:, 0]).tolist() == [5, 11]
    # The observation after the last step of an episode is its own, and what follows is a fresh one, each time another.
    np.testing.assert_array_equal(t.next_obs[:5], t.obs[1:6])
    firsts = np.concatenate([t.obs[0], t.obs[6], t.obs[12]])
    assert not np.isclose(t.next_obs[5], t.obs[6]).all(-1).any() and len(np.unique(firsts, axis=0)) == 9

    env = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    step, state = jax.jit(env.step), jax.jit(env.reset)(jax.random.key_data(jax.random.split(jax.random.key(0), 3)[1]))
    for i in range(6):
        state = step(state, t.action[i, 1])
        np.testing.assert_allclose(t.next_obs[i, 1], state.obs, atol=1e-5)
        np.testing.assert_allclose(t.reward[i, 1], state.reward, atol=1e-5)
        assert t.terminated[i, 1] == state.done
    # Actions are clipped to the actuators' range.
    first = jax.tree.map(lambda x: x[0], start)
    far, edge = (world.step(jax.random.key(0), first, jnp.array([a]))[1] for a in (7.0, 1.0))
    np.testing.assert_array_equal(far.next_obs, edge.next_obs)


@pytest.mark.slow
def test_a_run_trains_resumes_and_is_evaluated(registry, tmp_path):
    small = "--env-steps 60 --explore-steps 40 --epoch-steps 20 --batch-size 16 --updates-per-step 1 --eval-episodes 2"
    small += " --model.members 2 --model.elites 1 --model.hidden 8 --model.max-rounds 2 --agent.hidden 8"
    small += f" --rollout.per-step 6 --rollout.groups 2 --episode-length 20 --run {tmp_path / 'run'}"
    assert cli.main(["train", "mbpo", "--world", "playground/CartpoleBalance", *small.split()]) == 0
    assert cli.main(["resume", str(tmp_path / "run"), "--env-steps", "80"]) == 0
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
