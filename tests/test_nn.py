"""The perceptron against a NumPy forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from branchax import nn


@pytest.mark.parametrize("layer_norm", [False, True])
def test_forward_equals_numpy(layer_norm):
    net = nn.mlp(3, (5, 4), 2, layer_norm=layer_norm)
    params = jax.jit(net.init)(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    h = x
    for i in range(3):
        h = h @ np.asarray(params[f"layer_{i}"]["kernel"]) + np.asarray(params[f"layer_{i}"]["bias"])
        if i < 2:
            if layer_norm:
                h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
            h = np.maximum(h, 0)
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), h, rtol=2e-4, atol=1e-5)


def test_truncated_normal_has_pets_deviation_and_no_tail():
    w = nn.truncated_normal()(jax.random.key(0), (400, 300))
    assert float(w.std()) == pytest.approx(0.5 / np.sqrt(400), rel=0.02)
    assert float(jnp.abs(w).max()) < 2.4 * 0.5 / np.sqrt(400)


def test_the_last_layer_alone_has_a_scale_of_its_own():
    small, usual = (nn.mlp(300, (400,), 200, last_scale=scale).init(jax.random.key(0)) for scale in (0.01, None))
    assert float(small["layer_1"]["kernel"].std()) == pytest.approx(0.01 / np.sqrt(400), rel=0.02)
    assert float(usual["layer_1"]["kernel"].std()) == pytest.approx(1 / np.sqrt(400), rel=0.02)  # LeCun's rule
    np.testing.assert_array_equal(small["layer_0"]["kernel"], usual["layer_0"]["kernel"])


def test_kernels_are_the_weights_in_order_whatever_stands_beside_them():
    net = nn.mlp(3, (4,) * 11, 2, layer_norm=True)  # twelve layers, whose names sort otherwise
    params = net.init(jax.random.key(0))
    assert [w.shape for w in net.kernels(params)] == [(3, 4), *[(4, 4)] * 10, (4, 2)]
    bare = nn.Network(net.init, net.apply)  # one that does not tell its layers: what has two axes
    assert sorted(w.shape for w in bare.kernels(params)) == sorted(w.shape for w in net.kernels(params))


def test_the_layers_of_a_standardised_network_take_raw_inputs():
    net = nn.standardise(nn.mlp(3, (), 2), 3)
    params = net.init(jax.random.key(0))._replace(mean=jnp.array([1.0, 2.0, 3.0]), std=jnp.array([0.5, 2.0, 4.0]))
    (layer,) = net.layers(params)
    x = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(x @ layer.kernel + layer.bias, net.apply(params, x), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5])
def test_dropout_is_bernoulli_and_independent_over_entries_and_keys(rate):
    keys = jax.random.split(jax.random.key(1), 300)
    out = np.array(jax.jit(jax.vmap(lambda key: nn.drop(key, jnp.ones((64, 128)), rate)))(keys))
    np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=1e-6)
    gone = (out == 0).reshape(len(keys), -1)

    def fits(count, of, chance):
        return stats.binomtest(int(count), int(of), chance).pvalue > 1e-3

    assert fits(gone.sum(), gone.size, rate)
    for lag in (1, 2, 64, 128):  # neighbours, and entries one above the other
        assert fits((gone[:, lag:] & gone[:, :-lag]).sum(), gone[:, lag:].size, rate**2)
    assert fits((gone[1:] & gone[:-1]).sum(), gone[1:].size, rate**2)
    for axis in (0, 1):  # no entry and no key has more than others
        counts = gone.sum(axis)
        spread = ((counts - counts.mean()) ** 2).sum() / (gone.shape[axis] * rate * (1 - rate))
        assert 1e-3 < stats.chi2.sf(spread, len(counts) - 1) < 1 - 1e-3


def test_dropout_is_active_only_with_a_key_and_differs_between_members():
    net = nn.mlp(3, (50,), 1, dropout=0.5)
    params, x = net.init(jax.random.key(0)), jnp.ones((4, 3))
    two = jax.vmap(lambda key: net.apply(params, x, key))(jax.random.split(jax.random.key(2), 2))
    assert (net.apply(params, x) == net.apply(params, x)).all()
    assert len({float(value) for value in two.ravel()}) == 8
