"""Epochs of agents that learn on rollouts of their own: what they imagine, from where, and when they stop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import worlds
from branchax.agents.base import Agent, Outcome
from branchax.build import build, build_agent
from branchax.checks import check
from branchax.config import Config, ModelConfig, PathwiseConfig, PolicyGradientConfig, RolloutConfig, SACConfig
from branchax.dynamics.base import FitReport
from branchax.dynamics.oracle import oracle
from branchax.epoch.program import make_program
from branchax.epoch.stopping import stop_early, while_models_agree
from branchax.errors import ConfigError

TINY = Config(
    world="classic/cartpole",
    env_steps=180,
    explore_steps=60,
    epoch_steps=40,
    collect_steps=40,
    parallel_worlds=2,
    updates_per_step=0.1,
    model=ModelConfig(members=3, elites=2, hidden=(8,), round_steps=5, max_rounds=3),
    rollout=RolloutConfig(start="initial", horizon=3, horizon_end=5, ramp=(60, 140), per_update=8, groups=4),
    agent=PolicyGradientConfig(hidden=(8,), value_hidden=(8,), passes=2, minibatches=2, clip=0.2),
    eval_episodes=2,
)


def keys(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds))


def compiled(program):
    return jax.jit(jax.vmap(program.init)), jax.jit(jax.vmap(program.epoch, in_axes=(0, None)), donate_argnums=0)


PATHWISE = PathwiseConfig(hidden=(8,), value_hidden=(8,), window=2)


@pytest.mark.slow
@pytest.mark.parametrize("agent", [TINY.agent, PATHWISE], ids=["ppo", "pathwise"])
def test_counts_are_exact_and_a_seed_does_not_see_the_others(agent):
    config = dataclasses.replace(TINY, agent=agent)
    init, epoch = compiled(build(config))
    runs = []
    for seeds in ((0, 1), (1, 2)):
        state = init(keys(*seeds))
        for horizon in (3, 5):
            state, report = epoch(state, jnp.int32(horizon))
        runs.append(state)
    both, other = runs
    assert both.imagined == () and both.counts.env_steps.tolist() == [140, 140]
    assert both.counts.updates.tolist() == [8, 8]  # 4 per epoch
    steps = both.counts.model_steps.astype(int)
    assert (steps <= 4 * 8 * 3 + 4 * 8 * 5).all() and (steps > 4 * 8 * 3).all()  # valid steps alone are counted
    assert report.metrics["improve/steps"].shape == (2,) and epoch._cache_size() == 1
    for a, b in zip(jax.tree.leaves(both.agent), jax.tree.leaves(other.agent), strict=True):
        np.testing.assert_allclose(a[1], b[0], rtol=2e-3, atol=2e-4)


def probe_agent(record):
    """An agent that only remembers what its last rollout was: nothing learns."""

    def update(key, params, sources):
        trajectory = sources.rollout(key, lambda k, obs: (jnp.zeros(1), ()), None)
        return record(trajectory), Outcome({}, {}, trajectory.valid.sum() * 1.0)

    return Agent(
        init=lambda key: record(None),
        act=lambda key, params, obs: (jnp.zeros(1), ()),
        mode=lambda params, obs: jnp.zeros(1),
        update=update,
        learns_from="rollouts",
    )


@pytest.mark.slow
def test_an_epoch_that_collects_once_fits_what_it_has_just_collected():
    world = worlds.make("classic/lqr")
    dynamics = oracle(world)._replace(
        init=lambda key: jnp.int32(0), fit=lambda key, model, ring: (ring.size, FitReport({}))
    )
    program = make_program(TINY, world, dynamics, build_agent(TINY, world))
    init, epoch = compiled(program)
    state, _ = epoch(init(keys(0)), jnp.int32(3))
    assert state.model.tolist() == [100]  # 60 explored, 40 collected


@pytest.mark.parametrize("start", ["initial", "replay"])
def test_rollouts_start_where_they_are_told(start):
    config = dataclasses.replace(
        TINY, world="classic/lqr", rollout=dataclasses.replace(TINY.rollout, start=start, horizon_end=None)
    )
    world = worlds.make("classic/lqr")
    blank = jnp.zeros((8, 2))
    agent = probe_agent(lambda t: blank if t is None else t.transition.obs[0])
    init, epoch = compiled(make_program(config, world, oracle(world), agent))
    state, _ = epoch(init(keys(0)), jnp.int32(3))
    stored = np.asarray(state.real.data.transition.obs[0])
    known = [(np.abs(stored - row).sum(-1) < 1e-6).any() for row in np.asarray(state.agent[0])]
    assert all(known) if start == "replay" else not any(known)
    assert int(state.counts.updates[0]) == 4 and int(state.counts.model_steps[0]) == 4 * 8 * 3


def test_without_a_model_an_agent_learns_on_what_it_has_just_collected():
    config = dataclasses.replace(
        TINY, rollout=RolloutConfig(horizon=0), updates_per_step=1 / 20, collect_steps=20, world="classic/lqr"
    )
    world = worlds.make("classic/lqr")
    blank = jnp.zeros((10, 2, 2))  # [H, W, D]
    agent = probe_agent(lambda t: blank if t is None else t.transition.obs)
    init, epoch = compiled(make_program(config, world, None, agent))
    state, _ = epoch(init(keys(0)), jnp.int32(0))
    assert int(state.counts.updates[0]) == 2 and int(state.counts.model_steps[0]) == 0
    newest = np.asarray(state.real.data.transition.obs[0])[80:100]  # 60 explored + 2 rounds of 20
    np.testing.assert_array_equal(np.asarray(state.agent[0]).reshape(20, 2), newest)


def test_improving_stops_once_fewer_models_agree_than_asked():
    """Three models: they all gain for two looks, then only one in three does."""

    def update(count, key):
        return count + 1, Outcome({}, {"count": count.astype(jnp.float32)})

    def returns_of(count):
        few = jnp.where(count <= 4, count, -count)
        return jnp.stack([count, few, few]), jnp.float32(7.0)

    zero, twelve = jnp.int32(0), jax.random.split(jax.random.key(0), 12)

    def run(share):
        return jax.jit(
            stop_early(update, while_models_agree(returns_of, share), returns_of(zero)[0], every=2, undo=False)
        )

    count, told = run(0.5)(zero, twelve)
    assert int(count) == 6  # the third look finds one in three; the three pairs of keys after it do nothing
    np.testing.assert_array_equal(told.made, [True] * 6 + [False] * 6)
    np.testing.assert_array_equal(told.kept, told.made)
    np.testing.assert_array_equal(told.model_steps, [0, 7] * 3 + [0] * 6)  # those of the looks
    np.testing.assert_array_equal(told.metrics["count"], [0, 1, 2, 3, 4, 5] + [4, 5] * 3)
    assert int(run(0.3)(zero, twelve)[0]) == 12


@pytest.mark.slow
def test_me_trpo_runs_and_says_what_share_of_its_updates_was_done():
    rollout = dataclasses.replace(TINY.rollout, validate_every=2, validate_share=1.0, horizon_end=None, ramp=(0, 0))
    init, epoch = compiled(build(dataclasses.replace(TINY, rollout=rollout)))
    state, report = epoch(init(keys(0)), jnp.int32(3))
    agreed = float(report.metrics["improve/done"][0])
    assert agreed in (0.5, 1.0) and int(state.counts.updates[0]) == 4 * agreed
    looks, rollouts = 1 + int(2 * agreed), 8 * 3  # one more at first; steps of an update, and of a look in each elite
    assert int(state.counts.model_steps[0]) == rollouts * (4 * agreed + looks * TINY.model.elites)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rollout": RolloutConfig(horizon=0)}, ["updates_per_step", "one update"]),
        ({"rollout": RolloutConfig(horizon=0), "agent": PathwiseConfig()}, ["rollout.horizon", "model or the oracle"]),
        (
            {"rollout": dataclasses.replace(TINY.rollout, validate_every=3)},
            ["rollout.validate_every: 3", "a divisor of the 4"],
        ),
        ({"agent": PathwiseConfig(init_std=8.0)}, ["agent.init_std: 8", "<= 7 with agent.squash"]),
        (
            {"agent": SACConfig(), "rollout": RolloutConfig(validate_every=2), "batch_size": 32},
            ["rollout.validate_every: 2", "unset"],
        ),
        (
            {"agent": dataclasses.replace(TINY.agent, minibatches=41)},
            ["agent.minibatches: 41", "<= the 40 steps"],
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, says):
    with pytest.raises(ConfigError) as refused:
        check(dataclasses.replace(TINY, **changes))
    assert all(part in str(refused.value) for part in says), str(refused.value)


def test_the_pathwise_gradient_refuses_a_simulator_without_derivatives():
    world = worlds.make("classic/lqr")
    world = world._replace(spec=world.spec._replace(differentiable=False))
    config = dataclasses.replace(TINY, agent=PathwiseConfig(), model=ModelConfig(kind="oracle"))
    with pytest.raises(ConfigError, match=r"model.kind: oracle .* allowed: ensemble.* ppo"):
        build_agent(config, world)
