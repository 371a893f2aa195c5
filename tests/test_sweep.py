"""Sweeps: what is planned and refused, one program against runs on their own, and going on after an interruption."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace, toy_program

from branchax import build, cli, sharding
from branchax.config import LARGEST, to_dict
from branchax.presets import preset
from branchax.runs import checkpoint, compiling, rundir, runlog
from branchax.runs import train as host
from branchax.runs.signals import Preempted
from branchax.sweeps import launch, lockstep, sweep

SMALL = {
    "env_steps": 60, "explore_steps": 20, "epoch_steps": 20, "batch_size": 8, "updates_per_step": 1,
    "eval_episodes": 2, "episode_length": 10, "agent__hidden": (8,), "seeds": 2, "checkpoint_every": 1,
}  # fmt: skip
TABLE = {
    "env_steps": 300, "explore_steps": 100, "epoch_steps": 100, "eval_episodes": 2, "episode_length": 10, "seeds": 2,
    "checkpoint_every": 1, "replay_capacity": 400,
}  # fmt: skip
FLAGS = "--world classic/lqr --env-steps 60 --explore-steps 20 --epoch-steps 20 --batch-size 8 --updates-per-step 1"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, and the groups' commands instead of processes."""
    monkeypatch.chdir(tmp_path)
    launched = []
    monkeypatch.setattr(launch, "launch", lambda commands, *_: launched.append(commands) or [0] * len(commands))
    return launched


def rows(directory):
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in runlog.read(directory / rundir.METRICS)]


def test_points_that_differ_in_floats_alone_share_a_process(here, tmp_path, capsys):
    argv = ["sweep", "mbpo", *FLAGS.split(), "--grid", "agent.learning-rate=1e-3,3e-4", "model.hidden=8 8,16"]
    argv += ["--grid", "agent.learn_temperature=true,false", "--run", "s"]
    assert cli.main(argv) == 0
    points = sweep.load(tmp_path / "s")
    assert len(points) == 8 and len({point.name for point in points}) == 8
    groups = {}
    for point in points:
        groups.setdefault(point.group, []).append(point.config)
    assert len(groups) == 4
    for configs in groups.values():
        assert [config.agent.learning_rate for config in configs] == [1e-3, 3e-4]
        assert len({replace(config, agent__learning_rate=0.1) for config in configs}) == 1
    last = points[-1].config
    assert (last.model.hidden, last.agent.learn_temperature) == ((16,), False)
    assert [command[-1] for command in here[0]] == [str(group) for group in range(4)]
    assert "8 runs, 4 processes" in capsys.readouterr().out
    # The same again goes on in the same place; another sweep does not.
    assert cli.main(argv) == 0 and len(here) == 2
    assert cli.main([*argv[:-2], "--agent.tau", "0.01", "--run", "s"]) == 2
    assert "run: s holds another sweep" in capsys.readouterr().err


def test_on_an_accelerator_swept_floats_go_side_by_side(monkeypatch):
    monkeypatch.setattr(sharding, "in_turn", lambda devices: False)
    config = replace(preset("sac", "classic/lqr"), **SMALL)
    of = compiling.program_of(config, ["agent.learning_rate"], build.make_world(config))

    def run(floats, key):
        program = of(floats)
        return program.epoch(program.init(key), jnp.int32(0))[0]

    floats = {"agent.learning_rate": jnp.array([1e-3, 3e-4])}
    text = str(jax.make_jaxpr(sharding.over_seeds(run))(floats, compiling.seed_keys(config)))
    assert "([0], [0])" in text  # the batch axes of the matrix products


def test_sweeps_without_a_name_are_numbered_and_found_again(here, tmp_path):
    for rate in ("0.1", "0.1", "0.2"):
        assert cli.main(["sweep", "sac", *FLAGS.split(), "--grid", f"agent.learning_rate={rate}"]) == 0
    found = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert found == ["sweep_classic-lqr_sac_1", "sweep_classic-lqr_sac_2"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--grid", "agent.learning_rte=1,2"], "--agent.learning-rate"),
        (["--grid", "agent.learning_rate"], "grid: 'agent.learning_rate' is not possible; allowed: FIELD=A,B"),
        (["--grid", "agent.tau=0.1,0.1"], "has a value twice"),
        (["--grid", "agent.tau=0.1", "agent.tau=0.2"], "agent.tau is there twice"),
        (["--grid", "agent.tau=1e-2,0.5,0.01"], "agent.tau=1e-2 and agent.tau=0.01 are the same settings"),
        (["--grid", "agent.tau=0.1,7"], "agent.tau: 7.0 is not possible"),
        (["--grid", "agent.learn_temperature=maybe"], "allowed: true, false"),
        (["--grid", "agent.tau=0.1", "--jobs", "0"], "jobs: 0"),
        (["--grid", "agent.tau=0.1", "--launcher", "submitt"], "did you mean submitit"),
        (["--grid", "agent.tau=0.1", "--launch", "timeout"], "KEY=VALUE"),
        ([], "--grid"),
    ],
)
def test_refuses(argv, says, here, tmp_path, capsys):
    assert cli.main(["sweep", "sac", *argv]) == 2
    assert says in capsys.readouterr().err
    assert not here and not list(tmp_path.iterdir())


def test_points_have_room_for_their_dataset_and_what_is_refused_in_a_process_is_refused(
    here, tmp_path, monkeypatch, capsys
):
    zeros = np.zeros((300, 3))
    named = {"observations": zeros, "actions": zeros[:, :1], "rewards": zeros[:, 0], "next_observations": zeros}
    np.savez(tmp_path / "a.npz", **named, terminations=zeros[:, 0], truncations=zeros[:, 0])
    argv = ["sweep", "mopo", "--world", "classic/pendulum", "--dataset", "a.npz", "--env-steps", "100"]
    argv += ["--explore-steps", "60", "--epoch-steps", "20", "--grid", "agent.tau=0.1,0.2", "--run", "s"]
    assert cli.main(argv) == 0
    assert {point.config.real_capacity for point in sweep.load(tmp_path / "s")} == {300}
    monkeypatch.setattr(launch, "launch", lambda commands, *_: [2] * len(commands))
    assert cli.main([*argv[:-1], "t"]) == 2
    assert "1 of 1 processes refused their settings" in capsys.readouterr().err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two learning rates and two discounts of Q-learning, two seeds each, in one program."""
    root = tmp_path_factory.mktemp("sweep")
    base = replace(preset("q_learning", "classic/chain"), **TABLE)
    grid = {"agent.learning_rate": ["0.5", "0.1"], "agent.discount": ["0.9", "0.5"]}
    configs = [replace(base, agent__learning_rate=a, agent__discount=g) for a in (0.5, 0.1) for g in (0.9, 0.5)]
    points = sweep.plan(grid, configs)
    lockstep.run_group(root, points)
    return root, points


@pytest.mark.drawn
def test_a_run_of_a_sweep_is_the_run_on_its_own(swept, tmp_path):
    root, points = swept
    host.train(points[1].config, tmp_path / "alone")
    alone, together = rows(tmp_path / "alone"), rows(root / points[1].name)
    assert len(alone) == len(together) == 6 and alone[0].keys() == together[0].keys()
    for one, other in zip(alone, together, strict=True):
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-5, err_msg=name)
    # The values matter, and each lane has its own.
    last = [rows(root / point.name)[-1] for point in points]
    assert len({row["critic/q_max"] for row in last}) == 4
    made = {file.name for file in (tmp_path / "alone").iterdir()}
    assert {file.name for file in (root / points[1].name).iterdir()} == made | {rundir.COMMAND}


def test_a_sweep_goes_on_where_it_stopped(swept, tmp_path):
    """One run had got an epoch further than the others; all go on from the last step that they share."""
    root, points = swept
    for point in points:
        shutil.copytree(root / point.name, tmp_path / point.name)
        if point is not points[0]:
            shutil.rmtree(tmp_path / point.name / rundir.CHECKPOINTS / "300")
    assert sweep.commands(tmp_path, points) and not sweep.commands(root, points)
    lockstep.run_group(tmp_path, points)
    for point in points:
        assert rows(tmp_path / point.name) == rows(root / point.name)
        assert checkpoint.steps(tmp_path / point.name / rundir.CHECKPOINTS) == [200, 300]
    assert not sweep.commands(tmp_path, points)


def test_a_signal_saves_all_runs_of_a_program_after_the_same_epoch(swept, tmp_path, monkeypatch):
    root, points = swept
    save, saved = checkpoint.save, []

    def signalled(folder, step, *rest):
        saved.append(step)
        if len(saved) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        save(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save", signalled)
    with pytest.raises(Preempted, match="stopped by SIGTERM; saved after 300 env steps"):
        lockstep.run_group(tmp_path, [point._replace(config=replace(point.config, env_steps=400)) for point in points])
    assert saved == [200] * 4 + [300] * 4
    for point in points:
        assert rundir.status(tmp_path / point.name)["state"] == "preempted"
        assert rows(tmp_path / point.name) == rows(root / point.name)


def test_a_run_that_comes_to_nothing_leaves_the_others(tmp_path, monkeypatch, toy_config, capsys):
    """The toy's world returns NaN in one lane alone."""

    def faulty(config, world):
        program = toy_program(config)
        hit = config.agent.tau > 0.5

        def epoch(state, horizon):
            state, metrics = program.epoch(state, horizon)
            wrong = hit & (state.counts.env_steps == 50)
            return state._replace(
                fault=state.fault._replace(
                    step=jax.numpy.where(wrong, 45, state.fault.step), rows=jax.numpy.int32(wrong)
                )
            ), metrics

        return program._replace(epoch=epoch)

    monkeypatch.setattr(build, "assemble", faulty)
    configs = [replace(toy_config, agent__tau=tau) for tau in (0.1, 0.9)]
    points = sweep.plan({"agent.tau": ["0.1", "0.9"]}, configs)
    lockstep.run_group(tmp_path, points)
    sweep.save(tmp_path, points, "branchax sweep")
    good, bad = (p["result"] for p in json.loads((tmp_path / sweep.SWEEP).read_text())["points"])
    assert (good["finished"], good["env_steps"], "failed" in good) == (60, 60, False)
    assert "at env step 45 of seed 0" in bad["failed"] and bad["env_steps"] == 40
    assert not sweep.commands(tmp_path, points)  # what came to nothing is not tried again
    assert rundir.status(tmp_path / points[1].name)["state"] == "failed" and list(
        (tmp_path / points[1].name / rundir.FAULTS).glob("world_*.npz")
    )  # as on its own
    capsys.readouterr()
    sweep.show(tmp_path, points)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines[1:-1]) <= 80  # the first is as long as the directory
    cells = [line.split() for line in lines]
    assert cells[-5][:3] == ["0.9", "failed:", "40"] and cells[-4] == ["obs", "not", "finite,"]
    assert cells[-3] == ["seed", "0,", "step", "45"] and lines[-1].startswith("agent.tau=0.9: classic/lqr returned")


def test_a_run_that_is_ahead_does_not_begin_again(tmp_path, toy_config):
    """As after `branchax resume` of one point: no step that both have."""

    def saved(name, *steps):
        run = lockstep.Run(toy_config, tmp_path / name)
        for step in steps:
            checkpoint.save(run.checkpoints, step, {"x": jax.numpy.ones(1)}, {})
        return run

    none, first, again, ahead = saved("none"), saved("first", 20, 30), saved("again", 30), saved("ahead", 50, 60)
    assert lockstep.split_by_progress([first, again]) == [[first, again]]  # from 30 on, both
    assert lockstep.split_by_progress([none, saved("other")])[0][0] is none
    assert lockstep.split_by_progress([none, first, again, ahead]) == [[none], [first, again], [ahead]]
    for run in (first, ahead):
        rundir.write_json(run.directory / rundir.CONFIG, to_dict(toy_config))
    with pytest.raises(checkpoint.CheckpointError, match="no sound checkpoint in common"):
        lockstep.train_together([first, ahead], ["agent.tau"])
    assert checkpoint.steps(first.checkpoints) == [20, 30] and checkpoint.steps(ahead.checkpoints) == [50, 60]


def test_a_group_is_split_where_one_program_cannot_count_its_rows(tmp_path, monkeypatch):
    """Two of three runs of two seeds have room."""
    config = replace(preset("sac", "classic/lqr"), seeds=2, replay_capacity=LARGEST // 5)
    points = sweep.plan({"agent.tau": ["0.1", "0.2", "0.3"]}, [replace(config, agent__tau=t) for t in (0.1, 0.2, 0.3)])
    assert {point.group for point in points} == {0}
    calls = []
    monkeypatch.setattr(
        lockstep, "train_together", lambda runs, swept, **_: calls.append((swept, [run.directory.name for run in runs]))
    )
    lockstep.run_group(tmp_path, points)
    assert calls == [(["agent.tau"], ["agent.tau=0.1", "agent.tau=0.2"]), ((), ["agent.tau=0.3"])]


def test_a_run_that_has_all_its_steps_but_was_not_ended_is_not_over(tmp_path, toy_config):
    checkpoint.save(tmp_path / rundir.CHECKPOINTS, toy_config.env_steps, {"x": jax.numpy.ones(1)}, {})
    row = {"seed": 0, "epoch": 4, "env_steps": 60, "wall_s": 1.0, runlog.RETURN: 1.0}
    (tmp_path / rundir.METRICS).write_text(json.dumps(row) + "\n")
    rundir.write_status(tmp_path, "preempted", 60, "stopped while drawing")
    assert not sweep.is_over(tmp_path, toy_config)
    rundir.write_status(tmp_path, "done", 60)
    assert sweep.is_over(tmp_path, toy_config)


def test_a_table_of_runs_that_are_not_done(tmp_path, toy_config, capsys):
    points = sweep.plan({"agent.tau": ["0.1", "0.2"]}, [replace(toy_config, agent__tau=tau) for tau in (0.1, 0.2)])
    rundir.write_status(tmp_path / points[0].name, "preempted", None, "stopped by SIGTERM before there was anything")
    sweep.show(tmp_path, points)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-4:-2]] == [["0.1", "stopped", "0", "0"], ["0.2", "unfinished", "0", "0"]]
    assert lines[-1] == "agent.tau=0.1: stopped by SIGTERM before there was anything"


def test_floats_that_shape_the_program_are_found():
    config = replace(preset("mbpo", "classic/lqr"), **SMALL, model__members=2, model__elites=1, model__hidden=(8,))
    fields = ["agent.learning_rate", "real_fraction", "model.learning_rate"]
    assert lockstep.traceable(config, build.make_world(config), fields) == [
        "agent.learning_rate",
        "model.learning_rate",
    ]


def test_those_are_trained_one_after_the_other(tmp_path, monkeypatch):
    base = replace(preset("mbpo", "classic/lqr"), **SMALL)
    grid = {"real_fraction": ["0.5", "0.25"], "agent.tau": ["0.1", "0.2"]}
    configs = [replace(base, real_fraction=f, agent__tau=t) for f in (0.5, 0.25) for t in (0.1, 0.2)]
    calls = []
    monkeypatch.setattr(lockstep, "traceable", lambda config, world, fields: ["agent.tau"])
    monkeypatch.setattr(
        lockstep, "train_together", lambda runs, swept, **_: calls.append((swept, [run.config for run in runs]))
    )
    points = sweep.plan(grid, configs)
    lockstep.run_group(tmp_path, points)
    assert calls == [(["agent.tau"], configs[:2]), (["agent.tau"], configs[2:])]
    monkeypatch.setattr(lockstep, "traceable", lambda config, world, fields: [])
    lockstep.run_group(tmp_path, points)
    assert calls[2:] == [((), [config]) for config in configs]
