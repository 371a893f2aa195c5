"""Gymnasium's environments: made, flattened, stepped as `gymnasium.make` has them, saved, closed; refusals."""

import importlib
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace
from gymnasium import spaces

from branchax import build, outside, replay
from branchax.checks import check
from branchax.config import Config
from branchax.epoch.imagine import first_rows
from branchax.errors import ConfigError, WorldFault
from branchax.presets import preset
from branchax.types import Row, Transition
from branchax.worlds import contract, environments, make, snapshots, terminations
from branchax.worlds.base import never
from branchax.worlds.spaces import Unusable, make_actions, own_terms, read_observations

NEVER_BUILT = {"Pusher-v4"}  # for MuJoCo 2 alone
sys.path.insert(0, str(Path(__file__).parent))
strange = importlib.import_module("strange_envs")


def plain(name):
    return gymnasium.make(name, disable_env_checker=True).unwrapped


def guard(name, length=None, **options):
    return partial(environments.make_guard, name, {}, length, **options)


@pytest.fixture
def fleet_of():
    made = []

    def make_fleet(name, count=1, workers=0, once=False, length=None):
        one = guard(name, length)()
        sizes = one.observations.size, one.actions.size
        one.close()
        made.append(environments.Fleet(guard(name, length, once=once), count, workers, *sizes))
        return made[-1]

    yield make_fleet
    for fleet in made:
        fleet.close()


def walk(fleet, actions):
    """What `fleet` returns for actions [T, N, A], field by field, each [T, N, ...]."""
    return [np.stack(x) for x in zip(*(fleet.step(action) for action in actions), strict=True)]


@pytest.mark.parametrize(
    ("name", "scale"), [("Ant-v5", 1.0), ("Pendulum-v1", 2.0), ("strange_envs:Remembering-v0", 1.0)]
)
def test_steps_are_those_of_gymnasium_make(name, scale, fleet_of):
    """With wrappers, limits and memories, across the ends of episodes, whose last observations are the true ones."""
    fleet, env = fleet_of(name, 2), gymnasium.make(name)
    size = env.action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1, 1, (260, 2, size)).astype(np.float32)
    starts = fleet.reset(np.array([7, 8]))
    after, later, reward, terminated, truncated = walk(fleet, actions)
    obs = env.reset(seed=8)[0]
    np.testing.assert_array_equal(starts[1], np.ravel(obs).astype(np.float32))
    for t in range(260):
        obs, paid, over, cut, _ = env.step(scale * actions[t, 1])
        np.testing.assert_array_equal(after[t, 1], np.ravel(obs).astype(np.float32))
        assert (reward[t, 1], terminated[t, 1], truncated[t, 1]) == (np.float32(paid), over, cut and not over)
        if over or cut:
            obs = env.reset()[0]
        np.testing.assert_array_equal(later[t, 1], np.ravel(obs).astype(np.float32))
    assert (terminated | truncated).sum() > 0 and not np.array_equal(after[:, 0], after[:, 1])


def test_one_array_written_again_and_again_is_copied(fleet_of):
    fleet = fleet_of("strange_envs:Buffer-v0", 4)
    starts = fleet.reset(np.arange(4))
    assert len(np.unique(starts, axis=0)) == 4
    after = fleet.step(np.zeros((4, 1), np.float32))[0]
    np.testing.assert_allclose(after, 0.9 * starts, rtol=1e-6)


def test_an_evaluation_stays_at_the_end_of_its_episode(fleet_of):
    fleet = fleet_of("strange_envs:Hidden-v0", 2, once=True)
    fleet.reset(np.array([1, 2]))
    after, _, reward, _, truncated = walk(fleet, np.zeros((30, 2, 1), np.float32))
    assert truncated[22].all() and truncated.sum() == 2 and (reward[23:] == 0).all()
    assert (after[23:] == after[22]).all()


def test_an_action_or_number_that_is_not_finite_reaches_nobody(fleet_of):
    fleet = fleet_of("strange_envs:Base-v0", 2)
    starts = fleet.reset(np.array([1, 2]))
    after, later, reward, terminated, truncated = fleet.step(np.float32([[np.nan], [0.0]]))
    np.testing.assert_array_equal(after[0], starts[0])
    assert truncated.tolist() == [True, False] and not terminated.any() and np.isfinite(reward).all()
    assert (later[0] != starts[0]).any()


@pytest.mark.parametrize(
    "name",
    [
        "Hopper-v5",
        "CartPole-v1",
        "strange_envs:Hidden-v0",
        "strange_envs:Remembering-v0",
        "strange_envs:Shared-v0",
        "strange_envs:Grid-v0",
    ],
)
def test_an_environment_comes_back_from_a_snapshot(name):
    assert snapshots.comes_back(guard(name))


@pytest.mark.parametrize("name", ["LunarLander-v3", "strange_envs:Opaque-v0", "strange_envs:Deep-v0"])
def test_one_that_holds_what_cannot_be_read_does_not(name, fleet_of):
    """And its snapshots are taken all the same, as every checkpoint does."""
    if name.startswith("Lunar"):
        pytest.importorskip("Box2D")
    assert not snapshots.comes_back(guard(name))
    fleet = fleet_of(name)
    fleet.reset(np.array([1]))
    saved = fleet.save_state()
    fleet.step(np.zeros((1, 4 if name.startswith("Lunar") else 1), np.float32))
    fleet.set_state(saved)


def test_a_trial_finds_out_whoever_is_not_brought_back(monkeypatch):
    monkeypatch.setattr(snapshots, "put", lambda thing, saved: None)
    assert not snapshots.comes_back(guard("strange_envs:Hidden-v0"))


@pytest.mark.slow
def test_worker_processes_do_the_same(fleet_of):
    actions = np.random.default_rng(1).uniform(-1, 1, (60, 3, 1)).astype(np.float32)
    here, there = (fleet_of("strange_envs:Remembering-v0", 3, workers) for workers in (0, 2))
    seeds = np.array([4, 5, 6])
    np.testing.assert_array_equal(here.reset(seeds), there.reset(seeds))
    for x, y in zip(walk(here, actions), walk(there, actions), strict=True):
        np.testing.assert_array_equal(x, y)
    there.set_state(here.save_state())
    for x, y in zip(walk(here, actions), walk(there, actions), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_raised_in_a_step_is_a_line(workers, fleet_of, monkeypatch):
    monkeypatch.setattr(strange.Broken, "count", 0)
    fleet = fleet_of("strange_envs:Broken-v0", 2, workers)
    strange.Broken.count = 0
    fleet.reset(np.array([1, 2]))
    with pytest.raises(WorldFault, match=r"^its step raised RuntimeError: the simulator lost its connection$"):
        walk(fleet, np.zeros((200, 2, 1), np.float32))
    assert fleet.closed


@pytest.mark.slow
def test_a_worker_process_that_is_gone_is_a_line_and_leaves_no_other(fleet_of):
    fleet = fleet_of("Pendulum-v1", 2, 2)
    fleet.reset(np.array([1, 2]))
    processes = fleet.there.processes
    processes[0].kill()
    with pytest.raises(WorldFault, match=r"^one of its worker processes ended without a word$"):
        walk(fleet, np.zeros((5, 2, 1), np.float32))
    for process in processes:
        process.join(5.0)
        assert not process.is_alive()


def test_every_environment_is_closed():
    strange.CLOSED.clear()
    world = make("gym/strange_envs:Base-v0")
    assert len(strange.CLOSED) == 1  # it was made to be looked at
    fleet = world.host.make(3, 0, False)
    world.host.reset(fleet, np.arange(3))
    world.host.close(fleet)
    world.host.close(fleet)
    assert len(strange.CLOSED) == 4


def test_actions_stay_within_their_bounds():
    box = spaces.Box(np.float32([0.1, -3.0, 1e-3]), np.float32([0.3, 1.0, 7.7]))
    actions = make_actions(box)
    for action in np.random.default_rng(0).choice([-7.0, -1.0, -0.999, 0.3, 1.0], (200, 3)).astype(np.float32):
        assert box.contains(actions.make(action))
    np.testing.assert_array_equal(actions.make(np.ones(3)), box.high)
    np.testing.assert_array_equal(actions.make(-np.ones(3)), box.low)
    whole = make_actions(spaces.Box(-3, 5, (2, 1), np.int32))
    assert whole.make(np.float32([1.0, 0.13])).tolist() == [[5], [2]]


def test_discrete_actions_are_every_combination():
    space = spaces.Dict({"a": spaces.Discrete(3, start=-1), "b": spaces.Tuple([spaces.MultiDiscrete([2, 2])])})
    actions = make_actions(space)
    assert actions.discrete and actions.size == 12
    made = [actions.make(np.eye(12)[i]) for i in range(12)]
    assert all(space.contains(action) for action in made)
    assert len({(int(x["a"]), *map(int, x["b"][0])) for x in made}) == 12


def test_actions_are_told_in_the_environment_s_own_terms():
    box = spaces.Tuple([spaces.Box(np.float32([0, -3]), np.float32([5, 1])), spaces.Box(-2, 2, ())])
    assert own_terms(make_actions(box)) == {"low": [[0.0, -3.0], -2.0], "high": [[5.0, 1.0], 2.0]}
    assert own_terms(make_actions(spaces.Discrete(3, start=-1))) == {"actions": [-1, 0, 1]}
    pair = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.MultiDiscrete([2], start=[7])})
    assert own_terms(make_actions(pair))["actions"][2] == {"a": 1, "b": [7]}


def test_observations_are_what_flatten_gives():
    space = spaces.Dict({"x": spaces.Box(-1, 1, (2, 2)), "n": spaces.Discrete(3, start=5)})
    observations = read_observations(space)
    obs = {"x": np.float32([[0.1, 0.2], [0.3, 0.4]]), "n": 6}
    np.testing.assert_allclose(observations.read(obs), [0, 1, 0, 0.1, 0.2, 0.3, 0.4])
    assert not observations.tabular and read_observations(spaces.Discrete(4)).tabular
    with pytest.raises(Unusable, match=r"its observations are Sequence"):
        read_observations(spaces.Sequence(spaces.Discrete(2)))


def test_the_clock_is_the_least_of_all_limits_or_the_given_one():
    assert make("gym/Pendulum-v1").spec.episode_length == 200
    assert make("gym/Pendulum-v1", episode_length=3).spec.episode_length == 3
    assert make("gym/strange_envs:Remembering-v0").spec.episode_length == 17
    assert make("gym/strange_envs:Limited-v0").spec.episode_length == 12
    with pytest.raises(ConfigError, match="episode_length: unset is not possible for gym/CliffWalking-v1"):
        make("gym/CliffWalking-v1")


def test_arguments_reach_the_environment():
    world = make("gym/Ant-v5", arguments=["include_cfrc_ext_in_observation=False"])
    assert world.spec.obs_size == 27 and world.spec.termination is not None
    assert make("gym/MountainCar-v0", arguments=["goal_velocity=0.01"]).spec.termination is None
    moved = make("gym/Hopper-v5", arguments=["exclude_current_positions_from_observation=False"])
    assert moved.spec.obs_size == 12 and moved.spec.termination is None  # what decides is elsewhere: it is learned
    with pytest.raises(ConfigError, match=r"world_args: 'x' is not possible; allowed: NAME=VALUE"):
        make("gym/Hopper-v5", arguments=["x"])
    with pytest.raises(ConfigError, match=r"world_args: x=1 is not possible for classic/pendulum"):
        make("classic/pendulum", arguments=["x=1"])
    assert make("gym/strange_envs:NeedsArgument-v0", arguments=["goal=word"]).spec.obs_size == 2
    read = {"a=false": False, "a=TRUE": True, "a=none": None, "a='false'": "false", "a=-1e-3": -1e-3, "a=[1]": [1]}
    assert {text: outside.arguments_of([text], "world_args")["a"] for text in read} == read


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("RewardNone", "its reward is None; allowed: a number"),
        ("RewardVector", r"its reward is ndarray of shape \[2\]; allowed: a number"),
        ("DoneText", "its terminated is str; allowed: a bool"),
        ("WrongShape", r"an observation of shape \[2\], and its space says \[3\]"),
        ("OldStep", "its step raised ValueError.*allowed: five values, terminated and truncated apart"),
        ("OldReset", "its reset returned ndarray of shape.*allowed: an observation and a dict"),
        ("NoSeed", "its reset raised TypeError.*'seed'"),
        ("RaisesInInit", "it cannot be made: RuntimeError: no simulator at port 5005"),
        ("NeedsArgument", "it cannot be made: TypeError.*'goal'.*--world-args NAME=VALUE"),
        ("Unbounded", "its actions are Box.*allowed: boxes with finite bounds"),
        ("SwappedParts", r"an observation of shape \[6, 1\], and its space says \[2, 3\]"),
        ("BesideTheStates", r"an observation of -1, and its space says Discrete\(4\)"),
        ("BesideTheWheels", r"an observation of \[1 3\], and its space says MultiDiscrete"),
        ("NoSpace", "its observation_space is builtins.NoneType; allowed: one of gymnasium.spaces"),
        ("OldSpace", "its action_space is strange_envs.OldSpace.Box; allowed: one of gymnasium.spaces"),
        ("NoActions", r"its actions are Tuple\(\); allowed: at least one"),
        ("Leaves", "its step raised SystemExit: the licence has expired"),
        ("FloatMaximum", "its actions are Box.*allowed: boxes with finite bounds"),
        ("IntegerMaximum", "its actions are Box.*allowed: boxes with finite bounds"),
        ("Mixed", "its actions are Dict.*allowed: bounded boxes or discrete ones, and not both"),
    ],
)
def test_what_an_environment_breaks_is_a_line(name, why):
    with pytest.raises(ConfigError, match=why) as caught:
        make(f"gym/strange_envs:{name}-v0")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"world: gym/strange_envs:{name}-v0 is not")


def test_a_number_in_an_array_is_that_number(fleet_of):
    fleet = fleet_of("strange_envs:RewardArray-v0")
    fleet.reset(np.array([0]))
    assert fleet.step(np.zeros((1, 1), np.float32))[2] == -1.5


def test_flags_in_arrays_end_episodes_and_nothing_is_reset_more_often(fleet_of):
    fleet = fleet_of("strange_envs:Grid-v0", 2)
    before = strange.Grid.resets
    fleet.reset(np.array([1, 2]))
    *_, reward, terminated, truncated = walk(fleet, np.zeros((45, 2, 1), np.float32))
    assert np.flatnonzero(terminated[:, 1]).tolist() == [9, 19, 29, 39] and not truncated.any()
    assert reward[:10, 0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert strange.Grid.resets - before == 2 + 2 * 4


def test_a_compiled_program_cannot_step_it():
    world = make("gym/Pendulum-v1")
    with pytest.raises(ConfigError, match=r"gym/Pendulum-v1 is stepped on the host"):
        jax.eval_shape(world.reset, jax.random.key(0))


def test_check_world_of_the_host_s():
    assert contract.check_host(make("gym/CartPole-v1")) == []
    found = contract.check_host(make("gym/strange_envs:Hidden-v0"), steps=30)
    assert found == []


def test_unknown_ids_and_modules_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"gym/Hoper-v5 is unknown to Gymnasium \(did you mean Hopper-v5"):
        make("gym/Hoper-v5")
    with pytest.raises(ConfigError, match=r"gym/no_such_module:X-v0 needs no_such_module, which is not installed"):
        make("gym/no_such_module:X-v0")
    monkeypatch.delitem(sys.modules, "gymnasium.envs.registration")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ConfigError, match=r"needs gymnasium.*pip install 'branchax\[gym\]'"):
        make("gym/Hopper-v5")


def two_worlds(capacity, dropped=(), lengths=(3, 4), alike=False):
    """A ring of 12 steps of two worlds side by side, with episodes of these lengths, without the rows `dropped`, each
    of which ends its episode. An observation: the steps since its episode began, and a number of that episode alone; or
    always the same. The action is the number of the row, the reward 1 where its episode begins."""
    no = jnp.array([False])
    ring = replay.init(Row(Transition(jnp.zeros(2), jnp.zeros(1), jnp.zeros(()), jnp.zeros(2), no[0], no[0])), capacity)
    age, episode, number = [0, 0], [1, 2], 3
    for t in range(24):
        world = t % 2
        over = age[world] == lengths[world] - 1
        obs, after = ([0, 0] if alike else [age[world] + later, episode[world]] for later in (0, 1))
        obs, after = (jnp.array([x], jnp.float32) for x in (obs, after))
        row = Transition(
            obs, jnp.full((1, 1), t, float), jnp.full(1, age[world] == 0, float), after, no, jnp.array([over])
        )
        ring = replay.add(ring, Row(row), jnp.array([t not in dropped]))
        age[world] = 0 if over or t in dropped else age[world] + 1
        if age[world] == 0:
            episode[world], number = number, number + 1
    return ring


@pytest.mark.parametrize("capacity", [20, 30])  # one that has wrapped, one that is not full
@pytest.mark.parametrize(("dropped", "alike"), [((), False), ((), True), ((7,), False), ((7, 12), False)])
def test_rows_that_episodes_began_with_are_found(capacity, dropped, alike):
    ring = two_worlds(capacity, dropped, alike=alike)
    found = first_rows(jax.random.key(0), ring, 2, bool(dropped), 300).transition
    rows, size = ring.data.transition, int(ring.size)
    oldest = rows.action[(ring.cursor + jnp.arange(2)) % size, 0].tolist() if size == capacity else []
    begun = {t for t, begins in zip(rows.action[:size, 0].tolist(), rows.reward[:size], strict=True) if begins}
    assert begun - set(oldest) == set(found.action[:, 0].tolist())


def test_without_the_beginning_of_an_episode_the_oldest_row_is_one():
    ring = two_worlds(10, lengths=(50, 50))
    found = first_rows(jax.random.key(0), ring, 2, False, 20).transition.obs
    np.testing.assert_array_equal(found, np.tile(ring.data.transition.obs[ring.cursor], (20, 1)))


def test_a_buffer_that_may_hold_no_beginning_of_an_episode_is_refused():
    config = replace(preset("v2.5", "gym/InvertedPendulum-v5"), replay_capacity=500)
    validated = replace(config, rollout__start="replay", rollout__validate_every=5)
    for each in (config, validated):
        with pytest.raises(ConfigError, match=r"replay_capacity: 500 .* allowed: >= 1001, or unset"):
            build.check_buffer(each, build.build(each))
    sound = [
        replace(config, replay_capacity=1_200),
        replace(config, rollout__start="replay"),
        replace(config, dataset="x"),
    ]
    for each in sound:
        build.check_buffer(each, build.build(each))


def test_unknown_ids_are_refused_before_jax():
    check(Config(world="gym/Hopper-v5"))
    code = (
        "import sys; from branchax import cli\n"
        "assert cli.main(['train', 'mbpo', '--world', 'gym/Hoper-v5']) == 2 and 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "did you mean Hopper-v5" in done.stderr


def ends(name, steps):
    """How often random episodes of the environment itself terminate, each time where the predicate says so."""
    env, next_obs, terminated = plain(name), [], []
    env.action_space.seed(0)
    env.reset(seed=0)
    for t in range(steps):
        if t % 200 == 0 or terminated[-1]:
            env.reset()
        obs, _, over, _, _ = env.step(env.action_space.sample())
        next_obs.append(np.float32(obs))
        terminated.append(over)
    predicted = jax.vmap(terminations.GYMNASIUM[name], (None, None, 0))(None, None, np.array(next_obs))
    np.testing.assert_array_equal(predicted, terminated)
    return sum(terminated)


GOALS = {"Acrobot-v1": 5, "MountainCar-v0": 1}  # the velocity along which a push gets there; random actions do not
ENDING = [name for name, predicate in terminations.GYMNASIUM.items() if predicate is not never and name not in GOALS]


@pytest.mark.parametrize("name", GOALS)
def test_the_predicate_says_when_a_goal_is_reached(name):
    env, reached = plain(name), 0
    obs, _ = env.reset(seed=0)
    for _ in range(2_000):
        obs, _, over, _, _ = env.step(2 if obs[GOALS[name]] > 0 else 0)
        assert bool(terminations.GYMNASIUM[name](None, None, jnp.float32(obs))) == over
        reached += over
        if over:
            obs, _ = env.reset()
    assert reached > 5


@pytest.mark.parametrize("name", [name for name in ENDING if name[-2:] in ("v5", "v1")])
def test_the_predicate_agrees_on_2000_transitions(name):
    assert ends(name, 2_000) > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(terminations.GYMNASIUM.keys() - NEVER_BUILT - GOALS.keys()))
def test_the_predicate_agrees_on_20000_transitions(name):
    assert (ends(name, 20_000) > 100) == (name in ENDING)
