"""Parts of one's own, by command line and by Python, get the whole run; what is wrong with them is said by name."""

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

import branchax
from branchax import build, cli, outside
from branchax.agents.base import Outcome
from branchax.config import OwnAgentConfig
from branchax.epoch.program import STAGES
from branchax.errors import ConfigError
from branchax.own import try_out
from branchax.presets import preset
from branchax.runs import checkpoint, restoring, rundir, runlog
from branchax.runs.trackers import Logger
from branchax.views import play

MODULE = '''
import jax
import jax.numpy as jnp
from branchax.agents.base import Agent, Outcome
from branchax.dynamics.base import Dynamics, FitReport
from branchax.epoch.program import STAGES
from branchax.types import Transition
from branchax.worlds import make
from branchax.worlds.base import World, WorldState


def make_world(episode_length=20):
    return make("classic/lqr", episode_length=episode_length)


def make_agent(spec, size=0.1):
    def action(gain, obs):
        return jnp.tanh(gain @ obs)

    def update(key, gain, sources):
        t = sources.replay(key).transition
        return gain + size * t.reward.mean(), Outcome({}, {"policy/gain": gain.mean()})

    def init(key):
        return jnp.zeros((spec.action_size, spec.obs_size))

    return Agent(init, lambda key, gain, obs: (action(gain, obs), ()), action, update)


def make_dynamics(world, config):
    """The mean change of the observation."""

    def start(obs):
        return WorldState((), obs, jnp.zeros((), jnp.int32))

    def fit(key, model, ring):
        t = ring.data.transition
        return (t.next_obs - t.obs).mean(0), FitReport({"model/drift": jnp.abs(model).max()})

    def world_of(model, member):
        def step(key, state, action):
            after, no = state.obs + model, jnp.zeros((), bool)
            return start(after), Transition(state.obs, action, -(after**2).sum(), after, no, no)

        return World(world.spec, lambda key: start(world.reset(key).obs), step)

    return Dynamics(
        init=lambda key: jnp.zeros(world.spec.obs_size),
        fit=fit,
        elites=lambda model: jnp.zeros(1, jnp.int32),
        world=world_of,
        branch=lambda row: start(row.transition.obs),
        after=lambda key, row: start(row.transition.next_obs),
        doubt=lambda model, obs, action: jnp.zeros(()),
        needs_state=False,
    )


def draw_starts(parts, key, state, count):
    return STAGES.starts(parts, jax.random.fold_in(key, 1), state, count)


stages = STAGES._replace(starts=draw_starts)


def make_stages():
    return stages
'''
mine = {"__name__": "given"}
exec(MODULE, mine)
SIZES = {
    "env_steps": 60, "explore_steps": 20, "epoch_steps": 10, "batch_size": 8, "updates_per_step": 1, "eval_episodes": 2,
    "real_fraction": 0.5, "rollout__per_step": 4, "rollout__groups": 1, "rollout__horizon": 2, "checkpoint_every": 1,
    "tensorboard": False,
}  # fmt: skip
PARTS = ["--agent", "mine:make_agent", "--model=mine:make_dynamics", "--stages", "mine:stages"]


def tiny(**changes):
    return replace(preset("mbpo", "classic/lqr"), **SIZES | changes)


def flags():
    pairs = [(name.replace("__", ".").replace("_", "-"), x) for name, x in SIZES.items() if name != "tensorboard"]
    return [word for name, x in pairs for word in (f"--{name}", str(x))] + ["--no-tensorboard"]


def states(directory):
    """The arrays of a run's last checkpoint."""
    _, state = restoring.restore(directory)
    data = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)
    return jax.tree.leaves(jax.tree.map(np.asarray, data))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with the module `mine` in it, which is where everything works."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.slow
def test_all_parts_from_python_get_the_whole_run(tmp_path):
    seen, rows = [], []

    logger = Logger(rows.extend, lambda: rows.append("closed"))

    def stop(new, state):
        seen.append((len(new), int(state.counts.env_steps[0])))
        return len(seen) == 2

    parts = {
        "world": mine["make_world"],
        "agent": functools.partial(mine["make_agent"], size=0.2),
        "dynamics": mine["make_dynamics"],
        "stages": mine["make_stages"],
    }
    run, config = tmp_path / "run", tiny(seeds=2)
    branchax.run(config, run, callbacks=[stop], loggers=[logger], **parts)
    assert seen == [(2, 30), (2, 40)] and checkpoint.steps(run / rundir.CHECKPOINTS)[-1] == 40  # ended by the callback
    assert rows[-1] == "closed" and len(rows) == 1 + 3 * 2
    saved = rundir.load_config(run)
    assert (saved.agent.kind, saved.agent.reads, saved.agent.args) == ("own", "replay", ("size=0.2",))
    assert saved.agent.factory.endswith(":make_agent") and saved.stages.endswith(":make_stages")
    branchax.run(config, run, **parts)
    branchax.run(config, tmp_path / "straight", **parts)
    for one, other in zip(states(run), states(tmp_path / "straight"), strict=True):
        np.testing.assert_array_equal(one, other)
    last = runlog.read(run / rundir.METRICS)[-1]
    assert {"policy/gain", "model/drift", "eval/return_mean"} <= set(last)
    assert len(branchax.evaluate(run)) == 2


def test_all_parts_from_a_shell(here, capsys, monkeypatch):
    train = ["train", "mbpo", "--world", "mine:make_world", *PARTS, *flags(), "--run", "run"]
    assert cli.main([*train, "--agent.args", "size=0.3"]) == 0
    saved = rundir.load_config(here / "run")
    assert (saved.agent.factory, saved.agent.args) == ("mine:make_agent", ("size=0.3",))
    assert (saved.model.kind, saved.model.factory, saved.stages) == ("own", "mine:make_dynamics", "mine:stages")
    assert cli.main(["evaluate", "run"]) == 0
    assert cli.main([*train, "--agent.args", "size=0.3"]) == 0 and "is done" in capsys.readouterr().out
    (here / "mine.py").unlink()
    sys.modules.pop("mine")
    for command in (["evaluate", "run"], ["resume", "run"]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "no module 'mine' in" in said and str(here) in said


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(here):
    def start(name):
        command = [sys.executable, "-m", "branchax", "train", "mbpo", "--world", "mine:make_world", *PARTS, *flags()]
        command += ["--env-steps", "400", "--run", name]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)

    process = start("run")
    while len(checkpoint.steps(here / "run" / rundir.CHECKPOINTS)) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert rundir.status(here / "run")["state"] == "running"  # nobody could say that it is not
    assert start("straight").wait() == 0
    assert subprocess.run([sys.executable, "-m", "branchax", "resume", "run"], check=False).returncode == 0
    for one, other in zip(states(here / "run"), states(here / "straight"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert cli.main(["report", "run"]) == 0 and (here / "run" / "report.html").exists()
    assert cli.main(["export", "run"]) == 0 and (here / "run" / "policy" / "policy.jaxexport").exists()


def agent(spec, **changes):
    made = mine["make_agent"](spec)
    return made._replace(**changes)


def remembering(spec):
    """Counts the steps of an episode; the mode and what is drawn count differently."""
    act = lambda key, p, obs, m: (jnp.full(1, 0.5), (), m + 1.0)  # noqa: E731
    mode = lambda p, obs, m: (jnp.zeros(1), m + 10.0)  # noqa: E731
    return agent(spec, act=act, mode=mode, memory=lambda p: jnp.zeros(()))


def failing(spec):
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"agent": lambda spec: 3}, r"<lambda>' returned int; allowed: Agent"),
        ({"agent": failing}, r"^agent.factory: .*:failing' raised ValueError: no such thing \(test_own.py, line \d+\)"),
        ({"agent": lambda spec: agent(spec, mode=lambda p, obs: obs)}, r"has mode float32\[2\]; allowed: float32\[1\]"),
        ({"agent": lambda spec: agent(spec, act=lambda key, p, obs: obs[:1])}, r"does not return a tuple \(action"),
        ({"agent": lambda spec: agent(spec, learns_from="books")}, r"learns_from = 'books'; allowed: replay, rollouts"),
        ({"agent": lambda spec: agent(spec, counts=7)}, r"^updates_per_step: 1.* is a multiple of 7"),
        (
            {"agent": lambda spec: agent(spec, update=lambda key, p, sources: (p @ p, Outcome({}, {})))},
            r"agent.factory .* cannot trace an epoch: TypeError",
        ),
        ({"agent": remembering}, r"^rollout.horizon: 2 .* agent with a memory, .*; allowed: 0"),
        ({"agent": "mine"}, r"^agent.factory: mine is not possible; allowed: module:function"),
        ({"agent": "nowhere:make"}, r"^agent.factory: 'nowhere:make' cannot be imported: no module 'nowhere' in "),
        ({"agent": "math:make"}, r"'math:make' is unknown: math has no 'make'"),
        ({"agent": 3}, r"^agent: int is not possible; allowed: a function"),
        ({"dynamics": lambda world, config: None}, r"^model.factory: .* returned NoneType; allowed: Dynamics"),
        ({"stages": lambda: STAGES._replace(fit=None)}, r"^stages: .* has no function for fit"),
        ({"stages": STAGES._replace(fit=lambda parts, state: state)}, r"stages .* cannot trace an epoch"),
        ({"loggers": [3]}, r"^loggers: int is not possible"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_compiled(parts, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        branchax.run(tiny(model__kind="oracle"), tmp_path / "run", **parts)
    assert not (tmp_path / "run").exists()


ON_HOST = [
    ({}, None),
    ({"agent": lambda spec: agent(spec, update=lambda key, p, sources: (p @ p, Outcome({}, {})))}, r"trace an epoch"),
    ({"stages": STAGES._replace(fit=lambda parts, state: state)}, r"stages .* cannot trace an epoch"),
    (
        {"stages": STAGES._replace(collect=lambda parts, state: (state, None))},
        r"^stages: .* collect of its own, .*host",
    ),
    (
        {"dynamics": lambda world, config: mine["make_dynamics"](world, config)._replace(needs_state=True)},
        r"^model.factory: .* branches at simulator states, but gym/Pendulum-v1 gives none",
    ),
]


@pytest.mark.parametrize(("parts", "says"), ON_HOST)
def test_parts_are_tried_out_in_a_world_of_the_hosts(parts, says):
    """By the pieces that the host goes through, as no program can step it."""
    given = {"agent": mine["make_agent"], "dynamics": mine["make_dynamics"], "stages": mine["stages"]} | parts
    config = build.settle(build.with_parts(replace(preset("mbpo", "gym/Pendulum-v1"), **SIZES), **given))
    with pytest.raises(ConfigError, match=says) if says else contextlib.nullcontext():
        try_out(config, build.build(config))


def test_a_model_of_another_shape_is_refused():
    def shifted(world, config):
        made = mine["make_dynamics"](world, config)
        return made._replace(init=lambda key: jnp.zeros((3, 1)))

    config = build.with_parts(tiny(), dynamics=shifted)
    with pytest.raises(ConfigError, match=r"model.factory: .* has next_obs float32\[3, 2\]; allowed: float32\[2\]"):
        build.build(config)


def test_settings_that_an_agent_of_ones_own_cannot_have_are_refused_once_it_is_there():
    config = build.with_parts(tiny(rollout__gate="rank"), agent=lambda spec: agent(spec, learns_from="rollouts"))
    branchax.check(config)  # it is not known yet
    with pytest.raises(ConfigError, match=r"rollout.gate"):
        build.settle(config)


def test_settings_of_an_agent_of_ones_own_stay_when_it_is_given_in_python():
    own = OwnAgentConfig(discount=0.5, looks_ahead=True, args=("a=1",))
    found = build.with_parts(replace(tiny(), agent=own), agent=mine["make_agent"]).agent
    assert (found.discount, found.looks_ahead, found.args) == (0.5, True, ("a=1",))
    assert found.factory == outside.name_of(mine["make_agent"], "agent")
    given = functools.partial(mine["make_agent"], noise=0.5)
    assert build.with_parts(replace(tiny(), agent=own), agent=given).agent.args == ("noise=0.5",)
    other = dataclasses.replace(own, factory="somewhere:else")
    assert build.with_parts(replace(tiny(), agent=other), agent=mine["make_agent"]).agent.args == ()


def test_an_agent_of_ones_own_may_learn_where_rollouts_end_at_the_edge_of_the_data():
    """It sees by `truncated` which rows have left; the library's own agents need a range of values for it."""
    config = build.with_parts(preset("mbpo", "classic/cartpole"), agent=mine["make_agent"])
    assert build.settle(config).model.beyond == "end"


def test_sizes_follow_from_the_built_agent():
    """Whatever the config's agent would read."""
    from branchax.epoch.parts import sizes_of

    config = tiny()
    world = build.make_world(config)
    dynamics = mine["make_dynamics"](world, config)
    made = agent(world.spec)
    assert sizes_of(config, made, dynamics).imagined_capacity == config.imagined_capacity == 80
    on_policy = sizes_of(config, made._replace(learns_from="rollouts"), dynamics)
    assert (on_policy.imagined_capacity, on_policy.rollouts) == (0, config.rollout.per_update)


@pytest.mark.parametrize(("greedy", "action", "later"), [(True, 0.0, 10.0), (False, 0.5, 1.0)])
def test_a_policy_with_a_memory_acts_by_its_mode_or_by_what_it_draws(greedy, action, later):
    spec = build.make_world(tiny()).spec
    made = remembering(spec)
    act = play.policy(SimpleNamespace(agent=made), jnp.zeros((1, 2)), greedy)
    found, _, memory = act(jax.random.key(0), jnp.zeros(spec.obs_size), jnp.zeros(()))
    assert (float(found[0]), float(memory)) == (action, later)


def test_names_of_parts():
    assert outside.name_of(STAGES, "stages") == "branchax.epoch.program:STAGES"
    assert outside.find("branchax.epoch.program:STAGES", "stages") is STAGES
    read = {
        "a=1": 1,
        "a=x": "x",
        "a=[1, 2]": [1, 2],
        "a=False": False,
        "a=TRUE": True,
        "a=null": None,
        'a="no"': "no",
        "a=(1, 2)": (1, 2),
    }
    assert {text: outside.arguments_of([text], "args")["a"] for text in read} == read
    with pytest.raises(ConfigError, match=r"was passed in Python and has no name"):
        outside.find("test_own:<lambda>x", "agent")
