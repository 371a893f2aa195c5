"""Settings drawn at random that `check` accepts: they build, run, keep their numbers finite, and resume to the bit."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.settings import SORTS, attempt, draw
from branchax import build
from branchax.runs import checkpoint

# Each sort of agent, those of its draws that compile soonest: with MVE, STEVE, tables, the oracle, ensembles and a
# learned termination among them. The others are slow tests.
FAST = (1, 15, 16, 18, 20, 21, 22, 23, 26, 29)


@pytest.mark.parametrize(
    "seed", [*FAST, *(pytest.param(s, marks=pytest.mark.slow) for s in range(45) if s not in FAST)]
)
def test_settings_that_are_accepted_run_and_resume(seed):
    attempt(draw(seed))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("metric", "not finite: new"),
        pytest.param("agent", "holds NaN", marks=pytest.mark.slow),
        pytest.param("restored", "differs", marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_is_found(monkeypatch, wrong, says):
    make, restore = build.build, checkpoint.restore

    def spoil(tree, by):
        return jax.tree.map(lambda x: x + by if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def spoiled(config):
        program = make(config)

        def epoch(state, horizon):
            after, report = program.epoch(state, horizon)
            if wrong == "metric":
                report = report._replace(metrics=report.metrics | {"new": jnp.float32(jnp.inf)})
            if wrong == "agent":  # after the second epoch, whose own numbers are sound
                after = after._replace(agent=spoil(after.agent, jnp.where(state.counts.epochs == 1, jnp.nan, 0.0)))
            return after, report

        return program._replace(epoch=epoch)

    def other(*arguments):
        state = restore(*arguments)
        return state._replace(agent=spoil(state.agent, 1.0)) if wrong == "restored" else state

    monkeypatch.setattr(build, "build", spoiled)
    monkeypatch.setattr(checkpoint, "restore", other)
    with pytest.raises(AssertionError, match=says):
        attempt(draw(12))  # Q-learning with a table compiles in no time


@pytest.mark.slow  # a draw that can be built is found by trying
def test_draws_take_turns_over_the_sorts_of_agents_and_are_always_the_same():
    drawn = [draw(seed) for seed in range(len(SORTS))]
    assert [type(config.agent) for config in drawn] == [sort.kind for sort in SORTS]
    assert drawn[0] == draw(0) and drawn[0] != draw(len(SORTS))
