"""Learning curves come out for one seed, many seeds, many runs, and next to nothing."""

import pytest
from matplotlib.figure import Figure

from branchax.config import to_dict
from branchax.host import plots, rundir, runlog
from branchax.presets import preset

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
            row = {"seed": seed, "epoch": epoch, "env_steps": 250 * epoch}
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


def test_many_seeds_have_a_mean_a_band_and_a_line_each(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a", seeds=(0, 1, 5), model=False)], tmp_path / "curve.png")
    assert legend(drawn[0]) == ["lowest to highest seed", "mean of 3 seeds"]
    assert len(drawn[0].axes) == 1
    lines = drawn[0].axes[0].lines
    assert len(lines) == 4
    assert lines[-1].get_ydata().tolist() == [2.0, 12.0, 32.0]


def test_runs_with_other_seeds_are_one_curve_and_with_other_settings_another(tmp_path, drawn):
    import dataclasses

    runs = [make_run(tmp_path / f"mbpo_s{s}_1", dataclasses.replace(MBPO, seed=s), seeds=(s,)) for s in (0, 1)]
    runs.append(make_run(tmp_path / "sac_s0_1", preset("sac", "classic/lqr"), model=False, epochs=3))
    plots.curve(runs, tmp_path / "curve.png")
    assert legend(drawn[0]) == ["mbpo: mean of 2 seeds", "sac: seed 0"]
    assert drawn[0].axes[0].get_legend().get_title().get_text() == "bands: lowest to highest seed"


def test_a_run_without_evaluations_draws_an_empty_plot(tmp_path, drawn):
    plots.curve([make_run(tmp_path / "a", epochs=0)], tmp_path / "curve.png")
    assert len(drawn) == 1
