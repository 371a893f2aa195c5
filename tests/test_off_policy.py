"""Every off-policy agent on the probe worlds, against analytic values: one update rule for all, by its config."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import replay
from branchax.agents.base import Ahead, Sources
from branchax.agents.critic import action_values, make_critic, make_discrete_critic
from branchax.build import AGENTS
from branchax.config import CriticConfig, DQNConfig, SACConfig, TD3Config
from branchax.distributions import one_hot
from branchax.dynamics.oracle import oracle
from branchax.epoch.collect import uniform
from branchax.rollout import rollout
from branchax.types import Row
from branchax.worlds.base import World
from branchax.worlds.probes import DISCRETE_PROBES, PROBES
from branchax.worlds.tabular import dyna_maze, gridworld, optimal_q

DISCOUNT = 0.8
SHARED = {"hidden": (32, 32), "learning_rate": 3e-3, "discount": DISCOUNT, "tau": 0.05}
FASTER = SHARED | {"learning_rate": 1e-2}
SAC = SACConfig(init_temperature=1e-6, learn_temperature=False, **SHARED)
MVE, STEVE = CriticConfig(expand="mve"), CriticConfig(members=3, expand="steve")
# name: (agent, whether its actions are discrete)
CONFIGS = {
    "redq": (replace(SAC, critic=CriticConfig(members=4, subset=2)), False),
    "mve": (replace(SAC, critic=MVE), False),
    "svg": (replace(SAC, through_model=True), False),
    "double_horizon": (replace(SAC, through_model=True, critic=CriticConfig(3, subset=2, expand="fresh")), False),
    "td3": (TD3Config(**SHARED), False),
    "td3_steve": (TD3Config(critic=STEVE, **SHARED), False),
    "dqn": (DQNConfig(dueling=True, **FASTER), True),
    "dqn_mve": (DQNConfig(double=False, critic=replace(MVE, members=1, td_k=False), **FASTER), True),
    "sac_discrete": (replace(SAC, **FASTER), True),
}
# What runs for longer than it compiles.
long_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
# Their parts are tested on their own, DQN on the gridworld below.
SLOW = ("td3_steve", "dqn", "dqn_mve", "redq", "mve", "svg", "sac_discrete")


def discretised(world: World) -> World:
    """The same world under two discrete actions: the first is -1, the second 1."""

    def step(key, state, action):
        after, t = world.step(key, state, action[1:] * 2 - 1)
        return after, t._replace(action=action)

    return World(world.spec._replace(discrete=True, action_size=2), world.reset, step)


def ahead_of(world: World, horizon: int) -> Ahead:
    """The world as its own model."""
    model = oracle(world)

    def start(key, row, after):
        keys = jax.random.split(key, row.transition.reward.shape[0])
        return jax.vmap(model.after)(keys, row) if after else jax.vmap(model.branch)(row)

    def run(key, act, starts):
        one = lambda key, start: rollout(key, model.world((), None), act, start, horizon)[1]  # noqa: E731
        return jax.vmap(one)(jax.random.split(key, 1), starts)

    return Ahead(1, start, run, run)


def experience(world: World, worlds=32, steps=16) -> Row:
    @jax.jit
    def collect():
        start = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), worlds))
        _, out = rollout(jax.random.key(1), world, uniform(world.spec), start, steps, restart=True)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), Row(out.transition, out.state))

    return collect()


def stacked(worlds: list[World]) -> World:
    """Several worlds as one, told apart by `inner`, so that one compiled program serves them all."""

    def step(key, state, action):
        index, inner = state.inner
        after, t = jax.lax.switch(index, [w.step for w in worlds], key, state._replace(inner=inner), action)
        return after._replace(inner=(index, after.inner)), t

    return World(worlds[0].spec, None, step)  # type: ignore[arg-type]


def train(config, worlds, updates=800):
    """Trains on the experience of every world at once; the parameters and the rows, each with a leading axis."""
    agent, world = AGENTS[config.kind](worlds[0].spec, config), stacked(worlds)
    data = [experience(w) for w in worlds]
    for i, row in enumerate(data):
        index = np.full(row.transition.reward.shape, i, np.int32)
        data[i] = row._replace(state=row.state._replace(inner=(index, row.state.inner)))
    rows = jax.tree.map(lambda *x: np.stack(x), *data)

    def run(key, rows):
        ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), 512), rows)
        sources = Sources(lambda k: replay.sample(k, ring, 128), None, ahead=ahead_of(world, 2))  # type: ignore[arg-type]
        keys = jax.random.split(jax.random.fold_in(key, 1), updates)
        return jax.lax.scan(lambda p, k: agent.update(k, p, sources), agent.init(key), keys)[0]

    return agent, long_jit(jax.vmap(run))(jax.random.split(jax.random.key(0), len(worlds)), rows), rows.transition


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CONFIGS])
def test_probes_reach_the_analytic_q(name):
    config, discrete = CONFIGS[name]
    probes = {**PROBES, **(DISCRETE_PROBES if discrete else {})}
    made = [p.world() for p in probes.values()]
    worlds = [w if w.spec.discrete == discrete else discretised(w) for w in made]
    # At obs 0 only a discrete critic's last bias has a gradient, and Adam moves it by a learning rate a step.
    agent, params, rows = train(config, worlds, updates=1_500 if discrete else 800)
    make = make_discrete_critic if discrete else lambda spec, *a, **k: make_critic(2, *a)
    critic = make(worlds[0].spec, config.hidden, config.critic, dueling=getattr(config, "dueling", False))
    values, mode = jax.jit(critic.values), jax.jit(agent.mode)
    params, rows = jax.tree.map(np.asarray, (params, rows))
    for i, (probe, q) in enumerate(probes.items()):
        one, t = jax.tree.map(lambda x: x[i], params), jax.tree.map(lambda x: x[i], rows)  # noqa: B023
        action = t.action if q.world().spec.discrete == discrete else t.action[:, 1:] * 2 - 1
        taken = t.action
        if config.critic.expand == "fresh":  # it learns the values of its own actions alone
            action = taken = mode(one, t.obs)
        expected = q.q(t.obs, action, DISCOUNT)
        found = values(one.critics.params, t.obs, taken)
        np.testing.assert_allclose(found, np.stack([expected] * found.shape[0]), atol=0.1, err_msg=probe)
        best = mode(one, t.obs[0])
        if probe == "action":
            assert float(best[-1]) == pytest.approx(1.0 if discrete else 0.5, abs=0.1)
        if probe == "choice":
            np.testing.assert_array_equal(best, one_hot(jnp.int32(t.obs[0, 0] > 0), 2))


def test_dqn_reaches_the_exact_q_of_the_gridworld():
    """By dynamic programming in float64: every pair to 1 % of the largest value."""
    world, expected = gridworld(), optimal_q(dyna_maze(), 0.95)
    states, actions = expected.shape
    obs = jnp.repeat(jnp.eye(states), actions, 0)
    action = jnp.tile(jnp.eye(actions), (states, 1))

    @jax.jit
    def from_each_pair():
        start = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), states * actions))
        start = start._replace(obs=obs, inner=obs.argmax(-1).astype(start.inner.dtype))
        return jax.vmap(world.step)(jax.random.split(jax.random.key(1), states * actions), start, action)[1]

    t = from_each_pair()
    live = np.repeat(expected.any(1), actions)  # nothing starts from the goal
    ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], Row(t)), states * actions), Row(t), jnp.asarray(live))
    sources = Sources(lambda k: replay.sample(k, ring, 128), None)  # type: ignore[arg-type]
    config = DQNConfig(hidden=(64,), learning_rate=2e-3, discount=0.95, tau=0.02)
    rates = jnp.repeat(
        jnp.array([2e-3, 2e-4, 2e-5]), 2_500
    )  # a knob is a leaf; Adam at a constant rate keeps jittering
    agent = AGENTS["dqn"](world.spec, config)

    def step(params, x):
        params = params._replace(knobs=params.knobs._replace(learning_rate=x[1]))
        return agent.update(x[0], params, sources)[0], None

    keys = jax.random.split(jax.random.key(2), rates.shape[0])
    params = long_jit(lambda p: jax.lax.scan(step, p, (keys, rates))[0])(jax.jit(agent.init)(jax.random.key(3)))
    critic = make_discrete_critic(world.spec, config.hidden, config.critic)
    found = action_values(critic, params.critics.params, jnp.eye(states), actions)[0]
    np.testing.assert_allclose(found[expected.any(1)], expected[expected.any(1)], atol=0.01)
