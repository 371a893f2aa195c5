"""Targets against NumPy: ensembles of critics, and values that look ahead in a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_off_policy import ahead_of, experience

from branchax.agents import critic as critics
from branchax.agents.base import Sources
from branchax.agents.critic import Backup, least, lowest, make_targets, steve
from branchax.agents.sac import make_sac
from branchax.agents.td3 import make_td3
from branchax.agents.value_range import ValueRange
from branchax.config import CriticConfig, SACConfig, TD3Config
from branchax.returns import bootstrapped
from branchax.rollout import rollout
from branchax.types import Row, Trajectory, Transition
from branchax.worlds.probes import PROBES

DISCOUNT = jnp.float32(0.8)


def random_trajectory(seed, shape, stop):
    """Steps [H, B] whose rollouts end at random, and are cut at `stop`."""
    rng = np.random.default_rng(seed)
    f = lambda *s: np.asarray(rng.normal(size=s), np.float32)  # noqa: E731
    ended = rng.random(shape) < 0.25
    alive = np.concatenate([np.ones((1, shape[1]), bool), np.cumprod(~ended, 0)[:-1].astype(bool)])
    valid = alive & (np.arange(shape[0]) < stop)[:, None]
    t = Transition(f(*shape, 1), f(*shape, 1), f(*shape), f(*shape, 1), ended, np.zeros(shape, bool))
    return Trajectory(t, valid, None, f(*shape)), f(*shape)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_values_along_a_rollout_equal_a_loop(stop):
    trajectory, next_value = random_trajectory(0, (4, 50), stop)
    q = np.asarray(jax.jit(bootstrapped)(trajectory, next_value, trajectory.extras, 0.8))
    t, bonus, valid = trajectory.transition, trajectory.extras, trajectory.valid
    for b in range(50):
        for start in range(4):
            if not valid[start, b]:
                continue
            total, power = 0.0, 1.0
            for i in range(start, stop):
                total += power * (float(t.reward[i, b]) + (0.0 if i == start else bonus[i, b]))
                power *= 0.8
                if t.terminated[i, b]:
                    power = 0.0
                    break
            assert float(q[start, b]) == pytest.approx(total + power * float(next_value[i, b]), abs=1e-5)


@pytest.mark.parametrize("stop", [2, 3])
def test_steve_equals_a_loop(stop):
    elites, horizon, batch, members = 2, 3, 40, 4
    made = [random_trajectory(e, (horizon, batch), stop)[0] for e in range(elites)]
    trajectory = jax.tree.map(lambda *x: np.stack(x), *made)
    values = np.asarray(np.random.default_rng(9).normal(size=(members, elites, horizon + 1, batch)), np.float32)
    found = np.asarray(jax.jit(steve)(trajectory, values, DISCOUNT))
    t = trajectory.transition
    for b in range(batch):
        means, weights = [], []
        for h in range(stop + 1):
            each = []
            for e in range(elites):
                total, power = 0.0, 1.0
                for i in range(h):
                    total += power * float(t.reward[e, i, b] + trajectory.extras[e, i, b])
                    power *= 0.0 if t.terminated[e, i, b] else 0.8
                each += [total + power * float(values[c, e, h, b]) for c in range(members)]
            means.append(np.mean(each))
            weights.append(1 / np.var(each))
        assert float(found[b]) == pytest.approx(np.average(means, weights=weights), abs=1e-4)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_steve_weighs_alike_in_any_unit(unit):
    trajectory = jax.tree.map(lambda x: np.asarray(x)[None], random_trajectory(0, (3, 8), 3)[0])
    values = np.asarray(np.random.default_rng(9).normal(size=(4, 1, 4, 8)), np.float32)
    t = trajectory.transition
    scaled = trajectory._replace(transition=t._replace(reward=unit * t.reward), extras=unit * trajectory.extras)
    found, other = (np.asarray(steve(*x, DISCOUNT)) for x in ((trajectory, values), (scaled, unit * values)))
    np.testing.assert_allclose(other / unit, found, rtol=1e-3, atol=1e-5)


def test_the_least_of_a_random_few():
    values = jnp.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(least(jax.random.key(0), values), values[0])
    of_two = jax.jit(jax.vmap(lambda key: least(key, values, 2)[0]))
    seen = np.asarray(of_two(jax.random.split(jax.random.key(0), 400)))
    assert set(seen) == {0.0, 3.0, 6.0}  # the least of two is never the largest
    share = np.mean(seen == 0.0)
    assert share == pytest.approx(0.5, abs=0.1)  # the smallest is among two of four half the time


def test_the_derivative_of_the_least_is_that_of_one_entry():
    """Of equal ones, the first: `min` would share it between them."""
    slope = jax.grad(lambda values: lowest(values).sum())(jnp.array([[2.0, 1.0], [2.0, 3.0]]))
    np.testing.assert_array_equal(slope, [[1.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize("expand", ["mve", "steve"])
def test_a_rollout_to_the_end_owes_nothing_to_the_critics(expand):
    """Episodes of two steps, targets that look three ahead in the world itself: exact whatever the critics say."""
    probe = PROBES["discounting"]
    world = probe.world()
    row = experience(world)
    wrong = lambda key, obs: 7.0 + jnp.arange(3.0).reshape(3, *[1] * (obs.ndim - 1)) + 0 * obs[..., 0]  # noqa: E731
    backup = Backup(lambda key, obs: (jnp.ones(1), jnp.zeros(())), wrong)
    sources = Sources(None, None, ahead=ahead_of(world, 3))  # type: ignore[arg-type]
    config = CriticConfig(members=3, expand=expand)
    goal = jax.jit(lambda: make_targets(jax.random.key(0), row, sources, backup, config, DISCOUNT))()
    assert goal.y.shape[0] == row.transition.reward.shape[0] * (4 if expand == "mve" else 1)
    goal = jax.tree.map(np.asarray, goal)
    keep = goal.weight > 0
    np.testing.assert_allclose(goal.y[keep], probe.q(goal.obs, goal.action, DISCOUNT)[keep], atol=1e-4)


def test_a_time_limit_is_bootstrapped_through_whatever_the_horizon():
    """Reward 1 for ever: with V = 0 in place of the critics' values, H more steps are worth sum_{i <= H} gamma^i."""
    world = PROBES["time_limit"].world()
    row = experience(world)
    backup = Backup(lambda key, obs: (jnp.ones(1), jnp.zeros(())), lambda key, obs: jnp.zeros((2, *obs.shape[:-1])))
    sources = Sources(None, None, ahead=ahead_of(world, 3))  # type: ignore[arg-type]
    config = CriticConfig(expand="mve", td_k=False)
    goal = jax.jit(lambda: make_targets(jax.random.key(0), row, sources, backup, config, DISCOUNT))()
    np.testing.assert_allclose(goal.y, (0.8 ** np.arange(4)).sum(), rtol=1e-5)


@pytest.mark.parametrize(("range_", "left"), [(None, 5.0), (ValueRange(jnp.float32(-7), jnp.float32(9), True), -7.0)])
def test_the_lowest_value_follows_where_a_rollout_has_left_the_data(range_, left):
    """V = 5: a row that goes on, one that terminates, one that has left."""
    obs, at = jnp.zeros((3, 1)), jnp.arange(3)
    row = Row(Transition(obs, obs, jnp.ones(3), obs, at == 1, at == 2))
    value = lambda key, obs: jnp.full((2, *obs.shape[:-1]), 5.0)  # noqa: E731
    backup = Backup(lambda key, obs: (obs, jnp.zeros(())), value, range=range_)
    goal = make_targets(jax.random.key(0), row, Sources(None, None), backup, CriticConfig(), DISCOUNT)  # type: ignore[arg-type]
    np.testing.assert_allclose(goal.y, [1 + 0.8 * 5, 1.0, 1 + 0.8 * left], rtol=1e-6)


def test_rows_take_turns_over_the_elites():
    """Seven rows, three elites: each row's rollout starts from its own state, in one elite."""
    row = jax.tree.map(lambda x: x[:7], experience(PROBES["observation"].world()))
    seen = {}

    def run(key, act, starts):
        seen["starts"] = starts
        n, count = starts.obs.shape[:2]
        blank = jnp.zeros((n, 2, count))
        obs = jnp.broadcast_to(starts.obs[:, None], (n, 2, count, 1))
        return Trajectory(Transition(obs, obs, blank, obs, blank > 0, blank > 0), blank > -1, None, blank)

    ahead = critics.Ahead(3, lambda key, row, after: row.state, run, run)
    found = critics.in_one_elite(jax.random.key(0), row, ahead, lambda k, o: (o, ()))
    assert seen["starts"].obs.shape == (3, 3, 1) and found.valid.shape == (2, 7)
    np.testing.assert_array_equal(found.transition.obs[1], row.state.obs)


def test_the_gradient_through_the_model_is_that_of_the_return():
    """At discount 0 the actor's objective is the model's reward alone: its gradient, whatever the critics say."""
    world = PROBES["action"].world()
    config = SACConfig(hidden=(8,), discount=0.0, through_model=True, init_temperature=1e-9, learning_rate=1e-2)
    agent = make_sac(world.spec, config)
    row = experience(world)
    sources = Sources(lambda key: row, None, ahead=ahead_of(world, 2))  # type: ignore[arg-type]

    @jax.jit
    def train():
        params = agent.init(jax.random.key(0))
        params = params._replace(knobs=params.knobs._replace(target_entropy=jnp.float32(-9.0)))
        keys = jax.random.split(jax.random.key(1), 300)
        return jax.lax.scan(lambda p, k: (agent.update(k, p, sources)[0], None), params, keys)[0]

    after = train()
    assert float(agent.mode(after, row.transition.obs[0])[0]) == pytest.approx(0.5, abs=0.1)


def test_the_objective_through_the_model_takes_the_lowest_value_where_it_leaves_the_data():
    """The first imagined step leaves the data: what is left of the objective is r_0 = 0 and gamma times the lowest."""
    world = PROBES["discounting"].world()
    row = experience(world)
    first = jax.tree.map(lambda x: x[np.asarray(row.transition.obs[:, 0] < 0.5)], row)

    def leaving(key, state, action):
        after, t = world.step(key, state, action)
        return after, t._replace(truncated=~t.terminated)

    def run(key, act, starts):
        one = lambda key, start: rollout(key, world._replace(step=leaving), act, start, 3)[1]  # noqa: E731
        return jax.vmap(one)(jax.random.split(key, 1), starts)

    sources = Sources(lambda key: first, None, ahead=ahead_of(world, 3)._replace(rollout=run))  # type: ignore[arg-type]
    critic = CriticConfig(scale="possible", scale_rate=0.0)
    config = SACConfig(hidden=(8,), discount=0.8, through_model=True, init_temperature=1e-9, critic=critic)
    agent = make_sac(world.spec, config)

    @jax.jit
    def update():
        params = agent.init(jax.random.key(0))
        params = params._replace(range=ValueRange(jnp.float32(-3), jnp.float32(5), jnp.ones((), bool)))
        return agent.update(jax.random.key(1), params, sources)[1]

    assert float(update().losses["policy/loss"]) == pytest.approx(0.8 * 3, abs=1e-5)


@pytest.mark.slow
def test_the_objective_through_the_model_is_the_discounted_return_and_the_value_that_follows():
    """Two steps in the discounting world: r_0 + gamma r_1, and there it ends; the critics have no part."""
    world = PROBES["discounting"].world()
    config = SACConfig(hidden=(8,), discount=0.8, through_model=True, init_temperature=1e-9, learn_temperature=False)
    agent, row = make_sac(world.spec, config), experience(world)
    first = jax.tree.map(lambda x: x[np.asarray(row.transition.obs[:, 0] < 0.5)], row)  # those at the start
    sources = Sources(lambda key: first, None, ahead=ahead_of(world, 3))  # type: ignore[arg-type]
    _, told = jax.jit(lambda: agent.update(jax.random.key(1), agent.init(jax.random.key(0)), sources))()
    assert float(told.losses["policy/loss"]) == pytest.approx(-0.8, abs=1e-5)
    assert float(told.model_steps) == 2 * first.transition.reward.shape[0]


def test_model_steps_are_those_of_every_update_of_the_critics():
    """TD3 takes two to one of the actor; off rows at the start of the discounting world one step is left to imagine."""
    world = PROBES["discounting"].world()
    agent, row = make_td3(world.spec, TD3Config(hidden=(8,), critic=CriticConfig(expand="mve"))), experience(world)
    first = jax.tree.map(lambda x: x[np.asarray(row.transition.obs[:, 0] < 0.5)], row)
    sources = Sources(lambda key: first, None, ahead=ahead_of(world, 3))  # type: ignore[arg-type]
    _, told = jax.jit(lambda: agent.update(jax.random.key(1), agent.init(jax.random.key(0)), sources))()
    assert float(told.model_steps) == 2 * first.transition.reward.shape[0]
