"""The ladder from the textbook's table to networks: one epoch for all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

from branchax import replay
from branchax.build import build
from branchax.dynamics.tabular import make_table
from branchax.presets import preset
from branchax.types import Row, Transition
from branchax.worlds.tabular import chain, dyna_maze, optimal_q, slippery_chain


def run(config, epochs):
    """The state after so many epochs, seed 0, and the metrics of the last."""
    program = build(config)
    state, epoch = jax.jit(program.init)(jax.random.key(0)), jax.jit(program.epoch)
    step = jax.jit(lambda s: jax.lax.scan(lambda s, _: (epoch(s, jnp.int32(1))[0], None), s, length=epochs)[0])
    return program, step(state)


def test_dyna_q_reaches_the_exact_q_of_the_maze():
    """In a deterministic world with alpha = 1 the fixed point is exact, and every pair that was seen gets there."""
    config = replace(preset("dyna_q"), explore_steps=3_000, env_steps=3_400, epoch_steps=20, replay_capacity=4_000)
    config = replace(config, rollout__per_step=200, batch_size=200, agent__learning_rate=1.0, seed=0)
    _, state = run(config, 20)
    expected = optimal_q(dyna_maze(), 0.95)
    t = jax.tree.map(lambda x: np.asarray(x[: int(state.real.size)]), state.real.data.transition)
    seen = np.zeros_like(expected, bool)
    seen[t.obs.argmax(-1), t.action.argmax(-1)] = True
    assert seen.sum() > 0.95 * expected.any(1).sum() * 4
    np.testing.assert_allclose(np.asarray(state.agent.table)[seen], expected[seen], atol=1e-5)


@pytest.mark.slow
def test_planning_starts_with_actions_that_were_taken():
    """The textbook plans on pairs that were seen: every imagined row is a real one again."""
    config = replace(preset("dyna_q"), explore_steps=200, env_steps=220, epoch_steps=20, rollout__per_step=50)
    _, state = run(config, 1)
    real = jax.tree.map(lambda x: np.asarray(x[: int(state.real.size)]), state.real.data.transition)
    dreamt = jax.tree.map(lambda x: np.asarray(x[: int(state.imagined.size)]), state.imagined.data)
    assert dreamt.reward.shape[0] == 1_000

    def pairs(t):
        return {
            (int(s.argmax()), int(a.argmax()), int(n.argmax()), float(r), bool(d))
            for s, a, n, r, d in zip(t.obs, t.action, t.next_obs, t.reward, t.terminated, strict=True)
        }

    assert pairs(dreamt) <= pairs(real)


def test_without_a_model_it_is_q_learning_on_each_step_in_order():
    """Against a plain loop over the replay buffer."""
    config = replace(preset("q_learning"), explore_steps=1, env_steps=301, epoch_steps=100)
    _, state = run(config, 3)
    assert int(state.real.size) == 301
    t = jax.tree.map(lambda x: np.asarray(x[1:301], np.float64), state.real.data.transition)
    table = np.zeros((47, 4))
    for s, a, r, n, d in zip(t.obs, t.action, t.reward, t.next_obs, t.terminated, strict=True):
        s, a, n = s.argmax(), a.argmax(), n.argmax()
        table[s, a] += 0.1 * (r + 0.95 * (1 - d) * table[n].max() - table[s, a])
    np.testing.assert_allclose(state.agent.table, table, atol=1e-6)


@pytest.mark.parametrize(("ends", "expected"), [(1, False), (2, True)])
def test_a_transition_of_the_table_ends_where_most_of_its_visits_did(ends, expected):
    eye = lambda x, size: jnp.eye(size)[jnp.full(3, x)]  # noqa: E731
    t = Transition(eye(1, 5), eye(0, 2), jnp.ones(3), eye(2, 5), jnp.arange(3) < ends, jnp.zeros(3, bool))
    ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], Row(t)), 10), Row(t))
    dynamics = make_table(chain())
    table, _ = dynamics.fit(jax.random.key(0), dynamics.init(jax.random.key(0)), ring)
    start = dynamics.branch(Row(jax.tree.map(lambda x: x[0], t)))
    _, out = dynamics.world(table, None).step(jax.random.key(0), start, t.action[0])
    assert bool(out.terminated) is expected


def test_the_table_is_the_maximum_likelihood_model():
    world, mdp, count = chain(), slippery_chain(), 20_000
    rng = np.random.default_rng(0)
    s, a = rng.integers(0, 5, count), rng.integers(0, 2, count)
    n = np.array([rng.choice(5, p=mdp.transition[i, j]) for i, j in zip(s, a, strict=True)])
    eye = lambda x, size: jnp.eye(size)[x]  # noqa: E731
    none = jnp.zeros(count, bool)
    t = Transition(eye(s, 5), eye(a, 2), jnp.asarray(mdp.reward[s, a, n], jnp.float32), eye(n, 5), none, none)
    ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], Row(t)), count + 7), Row(t))
    dynamics = make_table(world)
    empty = jax.jit(dynamics.init)(jax.random.key(0))
    table, report = jax.jit(dynamics.fit)(jax.random.key(0), empty, ring)
    visits = np.asarray(table.visits)
    np.testing.assert_allclose(visits / visits.sum(-1, keepdims=True), mdp.transition, atol=0.03)
    assert int(report.metrics["model/pairs"]) == 10
    # Value iteration in the model comes close to the world's own optimum, which pays up to 10.
    estimate = mdp._replace(transition=visits / visits.sum(-1, keepdims=True))
    np.testing.assert_allclose(optimal_q(estimate, 0.9), optimal_q(mdp, 0.9), rtol=0.05)
    imagined = dynamics.world(table, None)
    step = jax.jit(lambda key, row: jax.vmap(imagined.step)(key, jax.vmap(dynamics.branch)(row), row.transition.action))
    _, out = step(jax.random.split(jax.random.key(1), count), Row(t))
    again = out.next_obs.argmax(-1)
    np.testing.assert_allclose(out.reward, mdp.reward[s, a, np.asarray(again)], rtol=1e-5)
    for i in range(5):
        share = np.bincount(np.asarray(again)[(s == i) & (a == 0)], minlength=5) / ((s == i) & (a == 0)).sum()
        np.testing.assert_allclose(share, mdp.transition[i, 0], atol=0.05)
    assert float(dynamics.doubt(table, t.obs[0], t.action[0])) == 0.0
    after, stays = dynamics.world(empty, None).step(
        jax.random.key(0), dynamics.branch(Row(jax.tree.map(lambda x: x[0], t))), t.action[0]
    )
    np.testing.assert_array_equal(after.obs, t.obs[0])
    assert float(stays.reward) == 0.0 and not bool(stays.terminated)
    assert float(dynamics.doubt(empty, t.obs[0], t.action[0])) == 1.0


@pytest.mark.slow
def test_a_budget_of_divergence_bounds_what_an_epoch_changes():
    config = replace(preset("mbppo", "classic/pendulum"), explore_steps=100, epoch_steps=100, collect_steps=100)
    config = replace(
        config, updates_per_step=0.2, env_steps=200, batch_size=64, rollout__horizon=3, agent__kl_budget=0.02
    )
    config = replace(config, model__hidden=(8,), model__max_rounds=3, agent__learning_rate=1e-4, rollout__per_update=30)
    from branchax import worlds
    from branchax.build import build_agent

    program = build(config)
    before = jax.jit(program.init)(jax.random.key(0))
    after, report = jax.jit(program.epoch)(before, jnp.int32(3))
    agent = build_agent(config, worlds.make(config.world))
    obs = after.real.data.transition.obs[:200]
    moved = float(agent.divergence(before.agent, after.agent, obs))
    assert 0 < moved <= 0.04  # 0.02 on a sample of these states
    assert 0 < int(after.counts.updates) < 20
    assert round(20 * float(report.metrics["improve/done"])) == int(after.counts.updates)
