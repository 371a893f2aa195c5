"""Learning curves come out for one seed, many seeds, many runs, and next to nothing; their bands are SciPy's."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from branchax.config import to_dict
from branchax.presets import preset
from branchax.runs import plots, rundir, runlog, statistics
from experiments import sample_efficiency

MBPO = preset("mbpo", "classic/lqr")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (figures.append(self), save(self, path)))
    return figures


def make_run(directory, config=MBPO, seeds=(0,), epochs=4, model=True):
    directory.mkdir()
    rundir.write_json(directory / rundir.CONFIG, to_dict(config))
    log = runlog.Log(directory / rundir.METRICS)
    for epoch in range(epochs):
        for seed in seeds:
            row = {"seed": seed, "epoch": epoch, "env_steps": 250 * epoch, "wall_s": 10.0 * epoch + seed}
            row |= {runlog.RETURN: 10.0 * epoch + seed, runlog.RETURN_SPREAD: 2.0} if epoch != 2 else {}
            row |= {runlog.MODEL_ERROR: 1.0 / (1 + epoch)} if model and epoch else {}
            log.write([row])
    log.close()
    return directory


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_one_seed(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a_s0_1")], tmp_path / "plots" / "curve.png")
    assert (tmp_path / "plots" / "curve.png").stat().st_size > 5_000
    assert legend(drawn[0]) == ["± 1 SD over the episodes of an evaluation", "seed 0"]
    assert len(drawn[0].axes) == 2
    (line,) = drawn[0].axes[0].lines
    assert line.get_xydata().tolist() == [[0, 0], [250, 10], [750, 30]]  # the epoch without an evaluation is left out
    assert drawn[0].axes[1].get_xlabel() == "env steps"


def test_many_seeds_have_a_middle_a_band_and_a_line_each(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a", seeds=(0, 1, 5), model=False)], tmp_path / "curve.png")
    assert legend(drawn[0]) == ["95 % bootstrap interval", "interquartile mean of 3 seeds"]
    assert len(drawn[0].axes) == 1
    lines = drawn[0].axes[0].lines
    assert len(lines) == 4
    assert lines[-1].get_ydata().tolist() == [2.0, 12.0, 32.0]


def test_runs_with_other_seeds_are_one_curve_and_with_other_settings_another(tmp_path, drawn):
    import dataclasses

    runs = [make_run(tmp_path / f"mbpo_s{s}_1", dataclasses.replace(MBPO, seed=s), seeds=(s,)) for s in (0, 1)]
    runs.append(make_run(tmp_path / "sac_s0_1", preset("sac", "classic/lqr"), model=False, epochs=3))
    plots.curve(runs, tmp_path / "curve.png")
    assert legend(drawn[0]) == ["mbpo: interquartile mean of 2 seeds", "sac: seed 0"]
    assert drawn[0].axes[0].get_legend().get_title().get_text() == "bands: 95 % bootstrap interval, thin: each seed"


def test_a_run_without_evaluations_draws_an_empty_plot(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a", epochs=0)], tmp_path / "curve.png")
    assert len(drawn) == 1


def test_over_seconds_seeds_are_read_off_at_the_same_times(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a", seeds=(0, 4), model=False)], tmp_path / "curve.png", seconds=True)
    assert drawn[0].axes[0].get_xlabel() == "seconds, with compilation"
    first, second, middle = (line.get_xydata() for line in drawn[0].axes[0].lines)
    # Seed 0 has return 10 epoch at 10 epoch seconds, seed 4 has 4 more 4 seconds later: the same line.
    np.testing.assert_allclose(middle[:, 0], np.linspace(4, 30, 3))
    for line in (first, second, middle):
        np.testing.assert_allclose(line[:, 1], line[:, 0])


def test_sample_efficiency_draws_both_methods_from_their_metrics_and_when_each_seed_had_solved_it(
    tmp_path, drawn, monkeypatch
):
    import dataclasses

    monkeypatch.setitem(sample_efficiency.WORLDS, "classic/lqr", (25.0, 500, 1_000))
    made = {
        name: [make_run(tmp_path / f"{name}_s{s}_1", dataclasses.replace(config, seed=s), seeds=(s,)) for s in (0, 1)]
        for name, config in (("mbpo", MBPO), ("sac", preset("sac", "classic/lqr")))
    }
    solved = {"mbpo": [None, None], "sac": [750.0, None]}
    sample_efficiency.draw("classic/lqr", made, solved, tmp_path / "figure.png")
    assert legend(drawn[0]) == [
        "solved: 25",
        "mbpo: interquartile mean of 2 seeds",
        "sac: interquartile mean of 2 seeds",
    ]
    marks = {line.get_marker(): [] for line in drawn[0].axes[1].lines}
    for line in drawn[0].axes[1].lines:
        marks[line.get_marker()] += line.get_xydata().tolist()
    assert marks["|"] == [[750, 1]]
    assert marks["x"] == [[500, pytest.approx(-0.1)], [500, pytest.approx(0.1)], [1_000, 1]]


def middle_of(values):
    """The interquartile mean by hand."""
    cut = len(values) // 4
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


def test_the_interquartile_mean_leaves_out_the_quarters_rounded_down():
    for count in range(1, 12):
        values = np.random.default_rng(count).normal(size=(count, 5))
        np.testing.assert_allclose(statistics.interquartile_mean(values), middle_of(values))
    assert statistics.interquartile_mean([[0.0, 1.0], [2.0, 99.0]], axis=None) == 1.5


def test_the_interval_is_that_of_resampled_seeds_and_the_same_each_time():
    values = np.random.default_rng(0).normal(size=(30, 3)) * [1.0, 10.0, 0.0]  # of few seeds intervals come in lumps
    low, high = statistics.bootstrap(statistics.interquartile_mean, values)
    rng = np.random.default_rng(1)
    drawn = [middle_of(values[rng.integers(30, size=30)]) for _ in range(2_000)]
    off = np.abs(np.array([low, high]) - np.percentile(drawn, [2.5, 97.5], axis=0))
    assert np.all(off <= 0.1 * values.std(axis=0))
    assert low[2] == high[2] == 0.0
    again = statistics.bootstrap(statistics.interquartile_mean, values)
    np.testing.assert_array_equal([low, high], again)
    one = statistics.bootstrap(statistics.interquartile_mean, values[:1])
    np.testing.assert_array_equal(one, [values[0], values[0]])


def test_seeds_of_one_group_are_never_drawn_for_those_of_another():
    low, high = statistics.bootstrap(lambda a, b: (b - a).mean(), np.zeros(3), np.array([1.0, 1.0, 2.0]))
    assert low == 1.0 and high == 2.0
