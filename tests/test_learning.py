"""Whole runs that have to learn; minutes each (`make test-slow`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

from branchax.build import build
from branchax.presets import preset

pytestmark = pytest.mark.slow


def returns(config):
    """The mean return of each evaluation after each epoch, one seed."""
    program = build(config)
    epoch = jax.jit(program.epoch, donate_argnums=0)
    evaluate = jax.jit(program.evaluate)
    state = jax.jit(program.init)(jax.random.key(config.seed))
    found = []
    for i in range(config.epochs):
        state, _ = epoch(state, jnp.int32(config.rollout.at(int(state.counts.env_steps))))
        found.append(float(evaluate(jax.random.key(1_000 + i), state.agent)["return"].mean()))
    return found


def test_mbpo_balances_braxs_inverted_pendulum():
    assert np.mean(returns(preset("mbpo", "brax/inverted_pendulum"))[-3:]) >= 950


@pytest.mark.parametrize("name", ["mbpo", "oracle_mbpo", "sac"])
def test_pendulum_is_swung_up(name):
    config = replace(preset(name, "classic/pendulum"), env_steps=3_000, eval_episodes=8)
    assert np.mean(returns(config)[-3:]) >= -250


def test_parallel_worlds_learn_too():
    config = replace(preset("mbpo", "classic/pendulum"), parallel_worlds=5, collect_steps=5, env_steps=3_000)
    assert np.mean(returns(config)[-3:]) >= -250


def test_a_learned_termination_serves_as_well_as_a_known_one():
    config = replace(preset("mbpo", "brax/inverted_pendulum"), model__termination="learned")
    assert np.mean(returns(config)[-3:]) >= 900


def test_a_point_mass_finds_the_origin():
    config = replace(preset("mbpo", "classic/point_mass"), env_steps=2_500, eval_episodes=8)
    found = returns(config)
    assert np.mean(found[-3:]) > found[0] / 3  # returns are negative costs
