"""Each probe world's Q function, checked against returns summed in the world itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax.worlds.probes import PROBES


@pytest.mark.parametrize("name", PROBES)
def test_q_is_the_bellman_backup_of_the_world(name):
    """Q(obs, a) = r + discount (1 - terminated) Q(next_obs, a'), whatever a': only termination stops the bootstrap."""
    world, q = PROBES[name].world(), PROBES[name].q
    discount = 0.9
    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), 16))
    actions = jnp.linspace(-1.0, 1.0, 16)[:, None]

    @jax.jit
    def one_step(states):
        after, t = jax.vmap(world.step)(jax.random.split(jax.random.key(1), 16), states, actions)
        value, target = q(t.obs, actions, discount), q(t.next_obs, actions, discount)
        target = t.reward + discount * jnp.where(t.terminated, 0.0, target)
        return after, t, value, target, jax.vmap(world.spec.termination)(t.obs, t.action, t.next_obs)

    for step in range(world.spec.episode_length):
        after, t, value, target, terminated = one_step(states)
        np.testing.assert_allclose(value, target, rtol=1e-6)
        np.testing.assert_array_equal(terminated, t.terminated)
        last = step == world.spec.episode_length - 1
        np.testing.assert_array_equal(np.asarray(t.terminated) | np.asarray(t.truncated), last)
        np.testing.assert_array_equal(t.truncated, last and name == "time_limit")
        assert t.obs.shape == t.action.shape == (16, 1)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == jax.tree.map(
            lambda x: (x.shape, x.dtype, x.weak_type), states
        )
        states = after


@pytest.mark.parametrize(
    ("name", "obs", "action", "expected"),
    [
        ("constant_reward", 0.0, 0.3, 1.0),
        ("observation", -1.0, 0.3, -1.0),
        ("discounting", 0.0, 0.3, 0.9),
        ("discounting", 1.0, 0.3, 1.0),
        ("action", 0.0, 0.5, 0.0),
        ("action", 0.0, -0.5, -1.0),
        ("time_limit", 0.0, 0.3, 10.0),
    ],
)
def test_q_is_what_the_catalog_says(name, obs, action, expected):
    np.testing.assert_allclose(PROBES[name].q(jnp.array([obs]), jnp.array([action]), 0.9), expected, rtol=1e-6)


def test_the_observation_probe_shows_both_observations():
    keys = jax.random.split(jax.random.key(0), 32)
    assert set(np.asarray(jax.vmap(PROBES["observation"].world().reset)(keys).obs).ravel()) == {-1.0, 1.0}
