"""Termination predicates on hand-made observations, and (slow) against the simulator on 10,000 transitions each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import jit_soon

from branchax.rollout import rollout
from branchax.worlds import terminations
from branchax.worlds.base import never
from branchax.worlds.brax import brax_world
from branchax.worlds.catalog import BRAX_BACKENDS

SIZES = {"ant": 27, "hopper": 11, "humanoid": 244, "inverted_pendulum": 4, "walker2d": 17}


def ends(name, size=None, **entries):
    obs = jnp.zeros(size or SIZES[name])
    for index, value in entries.items():
        obs = obs.at[int(index[1:])].set(value)
    return bool(terminations.BRAX[name](jnp.zeros_like(obs), jnp.zeros(1), obs))


@pytest.mark.parametrize(
    ("name", "healthy", "ended"),
    [
        ("ant", [{"_0": 0.2}, {"_0": 1.0}], [{"_0": 0.19}, {"_0": 1.01}]),
        ("humanoid", [{"_0": 1.0}, {"_0": 2.0}], [{"_0": 0.99}, {"_0": 2.01}]),
        ("inverted_pendulum", [{"_1": 0.2}, {"_1": -0.2, "_0": 5.0}], [{"_1": 0.21}, {"_1": -0.21}]),
        (
            "walker2d",
            [{"_0": 0.81}, {"_0": 1.99, "_1": -0.99}],
            [{"_0": 0.8}, {"_0": 2.0}, {"_0": 1.2, "_1": 1.0}, {"_0": 1.2, "_1": -1.0}, {"_0": jnp.nan}],
        ),
        (
            "hopper",
            [{"_0": 0.71, "_1": 0.19}, {"_0": 150.0}, {"_0": 1.0, "_3": -99.0}],
            [
                {"_0": 0.7},
                {"_0": 1.0, "_1": 0.2},
                {"_0": 1.0, "_1": -0.2},
                {"_0": 1.0, "_3": -101.0},
                {"_0": 1.0, "_10": jnp.nan},
            ],
        ),
    ],
)
def test_bounds(name, healthy, ended):
    assert not any(ends(name, **entries) for entries in healthy)
    assert all(ends(name, **entries) for entries in ended)


@pytest.mark.parametrize(("q1", "q2"), [(0.0, 0.0), (0.3, 0.2), (0.6, -0.6), (-0.7, 0.0), (0.5, 1.5)])
def test_the_double_pendulum_ends_by_the_height_of_its_tip(q1, q2):
    obs = jnp.array([3.0, np.sin(q1), np.sin(q2), np.cos(q1), np.cos(q2), 0.0, 0.0, 0.0])
    height = 0.6 * np.cos(q1) + 0.6 * np.cos(q1 + q2)
    assert bool(terminations.inverted_double_pendulum(obs, jnp.zeros(1), obs)) == (height <= 1.0)


KNOWN = [  # all that can end, on every backend whose predicate is known; the others on one
    (name, backend)
    for name, predicate in terminations.BRAX.items()
    for backend in BRAX_BACKENDS
    if terminations.known(name, backend) and (predicate is not never or backend == "generalized")
]


def test_a_predicate_is_known_unless_the_observation_hides_the_end():
    assert len(KNOWN) == 6 + 6 * 4 - 5
    assert all(terminations.known(name, "generalized") for name in terminations.BRAX)
    assert brax_world("inverted_double_pendulum", "mjx").spec.termination is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax's spring backend")
@pytest.mark.parametrize(("name", "backend"), KNOWN)
def test_agrees_with_the_simulator_on_10000_transitions(name, backend):
    world = brax_world(name, backend)

    def act(key, obs):
        return jax.random.uniform(key, (world.spec.action_size,), minval=-1.0), ()

    def run(key):
        start = jax.vmap(world.reset)(jax.random.split(key, 100))
        return rollout(key, world, act, start, 100, restart=True)[1].transition

    t = jit_soon(run)(jax.random.key(0))
    predicted = jax.vmap(jax.vmap(world.spec.termination))(t.obs, t.action, t.next_obs)
    assert jnp.isfinite(t.next_obs).all() and t.terminated.size == 10_000
    np.testing.assert_array_equal(predicted, t.terminated)
    if backend == "generalized":  # elsewhere random actions do not always topple
        assert (world.spec.termination is never) == (not t.terminated.any())
