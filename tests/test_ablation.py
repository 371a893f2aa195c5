"""The double horizon, piece by piece: what is run, compared, drawn, and what goes on after an interruption."""

import json
import shutil

import pytest

from branchax import checks
from branchax.config import to_dict
from branchax.runs import plots, rundir, runlog
from experiments import ablation
from experiments.ablation import ARMS, BASE, WORLDS, Plan

PENDULUM, CARTPOLE = WORLDS


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory as the working directory, in which runs end as soon as they begin."""
    monkeypatch.chdir(tmp_path)
    ran = []

    def train(config, directory):
        ran.append((directory.name, config))
        make_run(config, directory, [10 * len(ran)] * config.seeds)

    monkeypatch.setattr(ablation, "train", train)
    return ran


def make_run(config, directory, returns, reached=None):
    """A run's directory with two evaluations of each seed: half of its `returns`, then the whole."""
    rundir.write_json(directory / rundir.CONFIG, to_dict(config))
    rundir.write_json(directory / rundir.ENVIRONMENT, {"commit": "abc", "device": "cpu: cpu"})
    last = reached or config.env_steps
    rows = [
        {"seed": config.seed + i, "env_steps": at, "wall_s": 1.0, runlog.RETURN: each * share}
        for at, share in ((last // 2, 0.5), (last, 1.0))
        for i, each in enumerate(returns)
    ]
    (directory / rundir.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_run_that_is_possible(world, arm):
    config = Plan().config(world, arm)
    checks.check(config)
    assert (config.seed, config.seeds, config.env_steps) == (100, 5, WORLDS[world].steps)
    assert (config == Plan().config(world, BASE)) == (arm == BASE)


def test_a_trial_runs_all_arms_in_order_and_then_nothing_more(here, monkeypatch):
    few = {arm: ARMS[arm] for arm in (BASE, "no_spread", "relu")}  # a figure is drawn after each, which takes a while
    monkeypatch.setattr(ablation, "ARMS", few)
    flags = ["--steps", "300", "--seeds", "2"]
    assert ablation.main(flags) == 0
    assert [name for name, _ in here] == [f"{w.replace('/', '-')}_{arm}" for w in WORLDS for arm in few]
    assert {(config.env_steps, config.seeds) for _, config in here} == {(300, 2)}
    plan = Plan(300, 2)
    data = json.loads((plan.results / "ablation.json").read_text())
    (area, *_), count = data["worlds"][PENDULUM]["arms"]["relu"]["area_difference"], len(here)
    place = list(few).index("relu")
    assert area == 7.5 * place and list(data["worlds"][CARTPOLE]["arms"]) == list(few)
    assert data["made"]["command"] == "python -m experiments.ablation" and len(data["runs"]) == count
    assert data["configs"][f"{PENDULUM} relu"]["agent"]["activation"] == "relu"
    assert (
        "| `relu` | ReLU instead of SiLU in actor and critics | 22 ± 0 | +15 [+15, +15] |"
        in (plan.results / "ablation.md").read_text()
    )
    assert (plan.results / "ablation.png").stat().st_size > 10_000 and not ablation.RESULTS.exists()
    assert ablation.main(flags) == 0 and ablation.main([*flags, "--draw"]) == 0 and len(here) == count


def test_what_is_run_again_leaves_the_other_results(here, monkeypatch):
    monkeypatch.setattr(ablation, "ARMS", {arm: ARMS[arm] for arm in (BASE, "no_spread", "relu")})
    monkeypatch.setattr(ablation, "WORLDS", {PENDULUM: WORLDS[PENDULUM]})
    monkeypatch.setattr(ablation, "draw", lambda worlds, path: None)
    ablation.RESULTS.mkdir()
    assert ablation.main([]) == 0 and len(here) == 3
    shutil.rmtree(ablation.RUNS)
    assert ablation.main([]) == 0 and len(here) == 3
    for count, arm in ((4, BASE), (5, "relu")):
        assert ablation.main(["--again", "--arm", arm]) == 0 and len(here) == count
    arms = json.loads((ablation.RESULTS / "ablation.json").read_text())["worlds"][PENDULUM]["arms"]
    assert list(arms) == [BASE, "no_spread", "relu"] and arms["relu"]["area_mean"] == 37.5


def test_an_arm_is_run_again_where_it_was_cut_off_or_has_other_settings(here):
    plan = Plan(300, 2)
    for arm in (BASE, "relu"):
        assert ablation.main(["--steps", "300", "--seeds", "2", "--arm", arm]) == 0
    assert [name for name, _ in here] == [
        f"classic-{w}_{arm}" for arm in (BASE, "relu") for w in ("pendulum", "cartpole")
    ]
    config = plan.config(PENDULUM, "relu")
    make_run(config, plan.directory(PENDULUM, "relu"), [1.0, 1.0], reached=250)
    assert plan.figures(PENDULUM, "relu") is None
    make_run(plan.config(PENDULUM, BASE), plan.directory(PENDULUM, "relu"), [1.0, 1.0])
    assert plan.figures(PENDULUM, "relu") is None
    make_run(config, plan.directory(PENDULUM, "relu"), [1.0, 1.0])
    assert plan.figures(PENDULUM, "relu")["area"] == {"100": 0.75, "101": 0.75}


def test_what_was_published_counts_where_settings_are_today_s(here):
    plan = Plan()
    figures = {"area": {"100": 1.0}, "solved_at": {"100": None}}
    config = json.loads(json.dumps(to_dict(plan.config(PENDULUM, "relu"))))
    there = {"steps": WORLDS[PENDULUM].steps, "arms": {"relu": figures}}
    earlier = {"worlds": {PENDULUM: there}, "configs": {f"{PENDULUM} relu": config}}
    assert plan.known(PENDULUM, "relu", earlier) == figures and plan.known(PENDULUM, "raw", earlier) is None
    assert plan.known(PENDULUM, "relu", {**earlier, "worlds": {PENDULUM: {**there, "steps": 7}}}) is None
    config["batch_size"] = 7
    assert plan.known(PENDULUM, "relu", earlier) is None


def test_differences_are_of_the_same_seeds():
    base = {"area": {"100": 0.0, "101": 100.0, "102": 7.0}, "solved_at": {"100": 200.0, "101": None, "102": 1.0}}
    mine = {"area": {"101": 90.0, "100": -10.0}, "solved_at": {"101": 600.0, "100": 100.0}}
    found = ablation.compare(mine, base, 1_000)
    assert found["area_difference"] == [-10.0, -10.0, -10.0]  # of pairs: seeds differ by 100
    assert found["solved_at_difference"] == [-250.0, -400.0, -100.0]  # one that is never solved has the budget
    assert (found["area_mean"], found["solved_at_mean"]) == (40.0, 350.0)


def test_the_figure_is_bold_where_an_interval_leaves_out_no_difference(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    arms = {
        BASE: {"area_difference": [0.0] * 3, "solved_at_difference": [0.0] * 3},
        "relu": {"area_difference": [-5.0, -9.0, -1.0], "solved_at_difference": [-5.0, -9.0, -1.0]},
        "raw": {"area_difference": [5.0, -1.0, 9.0], "solved_at_difference": [5.0, -1.0, 9.0]},
    }
    ablation.draw({PENDULUM: {"arms": arms}}, tmp_path / "figure.png")
    area, steps = drawn[0].axes
    assert [label.get_text() for label in area.get_yticklabels()] == ["raw", "relu"]
    bars = [[line for line in axes.lines if len(line.get_xdata()) == 2][:2] for axes in (area, steps)]
    assert [[line.get_linewidth() for line in each] for each in bars] == [[1.2, 2.5], [1.2, 2.5]]
    worse, better = bars[0][1].get_color(), bars[1][1].get_color()
    assert worse == plots.COLOURS[1] and better == plots.COLOURS[2]  # fewer steps are better, less area is not


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arm", "rlu"], "arm: 'rlu' is unknown (did you mean relu?)"),
        (["--seeds", "2"], "seeds: 2 is not possible without --steps; allowed: 5"),
        (["--stpes", "2"], "did you mean --steps"),
    ],
)
def test_what_is_not_possible_is_named(here, capsys, flags, message):
    assert ablation.main(flags) == 2 and message in capsys.readouterr().err


def test_nothing_is_written_before_there_is_a_pair_to_compare(here, capsys):
    assert ablation.main(["--draw"]) == 0 and "the preset and another arm" in capsys.readouterr().out
    assert not ablation.RESULTS.exists() and not here
