"""Statistics against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import normalize


@pytest.mark.parametrize("centre", [0.0, -3.0, 1e4])
@pytest.mark.parametrize(("seed", "keep"), [(0, 0.1), (1, 0.5), (2, 1.0)])
def test_measure_equals_numpy_on_the_masked_rows(seed, keep, centre):
    rng = np.random.default_rng(seed)
    x = (centre + rng.normal(size=(40, 3)) * [1.0, 10.0, 100.0]).astype(np.float32)
    mask = rng.random(40) < keep
    mask[:2] = True
    stats = normalize.measure(jnp.asarray(x), jnp.asarray(mask))
    exact = x[mask].astype(np.float64)
    np.testing.assert_allclose(stats.mean, exact.mean(0), rtol=1e-5, atol=1e-3)
    moving = exact.std(0) > 1e-5 * np.maximum(abs(exact.mean(0)), 1)
    np.testing.assert_allclose(np.asarray(stats.std)[moving], exact.std(0)[moving], rtol=1e-2)
    np.testing.assert_array_equal(stats.low, x[mask].min(0))
    np.testing.assert_array_equal(stats.high, x[mask].max(0))


def test_rows_outside_the_mask_do_not_count_even_when_they_are_nan():
    x = jnp.array([[1.0], [3.0], [jnp.nan]])
    stats = normalize.measure(x, jnp.array([True, True, False]))
    assert float(stats.mean[0]) == 2.0 and float(stats.std[0]) == 1.0


def test_entries_that_do_not_vary_are_only_centred():
    x = jnp.stack([jnp.full(10, 123.4), jnp.arange(10.0)], -1)
    stats = normalize.measure(x, jnp.ones(10, bool))
    assert float(stats.std[0]) == np.float32(123.4)  # its own size: one in its own units
    np.testing.assert_allclose(normalize.apply(stats, x)[:, 0], 0.0, atol=1e-6)
    assert float(normalize.measure(jnp.zeros((10, 1)), jnp.ones(10, bool)).std[0]) == 1.0


@pytest.mark.parametrize("power", [-80, -20, 30, 80])
def test_other_units_scale_the_stats_to_the_bit(power):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(700, 4)) * [1.0, 1e-3, 50.0, 0.0] + [0.0, 2.0, -1.0, 0.3]).astype(np.float32)
    mask, unit = jnp.asarray(rng.random(700) < 0.8), np.float32(2.0**power)
    for metres, other in zip(normalize.measure(x, mask), normalize.measure(x * unit, mask), strict=True):
        np.testing.assert_array_equal(np.asarray(metres) * unit, other)


def test_a_change_is_rounding_only_by_the_size_of_what_changes():
    mask, rng = jnp.ones(400, bool), np.random.default_rng(0)
    for size in (1.0, 1e-6, 1e6):
        obs = size * np.stack([rng.uniform(-1, 1, 400), np.full(400, 3.0), 1.0 + rng.uniform(0, 1e-7, 400)], -1)
        change = size * np.stack([1e-5 * rng.normal(size=400), rng.uniform(-1e-6, 1e-6, 400), np.zeros(400)], -1)
        of = normalize.measure(jnp.asarray(obs, jnp.float32), mask)
        stats = normalize.measure(jnp.asarray(change, jnp.float32), mask, of)
        np.testing.assert_allclose(stats.std, size * np.array([change[:, 0].std() / size, 3.0, 1.0]), rtol=1e-5)
    # A reward changes nothing: it is measured by itself.
    nothing = normalize.Stats(*(jnp.zeros(1) for _ in range(4)))
    reward = jnp.asarray(1e-12 * rng.normal(size=(400, 1)), jnp.float32)
    np.testing.assert_allclose(normalize.measure(reward, mask, nothing).std, reward.std(0), rtol=1e-5)


def test_invert_undoes_apply_and_clip_widens_the_range():
    stats = normalize.Stats(*(jnp.array([v]) for v in (2.0, 4.0, -1.0, 3.0)))
    x = jnp.array([[7.0]])
    np.testing.assert_allclose(normalize.invert(stats, normalize.apply(stats, x)), x)
    np.testing.assert_allclose(normalize.clip(stats, jnp.array([[-9.0], [1.0], [9.0]]), 0.25).ravel(), [-2.0, 1.0, 4.0])
    np.testing.assert_array_equal(normalize.apply(normalize.unit(1), x), x)
    np.testing.assert_array_equal(normalize.clip(normalize.unit(1), x, 0.0), x)


def test_sums_do_not_depend_on_how_many_empty_rows_follow():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(300, 3)), jnp.float32)
    short, long = (jnp.concatenate([x, jnp.full((more, 3), 7.0)]) for more in (20, 3_000))
    stats = [jax.jit(normalize.measure)(rows, jnp.arange(len(rows)) < 300) for rows in (short, long)]
    jax.tree.map(np.testing.assert_array_equal, *stats)
