"""The epoch's invariants, on worlds small enough to look at every row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import worlds
from branchax.build import build, build_agent, build_dynamics
from branchax.config import Config, ModelConfig, RolloutConfig, SACConfig
from branchax.epoch.program import make_program
from branchax.epoch.state import first_fault, no_fault, without_faults
from branchax.returns import gae
from branchax.types import Trajectory, Transition
from branchax.worlds.base import WorldSpec, make_world, never

TINY = Config(
    world="classic/cartpole",
    env_steps=180,
    explore_steps=60,
    epoch_steps=40,
    collect_steps=4,
    parallel_worlds=2,
    updates_per_step=1.0,
    batch_size=32,
    real_fraction=0.25,
    model=ModelConfig(members=3, elites=2, hidden=(8,), round_steps=5, max_rounds=3),
    rollout=RolloutConfig(per_step=10, groups=4, horizon=1, horizon_end=3, ramp=(60, 140)),
    agent=SACConfig(hidden=(8,)),
    eval_episodes=2,
)


def keys(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds))


def compiled(config=TINY, program=None):
    """Side by side, as on an accelerator; whole runs, which other files have, take seeds in turn here."""
    program = program or build(config)
    return jax.jit(jax.vmap(program.init)), jax.jit(jax.vmap(program.epoch, (0, None)), donate_argnums=0)


def run(config, init, epoch, seeds, epochs=3):
    state, metrics = init(keys(*seeds)), []
    for _ in range(epochs):
        horizon = config.rollout.at(int(state.counts.env_steps[0]))
        state, out = epoch(state, jnp.int32(horizon))
        metrics.append(out.metrics)
    return state, metrics


@pytest.fixture(scope="module")
def tiny():
    init, epoch = compiled()
    return init, epoch, *run(TINY, init, epoch, (0, 1))


def stored(ring):
    """The rows that count, over all seeds: pytree of [N, ...]."""
    slots, seeds = jax.tree.leaves(ring.data)[0].shape[1], []
    for seed, (cursor, size) in enumerate(zip(ring.cursor.tolist(), ring.size.tolist(), strict=True)):
        at = (cursor - 1 - np.arange(size)) % slots
        seeds.append(jax.tree.map(lambda x: np.asarray(x)[seed, at], ring.data))  # noqa: B023
    return jax.tree.map(lambda *x: np.concatenate(x), *seeds)


def test_counts_are_exact(tiny):
    _, _, state, metrics = tiny
    np.testing.assert_array_equal(state.counts.env_steps, [180, 180])
    np.testing.assert_array_equal(state.counts.updates, [120, 120])
    np.testing.assert_array_equal(state.counts.epochs, [3, 3])
    np.testing.assert_array_equal(state.real.size, [180, 180])
    assert TINY.rollout.at(60) == 1 and TINY.rollout.at(100) == 2 and TINY.rollout.at(140) == 3
    lengths = [float(m["imagine/length_mean"][0]) for m in metrics]
    assert lengths[0] == 1.0 and 1.0 < lengths[1] <= 2.0 and 2.0 < lengths[2] <= 3.0
    total = sum(float(m["imagine/steps"][0]) for m in metrics)
    assert int(state.counts.model_steps[0]) == total


def test_traced_once_as_the_horizon_moves(tiny):
    init, epoch, *_ = tiny
    assert init._cache_size() == 1 and epoch._cache_size() == 1


def test_real_rows_are_true_steps_of_the_world_at_episode_ends_too(tiny):
    state = tiny[2]
    rows = stored(state.real).transition
    world = worlds.make(TINY.world)
    again = jax.vmap(world.spec.termination)(rows.obs, rows.action, rows.next_obs)
    np.testing.assert_array_equal(rows.terminated, again)
    assert int(rows.terminated.sum()) > 1  # the pole was dropped
    # Within a world (every second row) the next row goes on where this one ended, or starts afresh near the centre.
    size = int(state.real.size[0]) // 2
    for w in range(2):
        t = jax.tree.map(lambda x: x[0, : 2 * size][w::2], state.real.data.transition)  # noqa: B023
        over = np.asarray(t.terminated | t.truncated)[:-1]
        np.testing.assert_array_equal(np.asarray(t.next_obs)[:-1][~over], np.asarray(t.obs)[1:][~over])
        fresh = np.asarray(t.obs)[1:][over]
        assert (abs(fresh) < 0.06).all() and len(np.unique(fresh[:, 0])) == len(fresh)


def test_no_imagined_row_starts_from_a_terminated_state(tiny):
    rows = stored(tiny[2].imagined)
    ends = jax.vmap(worlds.make(TINY.world).spec.termination)
    assert not bool(ends(rows.obs, rows.action, rows.obs).any())
    np.testing.assert_array_equal(rows.terminated, ends(rows.obs, rows.action, rows.next_obs))
    assert int(rows.terminated.sum()) > 0 and not rows.truncated.any()


def test_rollouts_branch_off_replayed_states(tiny):
    """At horizon 1 every imagined row starts at an observation that is in the replay buffer."""
    init, epoch, *_ = tiny
    state, _ = run(TINY, init, epoch, (0, 1), epochs=1)
    for seed in range(2):
        real = np.asarray(state.real.data.transition.obs[seed, : int(state.real.size[seed])])
        imagined = np.asarray(state.imagined.data.obs[seed, : int(state.imagined.size[seed])])
        assert {row.tobytes() for row in imagined} <= {row.tobytes() for row in real}


def test_a_seed_does_not_see_the_others(tiny):
    init, epoch, together, _ = tiny
    other, _ = run(TINY, init, epoch, (1, 2))
    for x, y in zip(*map(jax.tree.leaves, (together._replace(key=()), other._replace(key=()))), strict=True):
        np.testing.assert_array_equal(x[1], y[0])
    first, second = (together.real.data.transition.obs[i] for i in range(2))
    assert not np.allclose(first, second)


@pytest.mark.slow
def test_seeds_side_by_side_equal_seeds_alone(tiny):
    init, epoch, together, _ = tiny
    for i, seed in enumerate((0, 1)):
        alone, _ = run(TINY, init, epoch, (seed,))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x[i], y[0], rtol=1e-3, atol=1e-3),  # noqa: B023
            together._replace(key=()),
            alone._replace(key=()),
        )


def test_same_seed_same_bits(tiny):
    init, epoch, first, _ = tiny
    second, _ = run(TINY, init, epoch, (0, 1))
    jax.tree.map(np.testing.assert_array_equal, first._replace(key=()), second._replace(key=()))


def test_imagined_rows_of_earlier_epochs_are_let_go(tiny):
    """`keep_epochs` is 1: only this epoch's rows count, though at horizon 1 there is room for three times as many."""
    init, epoch, *_ = tiny
    for epochs in (1, 2, 3):
        state, metrics = run(TINY, init, epoch, (0, 1), epochs=epochs)
        np.testing.assert_array_equal(state.imagined.size, metrics[-1]["imagine/steps"])


def test_matrix_products_are_float32_throughout():
    program = build(TINY)
    state = jax.eval_shape(program.init, jax.random.key(0))
    text = str(jax.make_jaxpr(program.epoch)(state, jnp.int32(1)))
    assert text.count("dot_general[") == text.count("Precision.HIGHEST, Precision.HIGHEST") > 20


def test_model_free_builds_no_model():
    config = dataclasses.replace(TINY, rollout=RolloutConfig(horizon=0), real_fraction=1.0)
    program = build(config)
    state, report = jax.eval_shape(lambda k: program.epoch(program.init(k), jnp.int32(0)), jax.random.key(0))
    assert (
        state.model == ()
        and state.imagined == ()
        and not any(m.startswith(("model/", "imagine/")) for m in report.metrics)
    )


@pytest.mark.slow
def test_the_oracle_imagines_the_simulators_own_steps():
    config = dataclasses.replace(
        TINY,
        world="classic/pendulum",
        model=ModelConfig(kind="oracle"),
        rollout=RolloutConfig(per_step=10, groups=4, horizon=3),
    )
    init, epoch = compiled(config)
    state, _ = run(config, init, epoch, (0,), epochs=1)
    rows = stored(state.imagined)
    cos, sin, speed = np.asarray(rows.obs, np.float64).T
    torque = 2 * np.clip(np.asarray(rows.action, np.float64)[:, 0], -1, 1)
    expected = np.clip(speed + (15 * sin + 3 * torque) * 0.05, -8, 8)  # Gymnasium's Pendulum-v1
    np.testing.assert_allclose(rows.next_obs[:, 2], expected, atol=1e-4)
    angle = np.arctan2(sin, cos)
    np.testing.assert_allclose(rows.reward, -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_world_gone_nan_is_named_and_never_stored():
    """Obs entry 0 counts up and turns NaN at 5; then the world starts afresh."""

    def step(key, inner, action):
        value = jnp.where(inner == 4.0, jnp.nan, inner + 1.0)
        return value, jnp.stack([value, action[0]]), jnp.float32(1.0), jnp.zeros((), bool)

    world = make_world(WorldSpec("nan", 2, 1, 100, termination=never), lambda key: (jnp.zeros(()), jnp.zeros(2)), step)
    config = dataclasses.replace(TINY, parallel_worlds=1)
    program = make_program(config, world, build_dynamics(config, world), build_agent(config, world))
    init, epoch = compiled(config, program)
    state, _ = run(config, init, epoch, (0,), epochs=2)
    assert int(state.fault.step[0]) == 104 and int(state.fault.rows[0]) == 8
    assert Transition._fields[int(state.fault.field[0])] == "next_obs"
    assert int(state.real.size[0]) == 140 - 140 // 5
    for leaf in jax.tree.leaves((state.real, state.imagined, state.agent, state.model)):
        assert bool(jnp.isfinite(leaf).all())


def test_the_first_fault_is_kept():
    rows = Transition(
        *(jnp.zeros((4, 1)),) * 2,
        jnp.array([0.0, 0.0, jnp.inf, jnp.nan]),
        jnp.zeros((4, 1)),
        *(jnp.zeros(4, bool),) * 2,
    )
    none = no_fault(jax.tree.map(lambda x: x[0], rows))
    fault = first_fault(none, jnp.int32(100), rows)
    assert int(fault.step) == 102 and Transition._fields[int(fault.field)] == "reward"
    assert int(fault.rows) == 2 and bool(jnp.isinf(fault.first.reward))
    later = first_fault(fault, jnp.int32(200), rows)
    assert (int(later.step), int(later.rows)) == (102, 4) and bool(jnp.isinf(later.first.reward))
    clean = jax.tree.map(jnp.zeros_like, rows)
    assert int(first_fault(none, jnp.int32(100), clean).step) == -1


def test_faulty_rows_are_blank_cut_and_of_no_weight():
    x = jnp.arange(4.0).reshape(4, 1)
    t = Transition(x[..., None], x[..., None], x.at[2].set(jnp.nan), x[..., None] + 1, x > 9, x > 9)
    trajectory = Trajectory(t, jnp.ones((4, 1), bool), None, None)
    good = jnp.isfinite(t.reward)
    clean = without_faults(trajectory, good)
    assert bool(jnp.isfinite(clean.transition.reward).all())
    np.testing.assert_array_equal(clean.valid[:, 0], [True, True, False, True])
    np.testing.assert_array_equal(clean.transition.truncated[:, 0], [False, False, True, False])
    np.testing.assert_array_equal(clean.transition.obs[:, 0, 0], [0, 1, 0, 3])
    assert gae(clean, x, x + 1, 1.0, 1.0)[:, 0].tolist() == [2 + 0 + 1 - 0, 1 + 2 - 1, 0, 3 + 4 - 3]


@pytest.mark.slow
def test_groups_side_by_side_imagine_what_groups_in_turn_do(tiny):
    init, epoch, *_ = tiny
    config = dataclasses.replace(TINY, rollout=dataclasses.replace(TINY.rollout, parallel_groups=4))
    in_turn, _ = run(TINY, init, epoch, (0, 1), epochs=1)
    side_by_side, _ = run(config, *compiled(config), (0, 1), epochs=1)
    for x, y in zip(*map(jax.tree.leaves, (in_turn.imagined, side_by_side.imagined)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
