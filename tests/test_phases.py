"""The parts that an epoch's time is divided among are those that the epoch of each kind of method is made of."""

import jax
import jax.numpy as jnp
import pytest

from branchax import build
from branchax.presets import preset
from branchax.views import phases


@pytest.mark.parametrize(
    ("name", "world", "expected"),
    [
        ("sac", "classic/lqr", ["collect", "improve"]),
        ("ppo", "classic/lqr", ["collect", "improve"]),  # learns on what was collected
        ("oracle_mbpo", "classic/lqr", ["collect", "imagine", "improve"]),
        ("mve", "classic/lqr", ["collect", "fit", "improve"]),  # looks ahead from its batches, stores nothing
        ("svg5", "classic/lqr", ["collect", "fit", "warm up", "improve"]),
        ("v2.5", "classic/lqr", ["collect", "fit", "improve"]),
        ("pets", "classic/cartpole", ["collect", "fit", "improve"]),
        ("dyna_q", "classic/gridworld", ["collect", "fit", "imagine", "improve"]),
    ],
)
def test_parts_of_an_epoch(name, world, expected):
    config = preset(name, world)
    program = build.build(config)
    parts = phases._parts(program.stages, config, jnp.int32(config.rollout.horizon), True, "warm up" in expected)
    assert list(parts) == expected

    def epoch(state):
        state, recent = parts["collect"](state, None)
        for part in list(parts.values())[1:]:
            state, recent = part(state, recent)
        return state

    before = jax.eval_shape(program.init, jax.random.key(0))
    assert jax.eval_shape(epoch, before) == before  # each part takes the state and gives it back


def test_the_runs_own_epochs_are_timed_by_the_rows_of_one_process():
    rows = [{"seed": 0, "epoch": e, "wall_s": s} for e, s in ((1, 1.0), (2, 3.0), (3, 5.0), (4, 9.0), (6, 99.0))]
    assert phases._epoch_seconds(rows, seed=0) == 2.0
    assert phases._epoch_seconds(rows, seed=1) is None
