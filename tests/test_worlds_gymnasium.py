"""Gymnasium's environments as worlds: its own steps, states that come back to the last bit, refusals."""

import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from branchax.checks import check
from branchax.config import Config
from branchax.errors import ConfigError
from branchax.rollout import rollout
from branchax.worlds import gymnasium as module
from branchax.worlds import make, terminations
from branchax.worlds.base import never

NEVER_BUILT = {"Pusher-v4"}  # for MuJoCo 2 alone


def walk(world, key, worlds, length):
    """Random actions with restarts: the states before each step and the transitions, [length, worlds, ...]."""

    def act(key, obs):
        return jax.random.uniform(key, (world.spec.action_size,), minval=-1.0), ()

    @jax.jit
    def run(key):
        start = jax.vmap(world.reset)(jax.random.split(key, worlds))
        trajectory = rollout(key, world, act, start, length, restart=True)[1]
        return trajectory.state, trajectory.transition

    return jax.tree.map(np.asarray, run(key))


def plain(name):
    return gymnasium.make(name, disable_env_checker=True).unwrapped


@pytest.fixture(scope="module")
def pendulum():
    return make("gym/InvertedPendulum-v5")


@pytest.mark.parametrize(("name", "scale"), [("Ant-v5", 1.0), ("Pendulum-v1", 2.0)])
def test_an_episode_is_gymnasium_s_own(name, scale):
    """With what the last step left behind: Ant is rewarded for the way from where that put its torso."""
    world, env = make(f"gym/{name}"), plain(name)
    states, taken = walk(world, jax.random.key(1), 1, 60)
    for t in range(60):
        state, row = jax.tree.map(lambda x, t=t: x[t, 0], (states, taken))
        if state.time == 0:
            obs, _ = env.reset(seed=int(state.inner[-2]))
        np.testing.assert_array_equal(row.obs, np.float32(obs))
        obs, reward, terminated, _, _ = env.step(scale * row.action)
        np.testing.assert_array_equal(row.next_obs, np.float32(obs))
        assert row.reward == np.float32(reward) and row.terminated == terminated
    assert states.time.max() > 5


def test_next_obs_is_the_true_one_and_every_reset_is_fresh(pendulum):
    states, taken = walk(pendulum, jax.random.key(0), 10, 200)
    assert pendulum.spec[:5] == ("gym/InvertedPendulum-v5", 4, 1, 1000, False) and not pendulum.spec.differentiable
    assert taken.obs.dtype == taken.reward.dtype == np.float32 and taken.terminated.dtype == bool
    over = taken.terminated
    assert over.sum() > 100 and not taken.truncated.any()
    assert (np.abs(taken.next_obs[over][:, 1]) > 0.2).all() and (taken.reward == ~over).all()
    np.testing.assert_array_equal(taken.obs[1:][~over[:-1]], taken.next_obs[:-1][~over[:-1]])
    begins = taken.obs[1:][over[:-1]]
    assert (np.abs(begins) <= 0.01).all() and len(np.unique(begins, axis=0)) == len(begins)
    assert (states.time[1:][over[:-1]] == 0).all()


def test_an_environment_takes_exactly_one_step_per_step(monkeypatch):
    from gymnasium.envs.classic_control.pendulum import PendulumEnv

    world, steps, step = make("gym/Pendulum-v1"), [], PendulumEnv.step
    monkeypatch.setattr(PendulumEnv, "step", lambda env, action: steps.append(id(env)) or step(env, action))
    walk(world, jax.random.key(0), 3, 150)
    assert len(steps) == 3 * 150 and len(set(steps)) == 3


@pytest.mark.parametrize("name", ["Ant-v5", "Reacher-v4", "CartPole-v1", "MountainCarContinuous-v0"])
def test_a_step_from_a_saved_state_is_the_same_to_the_last_bit(name):
    """In another world of the same name none is in these states; backwards, so that none comes to be."""
    states, taken = walk(make(f"gym/{name}"), jax.random.key(2), 2, 120)
    other = make(f"gym/{name}")
    step = jax.jit(jax.vmap(other.step))
    for t in reversed(range(120)):
        state, row = jax.tree.map(lambda x, t=t: x[t], (states, taken))
        after, again = step(jax.random.split(jax.random.key(0), 2), state, row.action)
        for x, y in zip(row, again, strict=True):
            assert x.tobytes() == np.asarray(y).tobytes()
        if t < 119:
            going_on = ~(row.terminated | row.truncated)
            sizes = slice(0, -2)  # the key, and with it the seed of this step's noise, is another
            np.testing.assert_array_equal(states.inner[t + 1][going_on, sizes], after.inner[going_on, sizes])


def test_noise_in_a_step_is_the_key_s():
    world = make("gym/FrozenLake-v1")
    assert world.spec.tabular and world.spec.discrete and (world.spec.obs_size, world.spec.action_size) == (16, 4)
    states = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 60))
    keys, step = jax.random.split(jax.random.key(1), 60), jax.jit(jax.vmap(world.step))
    right = jnp.tile(jax.nn.one_hot(2, 4), (60, 1))
    first, second = step(keys, states, right)[1], step(keys, states, right)[1]
    np.testing.assert_array_equal(first.next_obs, second.next_obs)
    assert (first.next_obs.sum(-1) == 1).all()
    assert set(np.argmax(np.asarray(first.next_obs), -1)) == {0, 1, 4}  # on the ice: to either side as well


def test_discrete_actions_are_the_argmax():
    world, env = make("gym/CartPole-v1"), plain("CartPole-v1")
    assert world.spec.discrete and world.spec.action_size == 2 and not world.spec.tabular
    state = world.reset(jax.random.key(0))
    env.reset(seed=int(state.inner[-2]))
    _, row = world.step(jax.random.key(0), state, jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(row.next_obs, env.step(1)[0])


def test_after_a_termination_nothing_moves_and_nothing_is_stepped(pendulum):
    state, step = pendulum.reset(jax.random.key(0)), jax.jit(pendulum.step)
    for _ in range(100):
        state, row = step(jax.random.key(0), state, jnp.ones(1))
        if row.terminated:
            break
    after, beyond = step(jax.random.key(1), state, -jnp.ones(1))
    assert row.terminated and beyond.terminated and beyond.reward == 0 and not beyond.truncated
    np.testing.assert_array_equal(beyond.next_obs, row.next_obs)
    np.testing.assert_array_equal(after.inner, state.inner)


def test_the_clock_is_the_registered_one_or_the_given_one():
    assert make("gym/Pendulum-v1").spec.episode_length == 200
    _, taken = walk(make("gym/Pendulum-v1", episode_length=3), jax.random.key(0), 1, 7)
    np.testing.assert_array_equal(taken.truncated[:, 0], [False, False, True] * 2 + [False])
    with pytest.raises(ConfigError, match="episode_length: unset is not possible for gym/CliffWalking-v1"):
        make("gym/CliffWalking-v1")


def test_one_call_for_all_worlds_and_seeds(monkeypatch):
    """As many calls as steps, however many worlds and seeds there are side by side."""
    calls, step = [], module.Pool.step
    monkeypatch.setattr(module.Pool, "step", lambda pool, call: calls.append(np.shape(call)) or step(pool, call))
    world = make("gym/Pendulum-v1")
    calls.clear()

    @jax.jit
    @jax.vmap
    def run(key):
        start = jax.vmap(world.reset)(jax.random.split(key, 2))
        act = lambda key, obs: (jax.random.uniform(key, (1,), minval=-1.0), ())  # noqa: E731
        return rollout(key, world, act, start, 600, restart=True)[1].transition.reward

    keys = jax.random.split(jax.random.key(3), 2)
    rewards = run(keys)  # [seeds, 600, worlds]
    assert len(calls) == 600 and {shape[:-1] for shape in calls} == {(2, 2)}
    np.testing.assert_array_equal(run(keys[1:])[0], rewards[1])  # a seed among others is the seed alone


def test_more_states_than_environments(monkeypatch):
    """Recycled environments give what enough of them give."""
    expected = walk(make("gym/Pendulum-v1"), jax.random.key(4), 12, 20)[1]
    monkeypatch.setattr(module, "ALIVE_AT_MOST", 5)
    found = walk(make("gym/Pendulum-v1"), jax.random.key(4), 12, 20)[1]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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


ENDING = [name for name, predicate in terminations.GYMNASIUM.items() if predicate is not never]


@pytest.mark.parametrize("name", [name for name in ENDING if name[-2:] in ("v5", "v1")])
def test_the_predicate_agrees_on_2000_transitions(name):
    assert ends(name, 2_000) > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(terminations.GYMNASIUM.keys() - NEVER_BUILT))
def test_the_predicate_agrees_on_20000_transitions(name):
    assert (ends(name, 20_000) > 100) == (name in ENDING)


class Counter(gymnasium.Env):
    """Rewards the number of steps, which is not in its state."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Box(-2.0, 4.0, (1, 1))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = np.zeros(1), 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.state = np.array(action[0])
        return np.float32(self.state), float(self.steps), False, False, {}


class Honest(Counter):
    """Rewards the action as it arrived, and cuts the episode by itself where that is large."""

    def step(self, action):
        obs, *_ = super().step(action)
        return obs, float(action[0, 0]), False, bool(action[0, 0] > 3.5), {}


class Unbounded(Honest):
    action_space = spaces.Box(-np.inf, 1.0, (1,))


class Stateless(Honest):
    state = property(lambda self: None, lambda self, value: setattr(self, "kept", value))


@pytest.fixture
def register():
    def add(env):
        gymnasium.register(f"branchax/{env.__name__}-v0", env, max_episode_steps=9)
        return f"gym/branchax/{env.__name__}-v0"

    before = set(gymnasium.registry)
    yield add
    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]


def test_an_environment_of_one_s_own(register):
    world = make(register(Honest))
    assert world.spec.termination is None and world.spec.episode_length == 9
    state = world.reset(jax.random.key(0))
    for action, arrives, cut in [(-1.0, -2.0, False), (0.0, 1.0, False), (1.0, 4.0, True), (7.0, 4.0, True)]:
        _, row = world.step(jax.random.key(0), state, jnp.array([action]))
        assert row.reward == arrives and row.truncated == cut and not row.terminated


def test_refused_with_the_reason(register, monkeypatch):
    with pytest.raises(ConfigError, match=r"does not come back to a state that was saved"):
        make(register(Counter))
    with pytest.raises(ConfigError, match=r"its actions are Box.*allowed: Box of floats with finite bounds, Discrete"):
        make(register(Unbounded))
    with pytest.raises(ConfigError, match=r"its state can be neither read nor set"):
        make(register(Stateless))
    with pytest.raises(ConfigError, match=r"Blackjack-v1 is not possible: its observations are Tuple.*Box, Discrete"):
        make("gym/Blackjack-v1")
    with pytest.raises(ConfigError, match=r"gym/Hoper-v5 is unknown to Gymnasium \(did you mean Hopper-v5"):
        make("gym/Hoper-v5")
    with pytest.raises(ConfigError, match=r"gym/no_such_module:X-v0 needs no_such_module, which is not installed"):
        make("gym/no_such_module:X-v0")
    monkeypatch.delitem(sys.modules, "gymnasium.envs.registration")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ConfigError, match=r"needs gymnasium.*pip install 'branchax\[gym\]'"):
        make("gym/Hopper-v5")


def test_unknown_ids_are_refused_before_jax():
    check(Config(world="gym/Hopper-v5"))
    code = (
        "import sys; from branchax import cli\n"
        "assert cli.main(['train', 'mbpo', '--world', 'gym/Hoper-v5']) == 2 and 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "did you mean Hopper-v5" in done.stderr


def test_what_a_step_returns_looks_like_a_reset(pendulum):
    state = jax.eval_shape(pendulum.reset, jax.random.key(0))
    after, _ = jax.eval_shape(pendulum.step, jax.random.key(0), state, jax.ShapeDtypeStruct((1,), jnp.float32))
    looks = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree) for tree in (state, after)]
    assert looks[0] == looks[1]
