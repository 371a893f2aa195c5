"""Settings drawn at random that `check` accepts: they build, run, keep their numbers finite, and resume to the bit."""

import pytest

from benchmarks.settings import AGENTS, attempt, draw

FAST = range(10)  # each kind of agent once at least; the others have their turn in the slow tests


@pytest.mark.parametrize(
    "seed", [*FAST, *(pytest.param(s, marks=pytest.mark.slow) for s in range(40) if s not in FAST)]
)
def test_settings_that_are_accepted_run_and_resume(seed):
    attempt(draw(seed))


@pytest.mark.slow  # a draw that can be built is found by trying
def test_draws_take_turns_over_the_agents_and_are_always_the_same():
    drawn = [draw(seed) for seed in range(len(AGENTS))]
    assert [type(config.agent) for config in drawn] == list(AGENTS)
    assert drawn[0] == draw(0) and drawn[0] != draw(len(AGENTS))
