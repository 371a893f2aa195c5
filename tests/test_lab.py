"""The gradient laboratory: measures of estimators whose moments are known, truths, refusals, files and the command."""

import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from test_cli import refuse

from branchax import cli
from branchax.config import ModelConfig
from branchax.gradients.base import EstimatorError
from branchax.gradients.pathwise import pathwise
from branchax.lab import cases, measure, report
from branchax.lab.measure import Draw, Level, Settings, Truth
from branchax.lab.options import ESTIMATORS, LabOptions, estimators_of, horizons_of
from branchax.worlds.lqr import double_integrator, lqr_gradient

FEW = Settings(samples=8, estimates=64, truth_seconds=60.0)
TINY = ModelConfig(members=2, elites=1, hidden=(16,), round_steps=20, max_rounds=3)
GAIN = jnp.array([[1.0, 1.5]])
CLOSED = Truth(np.array([3.0, 4.0]), 0.0, "closed form", 0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def mock(mean, std, samples, spoil=0.0):
    """An estimator whose `samples` samples are N(mean, diag(std^2)); a share `spoil` of its estimates is NaN."""

    def estimate(key, params):
        key, other = jax.random.split(key)
        g = mean + std * jax.random.normal(key, (samples, 2)).mean(0)
        return params + jnp.where(jax.random.uniform(other) < spoil, jnp.nan, g)

    return estimate


def drawn(estimator, settings, seed=0):
    params = jnp.zeros(2)
    return measure.draw(measure.compiled(estimator, params, settings), jax.random.key(seed), params, settings)


def stub(**values):
    return measure.Score(**{**dict.fromkeys(measure.Score._fields, 1.0), "biased": False, "estimates": 64, **values})


# --- measures ---------------------------------------------------------------------------------------------------------


def test_moments_of_an_estimator_that_is_known():
    settings = FEW._replace(estimates=4096, chunk=512)
    found = drawn(mock(CLOSED.gradient, np.array([1.0, 2.0]), 8), settings)
    s = measure.score(found, CLOSED, 8)
    assert found.estimates.dtype == np.float64
    assert s.variance == pytest.approx(5.0, rel=0.1)  # 1 + 4, of a sample
    assert s.snr == pytest.approx(25 / (5 / 8), rel=0.1)
    assert s.bias_error == pytest.approx(np.sqrt(5 / 8 / 4096), rel=0.1)
    assert s.bias < 3 * s.bias_error
    assert not s.biased
    assert (s.nonfinite, s.estimates) == (0.0, 4096)
    assert s.tail < 0.01
    assert s.seconds_to_target == pytest.approx(s.seconds * s.variance / 8 / 0.5**2)
    # To the second order in the noise: 1 - (variance across the truth) / (2 |truth|^2), which is along (-4, 3) / 5.
    assert s.cosine == pytest.approx(1 - (16 * 1 + 9 * 4) / 25 / 8 / 2 / 25, abs=0.002)
    assert s.cosine_of_mean > 0.9999


def test_numbers_worked_out_by_hand():
    s = measure.score(Draw(np.array([[3.0, 4.0], [5.0, 4.0]]), 2.0), CLOSED, 10)
    assert s.variance == 20.0
    assert s.bias == 1.0
    assert s.bias_error == 1.0
    assert s.bias_relative == 0.2
    assert s.snr == 12.5
    assert s.seconds_to_target == pytest.approx(2 * 2 / 0.5**2)
    assert s.cosine == pytest.approx((1 + 31 / 5 / np.sqrt(41)) / 2)
    assert s.tail == 0.5


def test_a_bias_is_found_and_never_paid_off_by_more_samples():
    far = drawn(mock(CLOSED.gradient + np.array([0.6, 0.0]), np.ones(2), 8), FEW)
    s = measure.score(far, CLOSED, 8)
    assert s.biased
    assert s.bias_relative == pytest.approx(0.12, abs=0.04)
    assert s.seconds_to_target == np.inf
    small = measure.score(drawn(mock(CLOSED.gradient + np.array([0.4, 0.0]), 0.1 * np.ones(2), 8), FEW), CLOSED, 8)
    assert small.biased
    assert np.isfinite(small.seconds_to_target)  # 8 % is within 10 %
    loose = Truth(CLOSED.gradient, 0.5, "mock", 100)  # a truth that is itself uncertain
    assert not measure.score(far, loose, 8).biased


def test_estimates_that_are_not_finite_are_counted_and_left_out():
    found = drawn(mock(CLOSED.gradient, np.ones(2), 8, spoil=0.25), FEW._replace(estimates=512))
    s = measure.score(found, CLOSED, 8)
    assert s.nonfinite == np.isnan(found.estimates).any(1).mean()
    assert 0.15 < s.nonfinite < 0.35
    assert s.variance == pytest.approx(2.0, rel=0.2)
    none = measure.score(drawn(mock(CLOSED.gradient, np.ones(2), 8, spoil=1.1), FEW), CLOSED, 8)
    assert none.nonfinite == 1.0
    assert np.isnan(none.variance)
    assert none.seconds_to_target == np.inf


def test_an_unknown_truth_leaves_bias_and_direction_unknown():
    vague = Truth(np.array([3.0, 4.0]), 3.0, "mock", 100)
    assert vague.norm == 4.0  # without the noise's share
    assert not vague.known
    s = measure.score(drawn(mock(CLOSED.gradient, np.ones(2), 8), FEW), vague, 8)
    assert all(np.isnan(x) for x in (s.bias, s.bias_relative, s.cosine, s.snr, s.seconds_to_target))
    assert s.variance == pytest.approx(2.0, rel=0.5)
    assert not s.biased


def test_what_takes_too_long_is_not_drawn():
    assert drawn(mock(CLOSED.gradient, np.ones(2), 8), FEW._replace(limit_seconds=1e-9)) > 0


def test_crossings():
    def level(horizon, first, second):
        return Level(horizon, CLOSED, {"a": stub(variance=first), "b": stub(variance=second)}, {}, 0.0, 0.0)

    levels = [level(1, 1.0, 100.0), level(10, 10.0, 1000.0), level(100, 1e4, 1e2)]
    assert measure.crossing(levels, "a", "b") == pytest.approx(10**1.5)
    assert measure.crossing(levels, "b", "a") is None
    assert measure.crossing(levels, "a", "c") is None


# --- truths -----------------------------------------------------------------------------------------------------------


def test_the_truth_on_lqr_is_the_closed_form_and_exact_critics_are_unbiased():
    case = cases.lqr_case(double_integrator(), GAIN)
    names = ("pathwise", "pathwise_window", "pathwise_critic", "deterministic", "likelihood_gae")
    makers, refused = cases.possible(case, names, 8)
    assert not refused
    makers["pathwise_off"] = lambda p, n: lambda key, theta: 1.3 * pathwise(p, n)(key, theta)
    (level,) = measure.survey(case.problem, case.params, makers, (12,), FEW, exact=case.exact)
    assert level.truth.source == "closed form"
    expected = lqr_gradient(double_integrator(), GAIN, 12, policy_std=0.3)
    np.testing.assert_allclose(level.truth.gradient, np.ravel(expected), rtol=1e-5)
    assert {name for name, s in level.scores.items() if s.biased} == {"pathwise_window", "pathwise_off"}
    # Early forces are cut off from most of what they cause.
    assert level.scores["pathwise_window"].bias_relative > 0.5
    assert level.scores["pathwise"].cosine > 0.8


@pytest.mark.slow
def test_a_sampled_truth_is_the_closed_form_within_its_error():
    case = cases.lqr_case(double_integrator(), GAIN)
    problem = case.problem._replace(horizon=3)
    programs = {
        name: measure.compiled(make(problem, 8), case.params, FEW) for name, make in cases.references(case, 8).items()
    }
    assert list(programs) == ["pathwise", "likelihood_baseline"]
    truth = measure.sampled_truth(programs, jax.random.key(1), case.params, FEW._replace(truth_error=0.01))
    assert truth.source == "pathwise"  # the smoother one here
    assert truth.relative_error <= 0.01
    assert np.linalg.norm(truth.gradient - np.ravel(case.exact(3))) < 3 * truth.error
    assert truth.known
    # When they contradict each other, the last one is believed.
    liar = {"pathwise": lambda keys, theta: 0.5 * programs["pathwise"](keys, theta), "trusted": programs["pathwise"]}
    truth = measure.sampled_truth(liar, jax.random.key(1), case.params, FEW._replace(truth_error=0.01))
    assert truth.source == "trusted"
    assert "pathwise and trusted differ" in truth.note
    assert np.linalg.norm(truth.gradient - np.ravel(case.exact(3))) < 3 * truth.error


def test_the_oracle_on_lqr_starts_at_replayed_states_and_no_clock_cuts_it():
    case = cases.lqr_case(double_integrator(), GAIN, "oracle", steps=500)
    start = case.problem.start(jax.random.key(0), 1000)
    assert start.time.max() > 10  # in the middle of episodes of 100 steps
    makers, _ = cases.possible(case, ("pathwise",), 8)
    (level,) = measure.survey(case.problem, case.params, makers, (150,), FEW, exact=case.exact)
    s = level.scores["pathwise"]
    assert not s.biased
    assert s.bias_error < 0.2 * level.truth.norm


@pytest.mark.slow
def test_learned_and_oracle_differ_by_the_model_alone():
    learned, oracle = (cases.make_case("classic/pendulum", d, steps=200, model=TINY) for d in ("learned", "oracle"))
    key = jax.random.key(0)
    np.testing.assert_array_equal(learned.problem.start(key, 50).obs, oracle.problem.start(key, 50).obs)
    for ours, theirs in zip(jax.tree.leaves(learned.params), jax.tree.leaves(oracle.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert learned.exact is None
    assert learned.about["real_steps"] == oracle.about["real_steps"] == 200
    assert learned.about["model"]["holdout_error"] > 0
    # The policy sees what it does: its mean differs from state to state by more than its noise.
    obs = oracle.problem.start(key, 50).obs
    assert oracle.problem.policy.mode(oracle.params, obs).std() > 0.3


def test_where_episodes_end_the_derivative_is_no_reference():
    assert list(cases.references(cases.make_case("classic/cartpole"), 8)) == ["likelihood_baseline"]
    with pytest.raises(EstimatorError, match="truth needs an unbiased estimator"):
        case = cases.make_case("classic/cartpole", policy_std=0.0)
        measure.survey(case.problem, case.params, {}, (2,), FEW, references=cases.references(case, 8))


def test_recomputing_needs_less_memory():
    case = cases.make_case("classic/point_mass")
    (found,) = measure.memory(case.problem, case.params, (50,), samples=16)
    assert found["horizon"] == 50
    assert 0 < found["remat"] < found["plain"]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def levels():
    unknown = Truth(np.array([1.0, np.nan]), np.inf, "none", 5, "a note")
    never = stub(seconds_to_target=np.inf, nonfinite=0.5, cosine=np.nan, variance=1e9)
    return [
        Level(1, CLOSED, {"pathwise": stub(), "likelihood_baseline": stub(variance=100.0)}, {}, 1.5, 0.5),
        Level(10, CLOSED, {"pathwise": never, "likelihood_baseline": stub(biased=True)}, {}, 1.5, 0.5),
        Level(20, unknown, {"pathwise": stub(bias=np.nan), "mine": never}, {"likelihood_baseline": "slow"}, 1.5, 0.5),
    ]


def test_the_file_comes_back_as_it_was(levels, tmp_path):
    report.write(tmp_path / "a.json", levels, {"case": {"world": "classic/lqr"}, "seconds": 3.0})
    text = (tmp_path / "a.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    back, facts = report.read(tmp_path / "a.json")
    assert facts == {"case": {"world": "classic/lqr"}, "seconds": 3.0}
    for old, new in zip(levels, back, strict=True):
        np.testing.assert_array_equal(old.truth.gradient, new.truth.gradient)
        assert repr(old._replace(truth=old.truth._replace(gradient=0))) == repr(
            new._replace(truth=new.truth._replace(gradient=0))
        )


def test_the_figure_and_the_table_show_every_estimator(levels, tmp_path):
    report.draw(tmp_path / "sub" / "a.png", levels, "a title")
    assert (tmp_path / "sub" / "a.png").stat().st_size > 20_000
    console = Console(width=80, record=True, file=io.StringIO())
    for level in levels:
        console.print(report.table(level))
    text = console.export_text()
    assert "never (50% not finite)" in text
    assert "! " in text
    assert "?" in text
    assert "mine" in text
    assert report.heading(levels[0]) == "horizon 1   |truth| 5, in closed form"
    assert report.heading(levels[2]).startswith("horizon 20   truth unknown after 5 samples of none")
    assert report.heading(levels[2]).endswith("; a note")
    assert "up to a horizon of about 2" in report.summary(levels[:2])[0]
    assert set(report.LOOKS) == set(ESTIMATORS)
    assert (report.number(15_800.0), report.number(0.25), report.number(3e-5)) == ("1.6e4", "0.25", "3e-5")


# --- the command ------------------------------------------------------------------------------------------------------


def test_options_are_read():
    assert horizons_of(LabOptions(horizons="10, 1,5,5")) == (1, 5, 10)
    assert estimators_of(LabOptions(estimators="total_propagation,pathwise")) == ("pathwise", "total_propagation")
    assert set(cases.makers(cases.lqr_case(double_integrator(), GAIN))) == set(ESTIMATORS)


LAB = ["lab", "gradients", "--world", "classic/pendulum"]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["lab"], ["lab: say what to measure: branchax lab gradients"]),
        (["lab", "gradient"], ["lab: 'gradient' is unknown (did you mean gradients?)"]),
        ([*LAB[:3], "classic/pendulm"], ["world: 'classic/pendulm' is unknown (did you mean classic/pendulum"]),
        ([*LAB, "--estimators", "pathwize"], ["estimators: 'pathwize' is unknown (did you mean pathwise"]),
        ([*LAB, "--estimators", ","], ["estimators: none is given"]),
        ([*LAB, "--horizons", "1,two"], ["horizons: 'two' is not possible; allowed: whole numbers from 1 to 100000"]),
        ([*LAB, "--horizons", "0"], ["horizons: '0' is not possible"]),
        ([*LAB, "--horizons", ""], ["horizons: none is given"]),
        ([*LAB, "--dynamics", "imagined"], ["--dynamics", "known", "oracle", "learned"]),
        ([*LAB, "--samples", "1"], ["samples: 1 is not possible; allowed: >= 2"]),
        ([*LAB, "--discount", "1.5"], ["discount: 1.5 is not possible; allowed: > 0 and <= 1"]),
        ([*LAB, "--out", "/proc/nowhere"], ["out: cannot write to /proc/nowhere"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_refuses(argv, parts, capsys, here, tmp_path):
    refuse(capsys, argv, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (
            ["--estimators", "pathwise_critic"],
            ["estimators: pathwise_critic: critic on classic/pendulum (known): only classic/lqr", "pathwise, "],
        ),
        (
            ["--policy-std", "0", "--estimators", "pathwise,likelihood_baseline"],
            ["likelihood ratio on classic/pendulum: the policy is deterministic", "finite differences"],
        ),
    ],
)
def test_refuses_what_the_world_cannot_give(argv, parts, capsys, here, tmp_path):
    refuse(capsys, [*LAB, *argv], *parts)
    assert not list(tmp_path.iterdir())


def test_refuses_a_directory_in_use(capsys, here, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refuse(capsys, [*LAB, "--out", "mine"], "out: mine is not empty; name another directory")
    refuse(capsys, [*LAB, "--out", "mine/notes.txt"], "out: mine/notes.txt is not a directory")


@pytest.mark.slow
def test_pathwise_is_left_out_where_the_world_has_no_derivative(capsys, here, tmp_path, monkeypatch):
    real = cases.make_case

    def blocked(*args, **kwargs):
        case = real(*args, **kwargs)
        world = case.problem.world
        spec = world.spec._replace(differentiable=False)
        return case._replace(problem=case.problem._replace(world=world._replace(spec=spec)), exact=None)

    monkeypatch.setattr(cases, "make_case", blocked)
    refuse(capsys, ["lab", "gradients", "--world", "classic/lqr", "--estimators", "total_propagation"], "possible here")
    assert not list(tmp_path.iterdir())
    argv = ["lab", "gradients", "--world", "classic/lqr", "--estimators", "all", "--horizons", "1", "--samples", "4"]
    assert cli.main([*argv, "--estimates", "8", "--truth-seconds", "0.1", "--out", "out"]) == 0
    output = capsys.readouterr().out
    assert (
        "left out: pathwise, pathwise_window, pathwise_critic, inverse_variance, total_propagation: pathwise on"
        in output
    )
    rows = json.loads((tmp_path / "out" / "gradients.json").read_text())
    assert "pathwise" in rows["refused"]
    assert {"likelihood_baseline", "evolution_strategies"} <= set(rows["levels"][0]["estimators"])


@pytest.mark.slow
def test_the_command_from_end_to_end(capsys, here, tmp_path):
    argv = ["lab", "gradients", "--world", "classic/lqr", "--horizons", "1,3", "--samples", "8", "--estimates", "16"]
    assert cli.main([*argv, "--estimators", "pathwise,likelihood_baseline,total_propagation"]) == 0
    output = capsys.readouterr().out
    directory = tmp_path / "runs" / "lab-gradients_classic-lqr_known_1"
    for part in ("horizon 3   |truth|", "total_propagation", "s in total", "gradients.png"):
        assert part in output
    assert (directory / "gradients.png").stat().st_size > 20_000
    levels, facts = report.read(directory / "gradients.json")
    assert [level.horizon for level in levels] == [1, 3]
    assert all(level.truth.source == "closed form" for level in levels)
    assert facts["made"]["command"].startswith("branchax lab gradients --world classic/lqr")
    assert facts["case"]["gain"][0][0] > 0
    assert levels[1].scores["pathwise"].variance < levels[1].scores["likelihood_baseline"].variance


def test_ctrl_c_keeps_what_is_done(capsys, here, monkeypatch):
    from branchax.lab import run

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "gradients", interrupt)
    assert cli.main([*LAB, "--out", "out"]) == 130
    assert "interrupted; out has the horizons that were done" in capsys.readouterr().err
    assert not Path("out").exists()
