"""Whole runs that have to learn; minutes each (`make test-slow`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def late(config):
    """The median of the last ten evaluations: whether a task is held, but for a lapse."""
    return float(np.median(returns(config)[-10:]))


def test_mbpo_balances_braxs_inverted_pendulum():
    assert late(preset("mbpo", "brax/inverted_pendulum", env_steps=800)) >= 950


@pytest.mark.parametrize(("name", "steps"), [("mbpo", 800), ("oracle_mbpo", 800), ("dhmbpo_tiny", 500), ("sac", 3_000)])
def test_pendulum_is_swung_up(name, steps):
    assert late(preset(name, "classic/pendulum", env_steps=steps, eval_episodes=8)) >= -250


def test_parallel_worlds_learn_too():
    config = preset("mbpo", "classic/pendulum", parallel_worlds=5, collect_steps=5, env_steps=1_000, eval_episodes=8)
    assert late(config) >= -250


def test_a_learned_termination_serves_as_well_as_a_known_one():
    assert late(preset("mbpo", "brax/inverted_pendulum", env_steps=800, model__termination="learned")) >= 900


def test_a_point_mass_finds_the_origin():
    found = returns(preset("mbpo", "classic/point_mass", env_steps=1_000, eval_episodes=8))
    assert np.mean(found[-3:]) > found[0] / 3  # returns are negative costs
