"""Policies against NumPy and SciPy: what they do, how likely it is, and what it depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from branchax.policies import gaussian_policy, linear_policy
from branchax.worlds.base import WorldSpec

SPEC = WorldSpec("room", obs_size=3, action_size=2, episode_length=10)
pytestmark = pytest.mark.usefixtures("strict")


def observations(count=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def acts(policy, params, obs, count):
    """`count` actions [count, A] and their zeta at one observation."""
    act = jax.jit(jax.vmap(lambda key: policy.act(params)(key, jnp.asarray(obs))))
    return jax.tree.map(np.asarray, act(jax.random.split(jax.random.key(1), count)))


def test_a_linear_policy_is_its_gain_and_its_noise():
    policy, obs = linear_policy(SPEC, std=0.3), observations()
    assert policy.init(jax.random.key(0)).shape == (2, 3) and not policy.init(jax.random.key(0)).any()
    gain = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    mean = -obs @ gain.T
    np.testing.assert_allclose(policy.mode(gain, obs), mean, rtol=1e-5, atol=1e-6)
    actions, zeta = acts(policy, gain, obs[0], 4000)
    np.testing.assert_array_equal(zeta, np.broadcast_to(policy.apply(gain, obs[0]), zeta.shape))
    for i in range(2):
        assert scipy.stats.kstest(actions[:, i], scipy.stats.norm(mean[0, i], 0.3).cdf).pvalue > 0.01
    action = np.array([[0.5, -1.0]] * 5, np.float32)
    np.testing.assert_allclose(
        policy.log_prob(gain, obs, action), scipy.stats.norm(mean, 0.3).logpdf(action).sum(-1), rtol=1e-4
    )


def test_without_noise_a_linear_policy_has_no_density():
    policy, obs = linear_policy(SPEC, std=0), observations()
    gain = np.ones((2, 3), np.float32)
    actions, zeta = acts(policy, gain, obs[0], 3)
    np.testing.assert_allclose(actions, np.broadcast_to(-obs[0].sum(), (3, 2)), rtol=1e-5)
    np.testing.assert_array_equal(actions, zeta)
    with pytest.raises(AssertionError, match="deterministic"):
        policy.log_prob(gain, obs, actions)


def test_a_gaussian_policy_starts_as_noise_alone_and_its_deviation_does_not_depend_on_the_observation():
    policy, obs = gaussian_policy(SPEC, (16,), init_std=0.5), observations(200)
    params = jax.jit(policy.init)(jax.random.key(0))
    assert np.abs(policy.mode(params, obs)).max() < 0.05
    zeta = np.asarray(policy.apply(params, obs))
    assert zeta.shape == (200, policy.distribution.size(2))
    np.testing.assert_allclose(zeta[:, 2:], np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(zeta[:, :2], policy.mode(params, obs))
    moved = params | {"log_std": jnp.array([0.1, -0.7])}
    actions, _ = acts(policy, moved, obs[0], 4000)
    mean = np.asarray(policy.mode(moved, obs[0]))
    for i in range(2):
        assert scipy.stats.kstest(actions[:, i], scipy.stats.norm(mean[i], np.exp([0.1, -0.7][i])).cdf).pvalue > 0.01
    action = np.array([0.5, -1.0], np.float32)
    np.testing.assert_allclose(
        policy.log_prob(moved, obs[0], action),
        scipy.stats.norm(mean, np.exp([0.1, -0.7])).logpdf(action).sum(),
        rtol=1e-5,
    )


def test_the_action_is_differentiable_in_all_parameters_and_the_observation():
    """da / d mean = 1, da / d log_std = std e = a - mean, and the chain rule through the network."""
    policy, obs = gaussian_policy(SPEC, (4,), init_std=0.5), jnp.asarray(observations()[0])
    params, key = jax.jit(policy.init)(jax.random.key(0)), jax.random.key(3)
    act = jax.jit(lambda params, obs: policy.act(params)(key, obs)[0])
    by_params, by_obs = jax.jit(jax.jacobian(act, (0, 1)))(params, obs)
    noise = np.asarray(act(params, obs)) - np.asarray(jax.jit(policy.mode)(params, obs))
    assert (np.abs(noise) > 1e-3).all()
    np.testing.assert_allclose(by_params["log_std"], np.diag(noise), rtol=1e-5)
    of_mean, of_obs = jax.jit(jax.jacobian(policy.mode, (0, 1)))(params, obs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), by_params["mean"], of_mean["mean"])
    np.testing.assert_allclose(by_obs, of_obs, rtol=1e-5)
    assert np.abs(of_obs).max() > 0
