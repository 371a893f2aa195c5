"""The squashed Gaussian against brax's, SciPy's and a numerical integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from branchax import distributions
from branchax.distributions import mean_and_log_std, tanh_normal


def params_of(mean, log_std):
    """The parameters whose mean and log standard deviation are the given ones."""
    low, high = distributions.LOG_STD_BOUNDS
    raw = np.arctanh(2 * (np.asarray(log_std) - low) / (high - low) - 1)
    return jnp.concatenate([jnp.asarray(mean, jnp.float32), jnp.asarray(raw, jnp.float32)])


def test_parameters_are_split_and_bounded():
    mean, log_std = mean_and_log_std(jnp.array([1.0, -2.0, -1e9, 1e9]))
    np.testing.assert_allclose(mean, [1.0, -2.0])
    np.testing.assert_allclose(log_std, distributions.LOG_STD_BOUNDS)


def test_log_prob_equals_the_change_of_variables_with_scipy():
    params = params_of([0.3, -1.0], [-0.5, 0.2])
    action = np.array([0.6, -0.9])
    u = np.arctanh(action)
    expected = scipy.stats.norm([0.3, -1.0], np.exp([-0.5, 0.2])).logpdf(u).sum() - np.log1p(-(action**2)).sum()
    np.testing.assert_allclose(tanh_normal.log_prob(params, jnp.asarray(action, jnp.float32)), expected, rtol=1e-5)


def test_density_integrates_to_one():
    params = params_of([0.4], [-0.3])
    grid = np.linspace(-0.99999, 0.99999, 200_001)
    density = np.exp(jax.vmap(lambda a: tanh_normal.log_prob(params, a[None]))(jnp.asarray(grid, jnp.float32)))
    assert scipy.integrate.trapezoid(np.asarray(density, np.float64), grid) == pytest.approx(1.0, abs=1e-3)


def test_the_sample_carries_its_own_log_prob():
    params = params_of([0.3, -1.0, 0.0], [-0.5, 0.2, -2.0])
    keys = jax.random.split(jax.random.key(0), 500)
    action, log_prob = jax.vmap(lambda k: tanh_normal.sample(k, params))(keys)
    expected = jax.vmap(lambda a: tanh_normal.log_prob(params, a))(action)
    inside = jnp.abs(action).max(-1) < 0.999  # nearer to the edge, arctanh of a float32 has lost its digits
    np.testing.assert_allclose(log_prob[inside], expected[inside], rtol=1e-2, atol=1e-2)
    assert bool(jnp.isfinite(log_prob).all())


def test_far_out_samples_have_finite_log_probs_and_gradients():
    params = jnp.array([50.0, 0.0])
    value, gradient = jax.value_and_grad(lambda p: tanh_normal.sample(jax.random.key(0), p)[1])(params)
    assert bool(jnp.isfinite(value)) and bool(jnp.isfinite(gradient).all())


def test_equals_braxs_distribution():
    distribution = pytest.importorskip("brax.training.distribution").NormalTanhDistribution(2, min_std=0.0)
    mean, std = np.array([0.3, -0.7]), np.array([0.4, 1.3])
    theirs = jnp.concatenate([jnp.asarray(mean), jnp.log(jnp.expm1(std))])  # they use softplus for the deviation
    ours = params_of(mean, np.log(std))
    u = jnp.array([0.2, -1.4])
    np.testing.assert_allclose(tanh_normal.log_prob(ours, jnp.tanh(u)), distribution.log_prob(theirs, u), rtol=1e-4)
    np.testing.assert_allclose(tanh_normal.mode(ours), distribution.mode(theirs), rtol=1e-5)
    # The entropy is the mean of -log_prob.
    keys = jax.random.split(jax.random.key(1), 20_000)
    ours_entropy = -jax.vmap(lambda k: tanh_normal.sample(k, ours)[1])(keys).mean()
    theirs_entropy = jax.vmap(lambda k: distribution.entropy(theirs, k))(keys).mean()
    assert float(ours_entropy) == pytest.approx(float(theirs_entropy), abs=0.03)
