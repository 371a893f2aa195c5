"""Whole runs through the command line: exact resume in a new process, evaluation without a trace, the rows written."""

import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import cli, replay, worlds
from branchax.build import build
from branchax.config.fields import with_fields
from branchax.presets import PRESETS, preset
from branchax.runs import checkpoint, compiling, restoring, rundir, runlog
from branchax.runs.train import train
from branchax.sharding import of_seed

SETTINGS = """
    --world classic/cartpole --seed 4 --explore-steps 60 --epoch-steps 40 --collect-steps 4 --batch-size 32
    --replay-capacity 220
    --updates-per-step 1 --model.members 3 --model.elites 2 --model.hidden 8 --model.round-steps 5 --model.max-rounds 3
    --rollout.per-step 10 --rollout.groups 4 --rollout.horizon 2 --agent.hidden 8 --eval-episodes 3
"""
TRAIN = ["train", "mbpo", *SETTINGS.split()]


def final(directory):
    """The newest saved state, as NumPy arrays by name."""
    config = rundir.load_config(directory)
    template = jax.eval_shape(jax.vmap(build(config).init), compiling.seed_keys(config))
    state = restoring.load(directory, checkpoint.steps(directory / rundir.CHECKPOINTS)[-1], config, template)
    state = state._replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def assert_equal_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "straight"
    keep = ["--checkpoint-every", "1", "--checkpoints-kept", "9"]
    assert cli.main([*TRAIN, *keep, "--env-steps", "220", "--run", str(directory)]) == 0
    return directory


def test_resumed_in_a_new_process_equals_uninterrupted_bit_by_bit(straight, tmp_path):
    """A run that was cut off leaves its last checkpoint, and rows that are newer."""
    halved = tmp_path / "halved"
    shutil.copytree(straight, halved)
    for step in (180, 220):
        shutil.rmtree(halved / rundir.CHECKPOINTS / str(step))
    command = [sys.executable, "-m", "branchax", "resume", str(halved)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "goes on after 140 env steps" in done.stdout
    assert_equal_bits(final(straight), final(halved))

    def rows(directory):
        return [{k: v for k, v in row.items() if k != "wall_s"} for row in runlog.read(directory / rundir.METRICS)]

    assert rows(straight) == rows(halved)


def test_a_model_buffer_grows_with_the_horizon_that_a_longer_run_reaches(tmp_path):
    """Its rows lie in another order then, for it wraps around, and all that is learned is the same to the bit."""
    sizes = {"model.members": 2, "model.elites": 1, "model.hidden": (8,), "model.max_rounds": 1, "model.batch_size": 8}
    rollouts = {"per_step": 1, "groups": 2, "horizon": 1, "horizon_end": 4, "ramp": (20, 100), "keep_epochs": 2}
    run = {"explore_steps": 20, "epoch_steps": 10, "batch_size": 8, "updates_per_step": 1.0, "eval_episodes": 1}
    fields = sizes | run | {f"rollout.{name}": value for name, value in rollouts.items()} | {"agent.hidden": (8,)}
    shorter, longer = (with_fields(preset("mbpo", "classic/lqr"), fields | {"env_steps": n}) for n in (80, 110))
    assert (shorter.imagined_capacity, longer.imagined_capacity) == (10 * 3 * 2, 10 * 4 * 2)
    for config, name in ((longer, "straight"), (shorter, "resumed"), (longer, "resumed")):
        train(config, tmp_path / name)
    found = []
    for name in ("straight", "resumed"):
        state = of_seed(restoring.restore(tmp_path / name)[1], 0)
        latest = (state.imagined.cursor - 1 - jnp.arange(int(state.imagined.size))) % replay.capacity(state.imagined)
        found.append((state.agent, state.real, replay.take(state.imagined, latest)))
    for first, second in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_evaluating_or_not_gives_the_same_parameters(straight, tmp_path):
    quiet = tmp_path / "quiet"
    assert cli.main([*TRAIN, "--env-steps", "220", "--eval-every", "100", "--run", str(quiet)]) == 0
    assert_equal_bits(final(straight), final(quiet))


def test_rows_hold_what_the_docs_promise(straight):
    rows = runlog.read(straight / rundir.METRICS)
    assert [row["env_steps"] for row in rows] == [60, 100, 140, 180, 220]
    promised = {
        "env_steps",
        "model_steps",
        "updates",
        "wall_s",
        "eval/return_mean",
        "eval/return_std",
        "eval/length_mean",
    }
    measured = {
        "model/holdout_error",
        "critic/loss",
        "critic/q_mean",
        "policy/entropy",
        "policy/alpha",
        "imagine/steps",
    }
    assert promised <= rows[0].keys() and promised | measured <= rows[-1].keys()
    for row in rows:
        assert row["eval/return_mean"] == pytest.approx(row["eval/length_mean"])  # cartpole pays 1 a step


def test_evaluation_equals_a_plain_loop_over_the_world(straight):
    """The number in the log, from nothing but `act`'s mode and `step`."""
    config = rundir.load_config(straight)
    program, world = build(config), worlds.make(config.world)
    template = jax.eval_shape(jax.vmap(program.init), compiling.seed_keys(config))
    state = restoring.load(straight, 220, config, template)
    agent = jax.tree.map(lambda x: x[0], state.agent)
    key = compiling.seed_keys(config)[0]
    found = compiling.evaluate_at(program)(key, state.counts.env_steps[0], agent)
    row = runlog.read(straight / rundir.METRICS)[-1]
    assert float(found["return"].mean()) == pytest.approx(row["eval/return_mean"])
    # One episode by hand, from the same start.
    from branchax.build import build_agent
    from branchax.types import Stream, stream

    mode = jax.jit(build_agent(config, world).mode)
    step = jax.jit(world.step)
    start = jax.random.split(jax.random.split(stream(key, Stream.EVALUATE, state.counts.env_steps[0]))[0], 3)[0]
    now, total = world.reset(start), 0.0
    for _ in range(world.spec.episode_length):
        now, transition = step(jax.random.key(0), now, mode(agent, now.obs))
        total += float(transition.reward)
        if bool(transition.terminated):
            break
    assert total == float(found["return"][0])


@pytest.mark.slow
def test_a_nan_world_stops_the_run_and_leaves_what_was_saved(tmp_path, monkeypatch, capsys):
    real = worlds.make

    def broken(*settings):
        world = real(*settings)

        def step(key, state, action):
            after, transition = world.step(key, state, action)
            bad = state.time == 7
            return after, transition._replace(reward=jnp.where(bad, jnp.nan, transition.reward))

        return world._replace(step=step)

    monkeypatch.setattr(worlds, "make", broken)
    code = cli.main([*TRAIN, "--env-steps", "220", "--run", str(tmp_path / "run")])
    message = capsys.readouterr().err
    assert code == 1 and "reward" in message and "env step 7" in message and "Traceback" not in message
    assert not checkpoint.steps(tmp_path / "run" / rundir.CHECKPOINTS)


# `mbpo` runs above, and test_settings runs a planner, STEVE, MVE and the pathwise gradient.
EACH_PATH = ("m2ac", "mbppo")


@pytest.mark.parametrize("name", [n if n in EACH_PATH else pytest.param(n, marks=pytest.mark.slow) for n in PRESETS])
def test_presets_build_and_take_an_epoch_in_the_abstract(name):
    """A preset is a valid program on a world of its kind: shapes and dtypes come out as they went in."""
    config = PRESETS[name] if PRESETS[name].discrete else preset(name, "classic/pendulum")
    program = build(config)
    state = jax.eval_shape(program.init, jax.random.key(0))
    after, _ = jax.eval_shape(program.epoch, state, jnp.int32(config.rollout.longest()))
    same = jax.tree.map(lambda x, y: (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type), state, after)
    assert all(jax.tree.leaves(same))
