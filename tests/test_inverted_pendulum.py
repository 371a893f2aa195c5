"""What the experiment of the main job says of a curve, and of its seeds."""

import numpy as np
import pytest

from experiments import inverted_pendulum as experiment

STEPS = np.arange(50, 550, 50)


def curve(*returns):
    return STEPS[: len(returns)], np.array(returns, float)


def test_a_seed_has_learned_at_the_first_of_three_and_keeps_it_to_the_end():
    score = experiment.score(*curve(3, 1000, 3, 960, 1000, 1000, 949, 1000, 1000, 1000))
    assert score == {"learned_at": 200, "lapses": 1, "evaluations_after": 7, "last_three": 1000, "keeps": True}
    lost = experiment.score(*curve(1000, 1000, 1000, 1000, 3))
    assert (lost["learned_at"], lost["lapses"], lost["keeps"]) == (50, 1, False)
    never = experiment.score(*curve(1000, 1000, 3, 1000, 1000))
    assert (never["learned_at"], never["lapses"], never["keeps"]) == (None, 0, False)


def test_a_seed_that_has_not_learned_counts_with_all_steps():
    learned, never = experiment.score(*curve(1000, 1000, 1000)), experiment.score(*curve(3, 3, 3))
    found = experiment.summarise({"100": learned, "101": never})
    assert (found["learned"], found["keeps"], found["lapses"]) == (1, 1, 0)
    assert found["learned_at_mean"] == (50 + experiment.STEPS) / 2 and found["learned_at_last"] == experiment.STEPS
    assert "525 ± 672 (1,000)" in experiment.as_table({"mbpo": found})


def test_unknown_arguments_run_nothing(monkeypatch):
    monkeypatch.setattr(experiment, "train", None)
    with pytest.raises(SystemExit, match="allowed: nothing, --again, --done, or dhmbpo_tiny 340"):
        experiment.main(["--don"])
