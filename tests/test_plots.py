"""Learning curves come out for one seed, many seeds, many runs, and next to nothing; their bands are SciPy's."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from branchax import cli
from branchax.config import to_dict, with_field
from branchax.presets import preset
from branchax.runs import comparing, plots, rundir, runlog, statistics
from experiments import harness, sample_efficiency

pytestmark = pytest.mark.drawn
MBPO = preset("mbpo", "classic/lqr")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (figures.append(self), save(self, path)))
    return figures


def make_run(directory, config=MBPO, seeds=(0,), epochs=4, model=True):
    directory.mkdir(parents=True)
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
    assert legend(drawn[0]) == ["bootstrap interval, too narrow for 3 seeds", "interquartile mean of 3 seeds"]
    assert len(drawn[0].axes) == 1
    lines = drawn[0].axes[0].lines
    assert len(lines) == 4
    assert lines[-1].get_ydata().tolist() == [2.0, 12.0, 32.0]


def test_runs_with_other_seeds_are_one_curve_and_with_other_settings_another(tmp_path, drawn):
    runs = [make_run(tmp_path / f"mbpo_s{s}_1", dataclasses.replace(MBPO, seed=s), seeds=(s,)) for s in (0, 1)]
    runs.append(make_run(tmp_path / "sac_s0_1", preset("sac", "classic/lqr"), model=False, epochs=3))
    plots.curve(runs, tmp_path / "curve.png")
    assert legend(drawn[0]) == ["mbpo: interquartile mean of 2 seeds", "sac: seed 0"]
    assert (
        drawn[0].axes[0].get_legend().get_title().get_text()
        == "bands: bootstrap interval, too narrow for 2 seeds, thin: each seed"
    )


def test_a_run_without_evaluations_draws_an_empty_plot(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a", epochs=0)], tmp_path / "curve.png")
    assert len(drawn) == 1


def test_over_seconds_seeds_are_read_off_at_the_same_times(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a", seeds=(0, 4), model=False)], tmp_path / "curve.png", seconds=True)
    assert drawn[0].axes[0].get_xlabel() == "seconds, with compilation"
    first, second, middle = (line.get_xydata() for line in drawn[0].axes[0].lines)
    # Seed 0 has return 10 epoch at 10 epoch seconds, seed 4 has 4 more 4 seconds later: the same line, each to its end.
    np.testing.assert_allclose(middle[:, 0], np.linspace(4, 34, 3))
    for line, end in ((first, 30), (second, 34), (middle, 34)):
        np.testing.assert_allclose(line[:, 1], np.where(line[:, 0] <= end, line[:, 0], np.nan))


def settings(config, **fields):
    for path, value in fields.items():
        config = with_field(config, path.replace("__", "."), value)
    return config


def test_legends_say_what_differs(tmp_path, drawn):
    sac = preset("sac", "classic/lqr")
    runs = [
        make_run(tmp_path / f"classic-lqr_sac_s0_{i}", settings(sac, agent__tau=tau), model=False)
        for i, tau in enumerate((0.005, 0.05), 1)
    ]
    plots.curve(runs, tmp_path / "a.png")
    assert legend(drawn[0]) == ["tau=0.005: seed 0", "tau=0.05: seed 0"]
    # Where more differs the directories say it, with what tells those of one name apart; `hidden` is there twice.
    runs.append(make_run(tmp_path / "classic-lqr_mbpo_s0_1", MBPO))
    hidden = settings(sac, agent__hidden=(8, 16), agent__learn_temperature=False)
    runs.append(make_run(tmp_path / "classic-lqr_sac_s0_3", hidden, model=False))
    plots.curve(runs, tmp_path / "b.png")
    mine = " ".join(map(str, sac.agent.hidden))
    assert legend(drawn[1]) == [
        f"classic-lqr_sac hidden={mine}, tau=0.005, learn_temperature=true: seed 0",
        f"classic-lqr_sac hidden={mine}, tau=0.05, learn_temperature=true: seed 0",
        "classic-lqr_mbpo: seed 0",
        "classic-lqr_sac hidden=8 16, tau=0.02, learn_temperature=false: seed 0",
    ]


def test_any_name_of_a_directory_is_shown(tmp_path, drawn):
    sac = preset("sac", "classic/lqr")
    for name in ("_tau05", "a$\\x$"):
        runs = [make_run(tmp_path / name / x, c) for x, c in ((name, MBPO), ("sac", sac))]
        plots.curve(runs, tmp_path / "a.png")
        assert legend(drawn[-1])[0].strip() == name.replace("$", r"\$") + ": seed 0"
        assert len(legend(drawn[-1])) == 2


def test_a_seed_counts_once_as_far_as_it_has_come(tmp_path, drawn):
    said = []
    runs = [make_run(tmp_path / f"a_s0_{i}", epochs=epochs, model=False) for i, epochs in enumerate((3, 5, 4), 1)]
    plots.curve([*runs, runs[1]], tmp_path / "a.png", say=said.append)
    assert legend(drawn[0])[-1] == "seed 0"
    assert drawn[0].axes[0].lines[-1].get_xdata().tolist() == [0, 250, 750, 1000]
    assert said[0] == f"seed 0 is there twice, in {runs[0]} and {runs[1]}: it counts once, as in {runs[1]}"
    assert said[1].endswith(f"it counts once, as in {runs[1]}") and len(said) == 3
    # Two more seeds, one of them in a longer run: one curve.
    longer = dataclasses.replace(MBPO, seed=1, env_steps=2 * MBPO.env_steps)
    more = [make_run(tmp_path / "b", longer, seeds=(1,)), make_run(tmp_path / "c", seeds=(2, 0))]
    plots.curve([*runs, *more], tmp_path / "b.png")
    assert legend(drawn[1])[-1].startswith("interquartile mean of 3 seeds")


def test_a_seed_that_ends_early_leaves_the_others_as_they_are(tmp_path, drawn):
    said = []
    runs = [
        make_run(tmp_path / f"s{s}", dataclasses.replace(MBPO, seed=s), seeds=(s,), epochs=epochs, model=False)
        for s, epochs in enumerate((4, 5, 1))
    ]
    plots.curve(runs, tmp_path / "a.png", say=said.append)
    assert said == [
        f"{runs[0]}: seed 0 ends after 750 steps, others of its curve after 1,000",
        f"{runs[2]}: seed 2 ends after 0 steps, others of its curve after 1,000",
    ]
    *thin, middle = (line.get_xydata() for line in drawn[0].axes[0].lines)
    assert middle[:, 0].tolist() == [0, 250, 750, 1000]
    np.testing.assert_allclose(middle[:, 1], [1.0, 10.5, 30.5, 41.0])
    np.testing.assert_array_equal(thin[2][:, 1], [2.0, np.nan, np.nan, np.nan])
    assert legend(drawn[0])[-1] == "interquartile mean of 3 seeds (1 to the end)"
    plots.curve(runs, tmp_path / "b.png", seconds=True)
    assert np.nanmax(drawn[1].axes[0].lines[-1].get_xdata()) == 41.0


def test_each_world_has_a_panel(tmp_path, drawn):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", preset("sac", "classic/pendulum"), model=False)]
    plots.curve(runs, tmp_path / "a.png")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["classic/lqr", "classic/pendulum", "", ""]
    assert [len(axes.lines) for axes in drawn[0].axes] == [1, 1, 1, 0]


def test_folders_mean_the_runs_in_them_and_what_is_none_is_left_out(tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    for name, seed in (("a_s0_1", 0), ("sweep_x/tau=0.1", 1), (".hidden/b", 2)):
        make_run(runs / name, dataclasses.replace(MBPO, seed=seed), seeds=(seed,))
    (runs / "plots").mkdir()
    (runs / "report.html").write_text("")
    rundir.write_json(runs / "old" / rundir.CONFIG, {"wrld": "classic/lqr"})
    (tmp_path / "link").symlink_to(runs / "a_s0_1")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plot", *map(str, sorted(runs.iterdir())), "link"]) == 0
    out, aside = capsys.readouterr()
    assert out.splitlines() == ["plots/learning_curve.png", "plots/learning_curve_seconds.png"]
    assert aside.count("left out: ") == 3 and "runs/plots holds no run" in aside and "runs/old: wrld: unknown" in aside
    found = comparing.runs_in([runs], lambda text: None)
    assert [str(run.relative_to(runs)) for run in found] == ["a_s0_1", "sweep_x/tau=0.1"]
    monkeypatch.chdir(runs)  # nothing that `*` finds is written among them
    before = sorted(runs.glob("[!.]*"))
    assert cli.main(["plot", "."]) == 0 and cli.main(["report", "a_s0_1", "sweep_x"]) == 0
    assert sorted(runs.glob("[!.]*")) == before
    assert cli.main(["plot", "plots"]) == 2
    assert "run: plots holds no run (config.json is missing)" in capsys.readouterr().err
    assert cli.main(["plot", ".", "--seed", "1"]) == 2


def test_sample_efficiency_counts_and_draws_the_best_arm_of_the_baseline(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(
        sample_efficiency, "WORLDS", {"classic/lqr": sample_efficiency.Task(25.0, 1_000, 250, discrete=True)}
    )
    solved = {
        "sac@10": {"0": 750.0, "1": None},
        "sac@20": {"0": 500.0, "1": 700.0, "2": 1.0},  # a seed that the others do not have
        "mbpo": {"0": 250.0, "1": 200.0},
    }
    counted = sample_efficiency.compare(solved, 1_000)
    assert counted["mean"] == {"sac@10": 875.0, "sac@20": 600.0, "mbpo": 225.0}
    ratio = counted["ratios"]["mbpo"]
    assert (ratio["of"], ratio["ratio"]) == ("sac@20", 0.375)
    assert ratio["interval"] == pytest.approx([200 / 700, 250 / 500], abs=0.01)  # of pairs, not of either alone
    found = {"classic/lqr": {"solved": 25.0, "steps": 1_000, **counted}}
    assert sample_efficiency.as_table(found).splitlines()[2] == (
        "| `classic/lqr` (25) | `sac@20` 600 ± 141 | 225 ± 35 | 0.38 [0.29, 0.50] | – | – |"
    )
    sample_efficiency.draw(found, tmp_path / "figure.png")
    (axes,) = drawn[0].axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [750, 1_000, 500, 700, 250, 200]
    assert [line.get_markerfacecolor() == "none" for line in dots] == [False, True, False, False, False, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sac@10", "sac@20", "mbpo"]


def test_seeds_of_an_earlier_file_count_unless_settings_have_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_efficiency, "RUNS", tmp_path)
    world, first = "classic/acrobot", sample_efficiency.FIRSTS[0]
    config = json.loads(json.dumps(to_dict(sample_efficiency.config_of("mbpo", world, first))))
    earlier = {"worlds": {world: {"solved_at": {"mbpo": {"100": 50.0}}}}, "configs": {f"{world} mbpo": config}}
    assert sample_efficiency.collect(world, earlier)[0]["mbpo"] == {"100": 50.0}
    earlier["configs"][f"{world} mbpo"] = config | {"seed": 105}
    assert sample_efficiency.collect(world, earlier)[0]["mbpo"] == {"100": 50.0}
    earlier["configs"][f"{world} mbpo"] = config | {"batch_size": 7}
    assert sample_efficiency.collect(world, earlier)[0]["mbpo"] == {}


def test_a_world_stays_published_while_a_method_of_it_is_missing(tmp_path, monkeypatch):
    for module in (sample_efficiency, harness):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(sample_efficiency, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(sample_efficiency, "FILE", tmp_path / "sample_efficiency.json")
    world, solved = "classic/pendulum", {"sac@10": {"0": 750.0, "1": 500.0}, "mbpo": {"0": 250.0, "1": 200.0}}
    kept = {"solved": -250.0, "steps": 1_000, **sample_efficiency.compare(solved, 1_000)}
    earlier = {"worlds": {world: kept}, "runs": {"a": {}}, "configs": {f"{world} mbpo": {"seed": 0}}}
    rundir.write_json(sample_efficiency.FILE, earlier)
    sample_efficiency.main(["--done"])
    written = json.loads(sample_efficiency.FILE.read_text())
    assert {name: written[name] for name in earlier} == earlier


def test_a_run_is_done_when_each_seed_has_solved_its_world_or_spent_its_budget(tmp_path, monkeypatch):
    task = sample_efficiency.WORLDS["classic/pendulum"]
    assert not sample_efficiency.is_done(tmp_path, task)
    monkeypatch.setattr(sample_efficiency, "curves", lambda _: {0: curve, 1: other})
    (tmp_path / rundir.METRICS).touch()
    good, bad = np.full(3, -200.0), np.full(3, -900.0)
    curve = other = (np.array([25.0, 50.0, 75.0]), good)
    assert sample_efficiency.is_done(tmp_path, task)
    assert sample_efficiency.solved_in(tmp_path, task.solved) == {"0": 25.0, "1": 25.0}
    other = (np.array([25.0, 50.0, 75.0]), bad)
    assert not sample_efficiency.is_done(tmp_path, task)
    other = (np.array([25.0, 50.0, 1_000.0]), bad)
    curve = (np.array([25.0, 50.0, 1_000.0]), good)
    assert sample_efficiency.is_done(tmp_path, task)
    assert sample_efficiency.solved_in(tmp_path, task.solved) == {"0": 25.0, "1": None}


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
    drawn = [middle_of(values[rng.integers(30, size=30)]) for _ in range(4_000)]
    shares = (1 + statistics.level(30)) / 2
    off = np.abs(np.array([low, high]) - np.quantile(drawn, [1 - shares, shares], axis=0))
    assert np.all(off <= 0.04 * values.std(axis=0))  # an interval of 90 % would be off by 0.06
    assert low[2] == high[2] == 0.0
    again = statistics.bootstrap(statistics.interquartile_mean, values)
    np.testing.assert_array_equal([low, high], again)
    one = statistics.bootstrap(statistics.interquartile_mean, values[:1])
    np.testing.assert_array_equal(one, [values[0], values[0]])


def test_seeds_of_one_group_are_never_drawn_for_those_of_another():
    low, high = statistics.bootstrap(lambda a, b: (b - a).mean(), np.zeros(3), np.array([1.0, 1.0, 2.0]))
    assert low == 1.0 and high == 2.0
    with pytest.raises(ValueError, match=r"groups of \[3, 1\] units"):
        statistics.bootstrap(lambda a, b: b.mean() - a.mean(), np.zeros(3), np.ones(1))
