"""SAC against analytic values, a NumPy reference of its losses, and its own sweepable knobs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_off_policy import experience, long_jit

from branchax import nn, replay
from branchax.agents.base import Sources
from branchax.agents.sac import make_sac
from branchax.config import CriticConfig, SACConfig
from branchax.distributions import mean_and_log_std
from branchax.types import Row, Transition
from branchax.worlds.probes import PROBES

DISCOUNT = 0.8
CONFIG = SACConfig(
    hidden=(32, 32), learning_rate=3e-3, discount=DISCOUNT, tau=0.05, init_temperature=1e-6, learn_temperature=False
)
SPEC = PROBES["action"].world().spec
AGENT = make_sac(SPEC, CONFIG)
INIT = jax.jit(AGENT.init)
Q_NET = nn.mlp(2, CONFIG.hidden, 1)


@jax.jit
def q_of(critics, obs, action):
    """[2, B]"""
    return jax.vmap(lambda p: Q_NET.apply(p, jnp.concatenate([obs, action], -1))[:, 0])(critics)


@long_jit
def train(key, data: Transition):
    """1,500 updates from scratch; one compiled program for every probe."""
    rows = Row(data)
    ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), data.reward.shape[0]), rows)
    sources = Sources(lambda k: replay.sample(k, ring, 128), None)
    params = AGENT.init(jax.random.fold_in(key, 0))
    keys = jax.random.split(jax.random.fold_in(key, 1), 1_500)
    return jax.lax.scan(lambda p, k: AGENT.update(k, p, sources), params, keys)


@pytest.mark.parametrize("name", list(PROBES))
def test_probes_reach_the_analytic_q(name):
    data = experience(PROBES[name].world(), worlds=64).transition
    params, _ = train(jax.random.key(0), data)
    expected = PROBES[name].q(data.obs, data.action, DISCOUNT)
    np.testing.assert_allclose(q_of(params.critics.params, data.obs, data.action), np.stack([expected] * 2), atol=0.1)
    if name == "action":
        assert float(AGENT.mode(params, data.obs[0])[0]) == pytest.approx(0.5, abs=0.1)


def test_first_update_equals_numpy():
    """Losses, entropy and the Polyak step, from the equations in the module's docstring."""
    config = SACConfig(hidden=(8,), discount=0.9, tau=0.1, init_temperature=0.3, target_entropy=-1.0)
    agent = make_sac(SPEC, config)
    params = jax.jit(agent.init)(jax.random.key(3))
    rng = np.random.default_rng(0)
    f = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    ended = np.arange(16) % 3 == 0
    batch = Transition(f(16, 1), np.tanh(f(16, 1)), f(16), f(16, 1), ended, ~ended)
    key = jax.random.key(7)
    after, told = jax.jit(lambda p: agent.update(key, p, Sources(lambda k: Row(batch), None)))(params)
    metrics = told.losses | told.metrics

    def dense(p, x, i):
        return x @ np.asarray(p[f"layer_{i}"]["kernel"], np.float64) + np.asarray(p[f"layer_{i}"]["bias"], np.float64)

    def net(p, x):
        return dense(p, np.maximum(dense(p, x, 0), 0), 1)

    def q(critics, obs, action):
        x = np.concatenate([obs, action], -1)
        return np.stack([net(jax.tree.map(lambda leaf: leaf[j], critics), x)[:, 0] for j in range(2)])  # noqa: B023

    start = np.array([0.0, np.arctanh((2 * np.log(config.init_std) + 8) / 12)])  # of the mean, and of the deviation

    def pi(obs, k):
        mean, log_std = (
            np.asarray(v, np.float64) for v in mean_and_log_std(jnp.asarray(net(params.actor.params, obs) + start))
        )
        noise = np.asarray(jax.random.normal(k, mean.shape), np.float64)
        u = mean + np.exp(log_std) * noise
        density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(u) ** 2)
        return np.tanh(u), density.sum(-1)

    obs, action, reward, next_obs = (np.asarray(x, np.float64) for x in batch[:4])
    _, key_targets, _, key_actor = jax.random.split(key, 4)
    key_targets = jax.random.split(key_targets)[0]
    key_next, key_actor = jax.random.split(key_targets, 3)[0], jax.random.split(key_actor)[0]
    a, log_prob = pi(next_obs, key_next)
    y = reward + 0.9 * (1 - np.asarray(ended)) * (q(params.targets, next_obs, a).min(0) - 0.3 * log_prob)
    j_q = 0.5 * ((q(params.critics.params, obs, action) - y) ** 2).mean(-1).sum()
    np.testing.assert_allclose(metrics["critic/loss"], j_q, rtol=1e-4)
    a, log_prob = pi(obs, key_actor)
    j_pi = (0.3 * log_prob - q(after.critics.params, obs, a).min(0)).mean()  # the critics are updated first
    np.testing.assert_allclose(metrics["policy/loss"], j_pi, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/entropy"], -log_prob.mean(), rtol=1e-4)
    # Adam's first step is the sign of the gradient times the learning rate.
    step = -config.learning_rate * np.sign(-log_prob.mean() - (-1.0))
    np.testing.assert_allclose(after.log_alpha.params - params.log_alpha.params, step, rtol=1e-3)
    mixed = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, params.targets, after.critics.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), after.targets, mixed)


@pytest.mark.slow
def test_knobs_are_leaves_that_vmap_sweeps():
    params = INIT(jax.random.key(0))
    rates = jnp.array([0.0, 1e-3, 1e-2])
    swept = jax.vmap(lambda rate: params._replace(knobs=params.knobs._replace(learning_rate=rate)))(rates)
    batch = jax.tree.map(lambda x: x[:32], experience(PROBES["action"].world()).transition)
    update = jax.vmap(lambda p: AGENT.update(jax.random.key(1), p, Sources(lambda k: Row(batch), None))[0])
    after = jax.jit(update)(swept)
    moved = [
        max(
            float(jnp.abs(new[i] - old).max())
            for new, old in zip(*map(jax.tree.leaves, (after.critics.params, params.critics.params)), strict=True)
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(moved, rates, rtol=1e-2, atol=0)  # Adam's first step is the learning rate


def test_targets_start_equal_to_the_critics_and_layer_norm_is_an_option():
    params = INIT(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params.critics.params, params.targets)
    assert not np.allclose(*params.critics.params["layer_0"]["kernel"])  # the twins differ
    normed = make_sac(SPEC, SACConfig(hidden=(8,), critic=CriticConfig(layer_norm=True)))
    normed = jax.eval_shape(normed.init, jax.random.key(0))
    assert "norm_0" in normed.critics.params and "norm_0" not in normed.actor.params


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    params = INIT(jax.random.key(0))
    batch = jax.tree.map(lambda x: x[:32], experience(PROBES["action"].world()).transition)
    batch = batch._replace(reward=batch.reward.at[3].set(jnp.nan))
    after, told = jax.jit(lambda p: AGENT.update(jax.random.key(1), p, Sources(lambda k: Row(batch), None)))(params)
    jax.tree.map(np.testing.assert_array_equal, after.critics.params, params.critics.params)
    assert float(told.metrics["critic/skipped_steps"].value) == 1
