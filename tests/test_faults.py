"""What is not finite: whose it is, dumped, found again; curves for TensorBoard; a checkpoint of this release."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace, toy_program
from tensorboardX.proto.event_pb2 import Event
from test_checkpoint import bits, make

from branchax import build, cli, worlds
from branchax.agents.base import Agent, Outcome, Sources
from branchax.config import Config, from_dict
from branchax.dynamics.base import MemberFaults
from branchax.epoch.report import Health
from branchax.epoch.state import no_fault
from branchax.presets import preset
from branchax.runs import checkpoint, faults, restoring, rundir, runlog
from branchax.runs import train as host
from branchax.runs.trackers import open_tensorboard
from branchax.types import Transition
from branchax.views import doctor

DATA = Path(__file__).parent / "data"


def none(seeds=2):
    row = Transition(*(jnp.zeros(n) for n in (2, 1)), jnp.zeros(()), jnp.zeros(2), *(jnp.zeros((), bool),) * 2)
    return jax.tree.map(lambda x: np.stack([x] * seeds), no_fault(row))


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_says_whose_number_it_was(policy):
    config = replace(preset("mbpo", "classic/pendulum"), seed=5, seeds=2, faults__model=policy, faults__agent=policy)
    members = MemberFaults(np.array([0, 1]), np.array([0, 3]), np.array([0, 0b1010]))
    found = faults.find(config, none(), Health({"critic/loss": np.array([2, 0])}, np.array([3, 0]), members))
    assert [(f.kind, f.place, f.stops) for f in found] == [
        ("agent", 0, policy == "stop"),
        ("model", 1, policy == "stop"),
    ]
    assert "the agent of seed 5 was not finite: critic/loss in 2 updates, 3 gradients, left out" in found[0].what
    assert (
        "the model of seed 6 was not finite in member 1, 3: 1 rolled back, 3 gradient steps left out" in found[1].what
    )
    assert not faults.find(config, none(), None)


def test_a_world_may_lose_rows_but_not_all_and_never_the_policys():
    config = replace(preset("mbpo", "classic/pendulum"), faults__world="drop")
    healthy = Health({}, np.zeros(1), MemberFaults(*[np.zeros(1, int)] * 3))
    some = none(1)._replace(rows=np.array([3]), step=np.array([17]), field=np.array([2]))
    assert [f.stops for f in faults.find(config, some, healthy)] == [False]
    all_of_them = some._replace(rows=np.array([config.epoch_steps]))
    assert [f.stops for f in faults.find(config, all_of_them, healthy)] == [True]
    few_left = some._replace(rows=np.array([config.explore_steps - config.model.holdout_every + 1]))
    enough = some._replace(rows=few_left.rows - 1)
    assert [[f.stops for f in faults.find(config, each, None)] for each in (few_left, enough)] == [[True], [False]]
    diverged = some._replace(field=np.array([1]))
    assert [f.stops for f in faults.find(config, diverged, healthy)] == [True]


SETTINGS = """
    --world classic/cartpole --explore-steps 60 --epoch-steps 40 --collect-steps 4 --batch-size 32 --updates-per-step 1
    --model.members 2 --model.elites 2 --model.hidden 8 --model.round-steps 5 --model.max-rounds 2 --rollout.per-step 10
    --rollout.groups 2 --agent.hidden 8 --eval-episodes 2 --env-steps 180 --checkpoint-every 1 --run run
"""
TINY = ["train", "mbpo", *SETTINGS.split()]


@pytest.mark.slow
def test_a_fault_is_dumped_and_found_again(tmp_path, monkeypatch, capsys):
    """A world that returns NaN in the 15th step of some episodes: the run stops, the doctor sees it and runs it again;
    with the other policy the run goes on without these rows."""
    monkeypatch.chdir(tmp_path)
    real = worlds.make

    def broken(*named):
        world = real(*named)

        def step(key, state, action):
            after, t = world.step(key, state, action)
            bad = (state.time == 15) & (state.obs[0] > 0)
            return after, t._replace(reward=jnp.where(bad, jnp.nan, t.reward))

        return world._replace(step=step)

    monkeypatch.setattr(worlds, "make", broken)
    assert cli.main([*TINY, "--faults.world", "drop"]) == 0
    rows = runlog.read(Path("run") / rundir.METRICS)
    lost = sum(row.get("collect/nonfinite_rows", 0) for row in rows)
    explored = list(Path("run/faults").glob("*_60_*.json"))
    assert lost or explored, "the test needs another seed"
    _, state = restoring.restore(Path("run"))
    for leaf in jax.tree.leaves((state.real, state.imagined, state.model, state.agent)):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or bool(jnp.isfinite(leaf).all())
    dumps = sorted(Path("run/faults").glob("world_*.json"))
    assert len(dumps) == 1  # said once
    with np.load(dumps[0].with_suffix(".npz"), allow_pickle=False) as file:
        assert np.isnan(file["row.reward"]) and file["row.obs"].shape == (4,)
        assert any(name.startswith("state.agent.") for name in file)
    capsys.readouterr()
    assert cli.main(["doctor", "run", "--replay"]) == 1  # there was a fault
    said = capsys.readouterr().out
    lines = ("ok  settings", "ok  state       done", "ok  checkpoint  180: every file is what was written")
    for part in (*lines, "BAD fault       classic/cartpole returned a non-finite reward", "replay      the same again"):
        assert part in said


def test_updates_of_only_the_critics_are_watched_too():
    """A stand-in for an agent counts up by what it draws; the warm-up of its critics goes wrong, then an update."""

    def update(key, state, sources, wrong):
        return state + sources.replay(key), Outcome({"critic/loss": jnp.where(state == wrong, jnp.nan, 0.0)}, {})

    agent = Agent(
        init=lambda key: jnp.zeros(()),
        act=lambda key, state, obs: (state, ()),
        mode=lambda state, obs: state,
        update=functools.partial(update, wrong=7.0),
        warm_up=functools.partial(update, wrong=2.0),
        renew=lambda state, stats: state + stats,
    )
    watched = doctor.watch_agent(agent, [])
    sources = Sources(lambda key: jnp.float32(1.0), None)
    state = doctor.Watched(jnp.float32(1.0), jnp.array(False), jnp.float32(0.0), [jnp.float32(0.0)])
    for _ in range(3):
        state = watched.warm_up(jax.random.key(0), state, sources)[0]
    assert (float(state.agent), bool(state.found), float(state.before)) == (4.0, True, 2.0)
    state = watched.update(jax.random.key(0), watched.renew(state, 3.0), sources)[0]
    assert (float(state.agent), float(state.before)) == (8.0, 2.0)  # the first is kept
    assert float(watched.mode(state, None)) == 8.0


@pytest.mark.slow
def test_the_batch_of_a_bad_update_is_found(tmp_path, monkeypatch, capsys):
    """SAC whose Q-loss is not finite on batches with a very bad reward: the replay writes the first such batch."""
    monkeypatch.chdir(tmp_path)
    real, limit = build.AGENTS["sac"], -9.0

    def fragile(spec, config):
        agent = real(spec, config)

        def update(key, state, sources):
            drawn = []
            draw = lambda key: drawn.append(sources.replay(key)) or drawn[-1]  # noqa: E731
            after, told = agent.update(key, state, sources._replace(replay=draw))
            bad = drawn[0].transition.reward.min() < limit
            losses = told.losses | {"critic/loss": jnp.where(bad, jnp.nan, told.losses["critic/loss"])}
            return after, told._replace(losses=losses)

        return agent._replace(update=update)

    monkeypatch.setitem(build.AGENTS, "sac", fragile)
    sizes = (
        "--explore-steps 40 --epoch-steps 40 --collect-steps 4 --batch-size 4 --updates-per-step 0.5 --env-steps 200"
    )
    flags = [*sizes.split(), "--agent.hidden", "8", "--eval-episodes", "2", "--checkpoint-every", "1", "--run", "run"]
    assert cli.main(["train", "sac", "--world", "classic/pendulum", *flags]) == 0
    assert len(list(Path("run/faults").glob("agent_*.json"))) == 1, "the test needs another limit"
    assert cli.main(["doctor", "run", "--replay"]) == 1
    assert "the same again" in capsys.readouterr().out
    (file,) = Path("run/faults").glob("*.update.npz")
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["batch.transition.reward"].shape == (4,) and arrays["batch.transition.reward"].min() < limit
        assert any(name.startswith("before.actor.params") for name in arrays)


def test_the_doctor_names_what_is_wrong(toy_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("branchax.build.build", toy_program)
    host.train(toy_config, tmp_path)
    (tmp_path / rundir.CHECKPOINTS / "60" / "_METADATA").unlink()
    (tmp_path / rundir.STATUS).write_text(json.dumps({"state": "running", "pid": 1, "host": "elsewhere"}))
    assert cli.main(["doctor", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "BAD checkpoint  60: _METADATA is missing" in captured.out
    assert "BAD state       its process died without a word (process 1 on elsewhere" in captured.out
    assert "2 of" in captured.err
    assert cli.main(["doctor"]) == 0
    assert cli.main(["doctor", "--replay"]) == 2


# --- TensorBoard ---


def events(directory):
    """`{tag: [(step, value)]}` as TensorBoard would show it: a restart drops what lies at or after its step."""
    shown = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.HasField("session_log"):
                shown = {tag: [p for p in points if p[0] < event.step] for tag, points in shown.items()}
            for value in event.summary.value:
                shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return shown


def test_a_resumed_run_has_one_clean_curve(toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr("branchax.build.build", toy_program)
    host.train(replace(toy_config, env_steps=40, seeds=2), tmp_path)
    folder = tmp_path / rundir.TENSORBOARD / "seed_1"
    (folder / "events.out.tfevents.1.old").write_bytes(b"torn")
    host.train(replace(toy_config, env_steps=60, seeds=2), tmp_path)
    rows = [row for row in runlog.read(tmp_path / rundir.METRICS) if row["seed"] == 1]
    shown = events(folder)
    assert [step for step, _ in shown["policy/entropy"]] == [30, 40, 50, 60]
    np.testing.assert_allclose(
        [value for _, value in shown[runlog.RETURN]], [row[runlog.RETURN] for row in rows], rtol=1e-6
    )
    assert "critic/loss" not in shown and len(list(folder.iterdir())) == 1


def test_curves_written_twice_in_one_second_are_written_once(tmp_path):
    row = {"seed": 0, "epoch": 0, "env_steps": 10, "x": 1.0}
    for _ in range(2):
        curves = open_tensorboard(tmp_path, [row])
        curves.close()
    assert events(tmp_path / "seed_0")["x"] == [(10, 1.0)]


# --- what this release wrote ---


def test_a_checkpoint_of_this_release_can_be_read():
    """Written by `checkpoint.save(DATA / "checkpoint_2", 12, make(), {"config": to_dict(preset("mbpo"))})`."""
    folder = DATA / "checkpoint_2"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 200_000
    assert checkpoint.newest(folder, print) == 12
    assert bits(checkpoint.restore(folder, 12, jax.eval_shape(make))) == bits(make())
    config = from_dict(Config, checkpoint.note(folder, 12)["config"])
    assert dataclasses.replace(config) == config and config.model.members == 5
