"""REINFORCE, A2C, PPO and the pathwise agent: probes with analytic answers, and PPO's update against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_off_policy import long_jit

from branchax import nn
from branchax.agents.base import Sources
from branchax.agents.pathwise import first_nonfinite, make_pathwise
from branchax.agents.policy_gradient import make_policy_gradient, standardise
from branchax.agents.value import value_of
from branchax.config import PathwiseConfig, PolicyGradientConfig
from branchax.rollout import rollout
from branchax.types import Trajectory, Transition
from branchax.worlds.base import World, WorldState
from branchax.worlds.probes import PROBES

DISCOUNT = 0.8
SPEC = PROBES["action"].world().spec
HIDDEN = {"hidden": (16,), "value_hidden": (32, 32), "discount": DISCOUNT, "value_learning_rate": 3e-3}
NET = nn.mlp(1, (32, 32), 1, activation=nn.tanh)
POLICY = PolicyGradientConfig(learning_rate=1e-2, **HIDDEN)
CONFIGS = {
    "reinforce": PolicyGradientConfig(weight="to_go", learning_rate=1e-2, **HIDDEN),
    "a2c": POLICY,
    "ppo": PolicyGradientConfig(passes=4, minibatches=2, clip=0.2, learning_rate=3e-3, **HIDDEN),
    "ppo_penalty": PolicyGradientConfig(
        passes=4, minibatches=2, kl_penalty=1.0, kl_stop=0.5, learning_rate=3e-3, **HIDDEN
    ),
    "pathwise": PathwiseConfig(squash=False, learning_rate=3e-3, gae_lambda=0.5, **HIDDEN),
    "deterministic": PathwiseConfig(deterministic=True, learning_rate=3e-3, gae_lambda=0.5, **HIDDEN),
}


def every_probe():
    """The probes as one world, told apart by `inner`, so that one program serves them all."""
    worlds = [probe.world() for probe in PROBES.values()]

    def reset(index, key):
        start = jax.lax.switch(index, [w.reset for w in worlds], key)
        return start._replace(inner=(index, start.inner))

    def step(key, state, action):
        index, inner = state.inner
        after, transition = jax.lax.switch(
            index, [w.step for w in worlds], key, WorldState(inner, state.obs, state.time), action
        )
        return after._replace(inner=(index, after.inner)), transition

    return reset, World(SPEC, None, step)


def train(config, updates=400, batch=64, length=6):
    """Trains on all probes at once, [5, ...]; the agent, its params and metrics."""
    is_pathwise = isinstance(config, PathwiseConfig)
    agent = (make_pathwise if is_pathwise else make_policy_gradient)(SPEC, config)
    reset, world = every_probe()

    def run(index, key):
        def draw(key, act, window):
            key_start, key_run = jax.random.split(key)
            start = jax.vmap(lambda k: reset(index, k))(jax.random.split(key_start, batch))
            return rollout(
                key_run, world._replace(reset=lambda k: reset(index, k)), act, start, length, restart=not is_pathwise
            )[1]

        keys = jax.random.split(jax.random.fold_in(key, 1), updates)
        sources = Sources(None, draw)
        return jax.lax.scan(lambda p, k: agent.update(k, p, sources), agent.init(key), keys)

    keys = jax.random.split(jax.random.key(0), len(PROBES))
    return agent, *long_jit(jax.vmap(run))(jnp.arange(len(PROBES)), keys)


SLOW = ("reinforce", "a2c", "ppo_penalty", "deterministic")  # what the others have as well


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CONFIGS])
def test_probes_reach_the_analytic_answers(name):
    agent, params, _ = train(CONFIGS[name])
    obs = jnp.array([[-1.0], [1.0], [0.0]])
    for i, (probe, entry) in enumerate(PROBES.items()):
        mine = jax.tree.map(lambda x: x[i], params)  # noqa: B023
        seen = obs if probe in ("discounting",) else obs[2:]
        if probe == "observation":
            seen = obs[:2]
        if probe == "discounting":
            seen = obs[1:]
        if probe == "action":
            assert float(agent.mode(mine, obs[2])[0]) == pytest.approx(0.5, abs=0.1)
        elif name not in ("reinforce",):  # which learns no value
            value = value_of(NET, mine.value, seen)
            np.testing.assert_allclose(
                value, entry.q(seen, jnp.zeros((len(seen), 1)), DISCOUNT), atol=0.1, err_msg=probe
            )


def random_trajectory(seed=0, length=5, batch=4):
    rng = np.random.default_rng(seed)
    f = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    terminated = rng.random((length, batch)) < 0.2
    valid = np.cumsum(terminated, 0) - terminated == 0
    t = Transition(
        f(length, batch, 1), f(length, batch, 1), f(length, batch), f(length, batch, 1), terminated, terminated & False
    )
    return Trajectory(t, valid, (), ())


def test_the_first_update_of_ppo_equals_numpy():
    """Advantages, clipped loss, divergence and entropy of one step, from the equations of the module's docstring."""
    config = PolicyGradientConfig(
        hidden=(8,), value_hidden=(8,), clip=0.2, learning_rate=1e-2, passes=2, discount=0.9, gae_lambda=0.7
    )
    agent = make_policy_gradient(SPEC, config)
    before = jax.jit(agent.init)(jax.random.key(3))
    trajectory = random_trajectory()
    update = jax.jit(lambda p: agent.update(jax.random.key(1), p, Sources(None, lambda k, act, window: trajectory)))
    after_two, told = update(before)
    metrics = told.losses | told.metrics
    after_one, _ = jax.jit(
        lambda p: make_policy_gradient(SPEC, config.__class__(**{**config.__dict__, "passes": 1})).update(
            jax.random.key(1), p, Sources(None, lambda k, act, window: trajectory)
        )
    )(before)

    def dense(p, x, i):
        return x @ np.asarray(p[f"layer_{i}"]["kernel"], np.float64) + np.asarray(p[f"layer_{i}"]["bias"], np.float64)

    def net(p, x):
        return dense(p, np.tanh(dense(p, np.asarray(x, np.float64), 0)), 1)[..., 0]

    t, valid = jax.tree.map(lambda x: np.asarray(x, np.float64), trajectory.transition), np.asarray(trajectory.valid)
    v, v_next = (net(before.value.learner.params, x) for x in (t.obs, t.next_obs))
    advantage = np.zeros_like(t.reward)
    for b in range(valid.shape[1]):
        later = 0.0
        for i in reversed(range(valid.shape[0])):
            if not valid[i, b]:
                continue
            delta = t.reward[i, b] + 0.9 * (1 - t.terminated[i, b]) * v_next[i, b] - v[i, b]
            later = delta + 0.9 * 0.7 * (0.0 if t.terminated[i, b] else later)
            advantage[i, b] = later
    kept = advantage[valid]
    standard = (kept - kept.mean()) / kept.std()

    def log_prob(params):
        mean = net(params.policy.params["mean"], t.obs)
        std = np.exp(np.asarray(params.policy.params["log_std"], np.float64))[0]
        return stats.norm.logpdf(t.action[..., 0], mean, std)[valid]

    losses, kls = [], []
    for params in (before, after_one, after_two):
        log_ratio = log_prob(params) - log_prob(before)
        ratio = np.exp(log_ratio)
        losses.append(-np.minimum(ratio * standard, np.clip(ratio, 0.8, 1.2) * standard).mean())
        kls.append((ratio - 1 - log_ratio).mean())
    np.testing.assert_allclose(float(metrics["policy/loss"]), np.mean(losses[:2]), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(float(metrics["policy/kl"]), kls[2], rtol=1e-2, atol=1e-7)
    assert kls[2] > 0


def test_at_the_old_policy_the_gradient_is_the_likelihood_ratio_one():
    """Adam's first step is the sign of the gradient; checked on log_std, whose score is (a - mean)^2 / std^2 - 1."""
    config = PolicyGradientConfig(
        hidden=(8,), value_hidden=(8,), weight="to_go", normalise=False, learning_rate=1e-2, discount=0.9
    )
    agent = make_policy_gradient(SPEC, config)
    before = jax.jit(agent.init)(jax.random.key(3))
    trajectory = random_trajectory(1)
    after, _ = jax.jit(lambda p: agent.update(jax.random.key(1), p, Sources(None, lambda k, act, window: trajectory)))(
        before
    )
    t, valid = trajectory.transition, np.asarray(trajectory.valid)
    to_go = np.zeros(valid.shape)
    for i in reversed(range(valid.shape[0])):
        following = to_go[i + 1] if i + 1 < valid.shape[0] else 0.0
        to_go[i] = np.where(valid[i], np.asarray(t.reward[i]) + 0.9 * (1 - np.asarray(t.terminated[i])) * following, 0)
    mean = np.asarray(agent.mode(before, t.obs))[..., 0]
    std = float(jnp.exp(before.policy.params["log_std"][0]))
    score = (np.asarray(t.action)[..., 0] - mean) ** 2 / std**2 - 1
    slope = (score * to_go)[valid].mean()
    moved = float((after.policy.params["log_std"] - before.policy.params["log_std"])[0])
    assert moved == pytest.approx(1e-2 * np.sign(slope), rel=1e-2)


def test_the_penalty_and_the_early_stop_act():
    config = PolicyGradientConfig(
        passes=8, minibatches=2, kl_stop=1e-4, kl_penalty=1.0, kl_target=1e-6, learning_rate=3e-2, **HIDDEN
    )
    agent, trajectory = make_policy_gradient(SPEC, config), random_trajectory()
    update = jax.jit(lambda p: agent.update(jax.random.key(1), p, Sources(None, lambda k, act, window: trajectory)))
    after, told = update(jax.jit(agent.init)(jax.random.key(0)))
    assert 0.0 < float(told.metrics["policy/steps_taken"]) < 1.0
    assert float(after.kl_weight) == 2.0


def test_standardise_looks_at_valid_rows_only():
    x, weight = jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(standardise(x, weight)[:2], [-1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(standardise(1e-12 * x, weight)[:2], [-1.0, 1.0], rtol=1e-5)  # in any unit
    np.testing.assert_array_equal(standardise(jnp.ones(3), jnp.ones(3)), 0.0)


def exploding(length=40, rate=1e8):
    """s' = rate s + a: the derivative of step t's reward overflows float32 after a few steps."""

    def step(key, state, action):
        after = rate * state.obs + action
        t = Transition(state.obs, action, after[0], after, jnp.zeros((), bool), jnp.zeros((), bool))
        return WorldState((), after, state.time + 1), t

    start = WorldState((), jnp.full((3, 1), 1e-3), jnp.zeros(3, jnp.int32))
    return lambda key, act, window: rollout(key, World(SPEC, None, step), act, start, length, window=window)[1]


def test_a_pathwise_gradient_that_is_not_finite_is_skipped_counted_and_located():
    agent = make_pathwise(SPEC, PathwiseConfig(critic=False, squash=False, hidden=(8,)))
    before = jax.jit(agent.init)(jax.random.key(0))
    after, told = jax.jit(lambda p: agent.update(jax.random.key(1), p, Sources(None, exploding())))(before)
    jax.tree.map(np.testing.assert_array_equal, after.policy.params, before.policy.params)
    assert float(told.metrics["policy/skipped_steps"].value) == 1
    # 1e8^t leaves float32 (3.4e38) between the fourth and the sixth step
    assert 4 <= float(told.metrics["policy/nonfinite_horizon_max"].value) <= 6


def test_the_first_nonfinite_step_is_named():
    rewards = lambda x: jnp.stack([x * 1.0, x * 2.0, jnp.sqrt(x - 1.0)])[:, None]  # noqa: E731
    at = lambda x: int(first_nonfinite(rewards, jnp.float32(x), jax.random.key(0)))  # noqa: E731
    assert (at(2.0), at(1.0), at(0.5)) == (0, 3, 3)  # at 1 the value is finite and the slope is not
