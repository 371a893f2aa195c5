"""Settings drawn at random that `check` accepts: they build, run, keep their numbers finite, and resume to the bit."""

import pytest

from benchmarks.settings import AGENTS, attempt, draw

FAST = (0, 1, 2)


@pytest.mark.parametrize("seed", [*FAST, *(pytest.param(s, marks=pytest.mark.slow) for s in range(3, 40))])
def test_settings_that_are_accepted_run_and_resume(seed):
    attempt(draw(seed))


def test_draws_are_spread_over_the_agents():
    """Of each kind some pass the checks, or nothing is tested of it; and a seed's draw is always the same."""
    drawn = [draw(seed) for seed in range(30)]
    assert {type(config.agent) for config in drawn} == set(AGENTS)
    assert drawn[:3] == [draw(seed) for seed in range(3)]
