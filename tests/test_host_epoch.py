"""Runs in worlds of the host's: trained, gone on with, evaluated, broken off; small ones, by their values."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest

from branchax import build
from branchax.config import with_field
from branchax.epoch.host import draw_seeds
from branchax.errors import ConfigError, WorldFault
from branchax.presets import preset
from branchax.runs import checkpoint, rundir, runlog
from branchax.runs.evaluate import evaluate
from branchax.runs.faults import NonFinite
from branchax.runs.restoring import collected, restore
from branchax.runs.train import train
from branchax.types import Stream

sys.path.insert(0, str(Path(__file__).parent))
strange = importlib.import_module("strange_envs")

SMALL = {
    "explore_steps": 60,
    "epoch_steps": 20,
    "env_steps": 120,
    "eval_episodes": 2,
    "eval_every": 3,
    "checkpoint_every": 3,
    "batch_size": 16,
    "agent.hidden": (8,),
    "tensorboard": False,
    "replay_capacity": 400,
}


def small(world, name="sac", **settings):
    config = preset(name, world)
    for path, value in {**SMALL, **settings}.items():
        config = with_field(config, path, value)
    return config


def leaves_of(directory):
    """The last saved state, by names, as NumPy arrays."""
    state = restore(Path(directory))[1]
    plain = lambda x: jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return [np.asarray(plain(x)) for x in jax.tree.leaves(state)]


def same(first, second):
    return all(np.array_equal(x, y) for x, y in zip(leaves_of(first), leaves_of(second), strict=True))


def policy_episode(directory, name, seed):
    """Return and length of an episode in a plain `gymnasium.make` loop with the mode of the saved policy."""
    config, state = restore(Path(directory))
    mode = jax.jit(build.build(config).host.act_greedily)
    agent = jax.tree.map(lambda x: x[0], state.agent)
    env = gymnasium.make(name)
    obs, total, steps, over = env.reset(seed=seed)[0], 0.0, 0, False
    while not over:
        seen = np.float32(gymnasium.spaces.flatten(env.observation_space, obs)).ravel()
        action = np.asarray(mode(agent, seen[None], np.zeros(1, bool), ())[0][0])
        if isinstance(env.action_space, gymnasium.spaces.Box):
            action = action.clip(-1, 1) * env.action_space.high
        elif isinstance(env.action_space, gymnasium.spaces.Discrete):
            action = int(np.argmax(action))
        else:
            action = np.array(np.unravel_index(np.argmax(action), env.action_space.nvec))
        obs, reward, terminated, truncated, _ = env.step(action)
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    return total, steps


def test_a_run_trains_in_an_environment_and_goes_on(tmp_path):
    """In short; the next test does it with all that an environment may hold."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    world = "gym/strange_envs:Remembering-v0"
    train(small(world, checkpoint_every=1, checkpoints_kept=9), whole)
    shutil.copytree(whole, parted)
    for step in checkpoint.steps(parted / rundir.CHECKPOINTS)[1:]:
        shutil.rmtree(parted / rundir.CHECKPOINTS / str(step))
    train(small(world), parted)
    assert same(whole, parted)
    assert np.isfinite(runlog.read(whole / rundir.METRICS)[-1][runlog.RETURN])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Hopper-v5", "strange_envs:Remembering-v0", "strange_envs:Hidden-v0"])
def test_a_run_that_goes_on_is_the_run_without_the_stop(name, tmp_path):
    """With what the environment holds beside its state; evaluations on and off; a seed beside another."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(small(f"gym/{name}", seeds=2), whole)
    train(small(f"gym/{name}", seeds=2, env_steps=80), parted)
    train(small(f"gym/{name}", seeds=2, eval_every=1), parted)
    assert same(whole, parted)
    alone = tmp_path / "alone"
    train(small(f"gym/{name}", seed=1), alone)
    for x, y in zip(leaves_of(whole), leaves_of(alone), strict=True):
        np.testing.assert_array_equal(x[1], y[0])
    t = collected(alone)
    over = t.terminated | t.truncated
    np.testing.assert_array_equal(t.obs[1:][~over[:-1]], t.next_obs[:-1][~over[:-1]])


@pytest.mark.slow
def test_a_run_closes_every_environment_that_it_made(tmp_path):
    strange.MADE.clear()
    strange.CLOSED.clear()
    train(small("gym/strange_envs:Base-v0", parallel_worlds=2, collect_steps=2, eval_every=1), tmp_path)
    assert len(strange.MADE) >= 5 and len(strange.CLOSED) == len(strange.MADE)  # the run's, evaluations'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("strange_envs:Remembering-v0", 17),  # wrappers with memories, and a limit within the registered one
        ("strange_envs:ManyDiscrete-v0", 50),  # a Dict and a MultiDiscrete
        ("strange_envs:Opaque-v0", 30),  # no state to read
        ("strange_envs:Limited-v0", None),
        ("LunarLander-v3", None),
    ],
)
def test_an_evaluation_is_a_plain_loop(name, length, tmp_path):
    """Lengths and returns of Gymnasium's own loop with the same policy and seeds, of a run that was gone on with."""
    if name.startswith("Lunar"):
        pytest.importorskip("Box2D")
    train(small(f"gym/{name}", env_steps=80), tmp_path)
    train(small(f"gym/{name}"), tmp_path)
    (record,) = evaluate(tmp_path)
    _, state = restore(tmp_path)
    rows = [row for row in runlog.read(tmp_path / rundir.METRICS) if row.get(runlog.RETURN) is not None]
    assert rows[-1][runlog.RETURN] == pytest.approx(record[runlog.RETURN], rel=1e-6)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), Stream.EVALUATE), int(state.counts.env_steps[0]))
    seeds = draw_seeds(key, 2)
    for i, seed in enumerate(np.asarray(seeds)):
        total, steps = policy_episode(tmp_path, name, int(seed))
        assert record["lengths"][i] == steps and length in (None, steps)
        assert record["returns"][i] == pytest.approx(total, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LunarLander-v3", "strange_envs:Opaque-v0"])
def test_fresh_episodes_begin_where_no_state_can_be_read_and_it_is_said_once(name, tmp_path, capsys):
    if name.startswith("Lunar"):
        pytest.importorskip("Box2D")
    train(small(f"gym/{name}", env_steps=80), tmp_path)
    assert "fresh episodes" not in capsys.readouterr().out
    train(small(f"gym/{name}"), tmp_path)
    assert capsys.readouterr().out.count(f"fresh episodes begin: the state of gym/{name} cannot be restored") == 1
    t = collected(tmp_path)
    assert int(restore(tmp_path)[1].counts.env_steps[0]) == 120 and len(t.reward) == 120
    assert t.truncated[79] or t.terminated[79]  # no row is followed by one of another episode that is not marked
    over = t.terminated | t.truncated
    np.testing.assert_array_equal(t.obs[1:][~over[:-1]], t.next_obs[:-1][~over[:-1]])


@pytest.mark.slow
def test_rows_of_worlds_side_by_side_are_taken_apart_after_a_break(tmp_path, monkeypatch):
    """They come in turn: steps that some of the worlds took, when another broke, are not there."""
    monkeypatch.setattr(strange.Broken, "count", 0)
    monkeypatch.setattr(strange.Broken, "fatal", 1 + 60 + 2 * 200 + 14)  # a look, exploration, evaluation
    four = {"parallel_worlds": 4, "collect_steps": 20, "checkpoint_every": 100, "eval_every": 100}
    config = small("gym/strange_envs:Broken-v0", episode_length=200, **four)
    with pytest.raises(WorldFault, match=r"lost its connection; saved after 72 env steps$"):
        train(config, tmp_path)
    train(config, tmp_path)
    t = collected(tmp_path)
    over = t.terminated | t.truncated
    assert len(t.reward) == 132 and np.flatnonzero(over).tolist() == [17, 32, 50, 65, 83, 98, 116, 131]
    np.testing.assert_array_equal(t.obs[1:][~over[:-1]], t.next_obs[:-1][~over[:-1]])


@pytest.mark.slow
def test_many_discrete_actions_and_dict_observations(tmp_path):
    train(small("gym/strange_envs:ManyDiscrete-v0", parallel_worlds=2, collect_steps=2, updates_per_step=1.0), tmp_path)
    taken = collected(tmp_path)
    assert taken.action.shape == (120, 12) and taken.obs.shape == (120, 5) and (taken.obs[:, 0:3] == [0, 1, 0]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("fatal", "saved"), [(37, 35), (100, 60), (180, 78)])
def test_what_was_collected_is_saved_when_a_simulator_breaks(fatal, saved, tmp_path, monkeypatch):
    """In the exploration, an evaluation or an epoch; the same call then goes on to the end.

    One step is a look at the world; 60 explore, and 2 x 50 are the first evaluation's.
    """
    monkeypatch.setattr(strange.Broken, "count", 0)
    monkeypatch.setattr(strange.Broken, "fatal", fatal)
    config = small("gym/strange_envs:Broken-v0", eval_every=100, checkpoint_every=100)
    with pytest.raises(WorldFault, match=r"its step raised RuntimeError: the simulator lost its connection"):
        train(config, tmp_path)
    assert checkpoint.steps(tmp_path / rundir.CHECKPOINTS) == [saved] and len(collected(tmp_path).reward) == saved
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
    train(config, tmp_path)
    assert int(restore(tmp_path)[1].counts.env_steps[0]) >= 120
    rows = runlog.read(tmp_path / rundir.METRICS)
    assert (rows[0]["epoch"], rows[0]["env_steps"]) == (0, 60) and np.isfinite(rows[0][runlog.RETURN])


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", [10, 50])
def test_exploration_that_is_taken_up_again_is_judged_as_a_whole(spoiled, tmp_path, monkeypatch):
    """A NaN before the simulator broke, or after."""
    monkeypatch.setattr(strange.Broken, "count", 0)
    monkeypatch.setattr(strange.Broken, "fatal", 37)
    monkeypatch.setattr(strange.Broken, "spoiled", spoiled)
    config = small("gym/strange_envs:Broken-v0")
    with pytest.raises(WorldFault, match="lost its connection"):
        train(config, tmp_path)
    log = tmp_path / rundir.METRICS
    for _ in range(2):  # a row of the first time, as where the run was killed afterwards, does not hide the second
        log.write_text(json.dumps({"seed": 0, "epoch": 0, "env_steps": 60, "wall_s": 1.0}) + "\n")
        monkeypatch.setattr(strange.Broken, "count", 37)
        with pytest.raises(NonFinite, match="reward"):
            train(config, tmp_path)


@pytest.mark.slow
def test_warm_ups_and_first_updates_of_the_double_horizon(tmp_path):
    sizes = {
        "collect_steps": 20,
        "first_updates": 60,
        "model.hidden": (8,),
        "model.max_rounds": 2,
        "agent.critic_warmup": 3,
        "rollout.per_step": 5,
    }
    train(small("gym/Hopper-v5", "dhmbpo_small", **sizes), tmp_path)
    rows = runlog.read(tmp_path / rundir.METRICS)
    assert [row["updates"] for row in rows] == [0, 60, 80, 100] and np.isfinite(rows[-1][runlog.RETURN])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mbpo", {"model.hidden": (8,), "model.max_rounds": 2, "updates_per_step": 1.0}),
        ("ppo", {"parallel_worlds": 4, "collect_steps": 20, "updates_per_step": 1 / 20, "agent.minibatches": 2}),
        ("me_trpo", {"model.hidden": (8,), "model.max_rounds": 2, "rollout.horizon": 10}),
        (
            "pets_icem",
            {"model.hidden": (8,), "model.max_rounds": 2, "agent.horizon": 3, "agent.candidates": 8, "agent.elites": 2},
        ),
    ],
)
def test_every_kind_of_agent_trains(name, settings, tmp_path):
    known = {path: value for path, value in SMALL.items() if path != "agent.hidden" or name != "pets_icem"}
    config = preset(name, "gym/Pendulum-v1")
    for path, value in {**known, **settings}.items():
        if path == "batch_size" and name in ("ppo", "me_trpo", "pets_icem"):
            continue
        config = with_field(config, path, value)
    if name in ("me_trpo", "pets_icem"):
        config = with_field(with_field(config, "collect_steps", 20), "updates_per_step", 1 / 20)
    if name == "me_trpo":
        config = with_field(with_field(config, "updates_per_step", 3 / 20), "rollout.validate_every", 1)
    train(config, tmp_path)
    rows = runlog.read(tmp_path / rundir.METRICS)
    assert rows[-1]["env_steps"] == 120 and np.isfinite(rows[-1][runlog.RETURN])
    if name == "pets_icem":
        assert rows[-1]["model_steps"] > 0


def test_worker_processes_are_refused_where_nothing_is_stepped_on_the_host():
    with pytest.raises(ConfigError, match=r"env_workers: 2 is not possible for classic/pendulum, which is compiled"):
        build.build(small("classic/pendulum", env_workers=2))


def test_the_oracle_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"model.kind: oracle is not possible on gym/Hopper-v5, which is stepped"):
        build.build(preset("oracle_mbpo", "gym/Hopper-v5"))
