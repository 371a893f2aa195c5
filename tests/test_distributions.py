"""The squashed Gaussian against brax's, SciPy's and a numerical integral; the others against SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from branchax import distributions
from branchax.distributions import deterministic, mean_and_log_std, normal, tanh_normal


def params_of(mean, log_std):
    """The parameters whose mean and log standard deviation are the given ones."""
    low, high = distributions.LOG_STD_BOUNDS
    raw = np.arctanh(2 * (np.asarray(log_std) - low) / (high - low) - 1)
    return jnp.concatenate([jnp.asarray(mean, jnp.float32), jnp.asarray(raw, jnp.float32)])


def drawn(family, keys, params):
    """A sample by each key, and its log probability."""
    return map(np.asarray, jax.jit(jax.vmap(lambda key: family.sample(key, params)))(keys))


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
    density = np.exp(jax.jit(jax.vmap(lambda a: tanh_normal.log_prob(params, a[None])))(jnp.asarray(grid, jnp.float32)))
    assert scipy.integrate.trapezoid(np.asarray(density, np.float64), grid) == pytest.approx(1.0, abs=1e-3)


def test_the_sample_carries_its_own_log_prob():
    params = params_of([0.3, -1.0, 0.0], [-0.5, 0.2, -2.0])
    keys = jax.random.split(jax.random.key(0), 500)
    action, log_prob = drawn(tanh_normal, keys, params)
    expected = np.asarray(jax.jit(tanh_normal.log_prob)(params, action))
    inside = np.abs(action).max(-1) < 0.999  # nearer to the edge, arctanh of a float32 has lost its digits
    np.testing.assert_allclose(log_prob[inside], expected[inside], rtol=1e-2, atol=1e-2)
    assert np.isfinite(log_prob).all()


def test_far_out_samples_have_finite_log_probs_and_gradients():
    params = jnp.array([50.0, 0.0])
    value, gradient = jax.jit(jax.value_and_grad(lambda p: tanh_normal.sample(jax.random.key(0), p)[1]))(params)
    assert np.isfinite(value) and np.isfinite(gradient).all()


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
    _, log_prob = drawn(tanh_normal, keys, ours)
    ours_entropy = -log_prob.mean()
    theirs_entropy = jax.jit(lambda keys: jax.vmap(lambda k: distribution.entropy(theirs, k))(keys).mean())(keys)
    assert float(ours_entropy) == pytest.approx(float(theirs_entropy), abs=0.03)


# --- the normal distribution ------------------------------------------------------------------------------------------


def test_the_normal_s_density_is_scipy_s():
    mean, log_std, action = np.random.default_rng(0).normal(size=(3, 4, 2))  # the deviations have no bounds
    log_std[0] = [-12.0, 5.0]
    action[0, 0] = mean[0, 0] + 1e-5
    expected = scipy.stats.norm(mean, np.exp(log_std)).logpdf(action).sum(-1)
    with jax.enable_x64(True):
        params = jnp.asarray(np.concatenate([mean, log_std], -1))
        assert params.shape[-1] == normal.size(2)
        np.testing.assert_allclose(normal.log_prob(params, jnp.asarray(action)), expected, rtol=1e-10)
        np.testing.assert_array_equal(normal.mode(params), mean)


def test_the_normal_s_samples_are_its_own_and_carry_their_log_prob():
    params = jnp.array([0.3, -1.0, -0.5, 0.2])
    keys = jax.random.split(jax.random.key(0), 5000)
    action, log_prob = drawn(normal, keys, params)
    for i in range(2):
        cdf = scipy.stats.norm(params[i], np.exp(params[2 + i])).cdf
        assert scipy.stats.kstest(np.asarray(action[:, i]), cdf).pvalue > 0.01
    assert abs(np.corrcoef(action.T)[0, 1]) < 0.05
    np.testing.assert_allclose(log_prob, normal.log_prob(params, action), rtol=1e-4, atol=1e-4)
    # The noise is held fixed: the density at the sample falls with the deviation and does not depend on the mean.
    gradient = jax.jit(jax.vmap(jax.grad(lambda p, k: normal.sample(k, p)[1]), (None, 0)))(params, keys)
    np.testing.assert_array_equal(gradient, np.broadcast_to([0.0, 0.0, -1.0, -1.0], (5000, 4)))


def test_a_deterministic_action_is_its_parameters():
    params = jnp.array([[0.3, -1.0], [2.0, 0.0]])
    action, log_prob = deterministic.sample(jax.random.key(0), params)
    np.testing.assert_array_equal(action, params)
    np.testing.assert_array_equal(deterministic.mode(params), params)
    assert log_prob.shape == (2,) and deterministic.size(2) == 2 and deterministic.log_prob is None


def test_categorical_equals_scipy():
    from branchax.distributions import categorical, one_hot

    logits, other = jax.random.normal(jax.random.key(0), (2, 5, 4))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (np.asarray(logits), np.asarray(other)))
    key = jax.random.key(1)
    np.testing.assert_allclose(categorical.entropy(key, logits), scipy.stats.entropy(p, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(categorical.kl(logits, other), scipy.stats.entropy(p, q, axis=-1), rtol=1e-4)
    actions, log_prob = drawn(categorical, jax.random.split(key, 20_000), logits)
    np.testing.assert_allclose(actions.mean(0), p, atol=0.02)
    np.testing.assert_allclose(log_prob, categorical.log_prob(logits, actions), rtol=1e-6)
    np.testing.assert_allclose(log_prob[0], np.log((p * np.asarray(actions[0])).sum(-1)), rtol=1e-4)
    np.testing.assert_array_equal(categorical.mode(logits), one_hot(p.argmax(-1), 4))
    slope = jax.jit(jax.grad(lambda x: categorical.entropy(key, x).sum()))(logits)
    expected = -p * (np.log(p) + scipy.stats.entropy(p, axis=-1)[:, None])  # d H / d logits
    np.testing.assert_allclose(slope, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["normal", "tanh_normal"])
def test_divergence_and_entropy_equal_means_over_samples(name):
    from branchax import distributions

    family = getattr(distributions, name)
    mean, other = jnp.array([0.3, -0.4]), jnp.array([0.1, 0.2])
    raw = distributions.raw_log_std if name == "tanh_normal" else lambda x: x
    p, q = jnp.r_[mean, raw(-0.5), raw(-0.7)], jnp.r_[other, raw(-0.3), raw(-0.4)]
    x, log_p = drawn(family, jax.random.split(jax.random.key(0), 100_000), p)
    if name == "tanh_normal":  # log_prob inverts a squashing that float32 cannot: rows at the edge are left out
        keep = (np.abs(x) < 0.999).all(-1)
        x, log_p = x[keep], log_p[keep]
    found = float((log_p - np.asarray(jax.jit(family.log_prob)(q, x))).mean())
    assert float(family.kl(p, q)) == pytest.approx(found, abs=0.02)
    each = jax.jit(jax.vmap(lambda k: family.entropy(k, p)))(jax.random.split(jax.random.key(1), 100_000))
    assert float(each.mean()) == pytest.approx(-float(log_p.mean()), abs=0.03)
    assert float(family.kl(p, p)) == pytest.approx(0.0, abs=1e-6)
