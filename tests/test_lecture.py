"""The lecture's claims: the exact chain, verdicts, the distance of samples, and a page that says what is missing."""

import importlib
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from branchax.runs import rundir, runlog, statistics
from experiments import coverage, harness
from experiments.lecture import claim, cliff, compute, data, figures, mismatch, oracle, page, versions
from experiments.lecture.claim import FAILS, HOLDS, NOT_RUN, TOO_FEW, UNDECIDED, Arms, Measured, Work, verdict
from experiments.lecture.predictions import CLAIMS, DEVELOPMENT, LEAST, REPORTED, Prediction

ROOT = Path(__file__).parents[1]

# --- the road beside a cliff ---


@pytest.mark.parametrize("eps", [1e-4, 0.01, 0.3])
def test_the_road_costs_what_its_closed_form_says(eps):
    for steps in (1, 7, 100):
        falls = [1 - (1 - eps) ** t for t in range(1, steps + 1)]
        assert abs(cliff.by_programming(eps, steps) - cliff.closed_form(eps, steps)) < 1e-6
        np.testing.assert_allclose(cliff.closed_form(eps, steps), math.fsum(falls), atol=1e-9)
        assert cliff.closed_form(eps, steps) <= cliff.bound(eps, steps) * (1 + 1e-12)


def test_the_road_agrees_with_walkers_who_fall():
    eps, steps, walkers = 0.02, 60, 200_000
    fell = np.random.default_rng(0).geometric(eps, walkers)  # the step at which a walker falls
    costs = np.maximum(steps - fell + 1, 0)
    error = costs.std() / math.sqrt(walkers)
    assert abs(costs.mean() - cliff.by_programming(eps, steps)) < 4 * error


def test_the_bound_is_tight_as_the_error_vanishes_to_the_order_that_is_claimed():
    steps = 50
    for eps in (1e-3, 1e-4, 1e-5):
        gap = 1 - cliff.by_programming(eps, steps) / cliff.bound(eps, steps)
        np.testing.assert_allclose(gap, eps * (steps - 1) / 3, rtol=steps * eps)


def test_branching_makes_the_cost_linear_in_the_horizon():
    eps, branch = 0.01, 5
    for steps in (5, 50, 100):
        expected = steps / branch * cliff.closed_form(eps, branch)
        np.testing.assert_allclose(cliff.by_programming(eps, steps, branch), expected, atol=1e-9)
        assert expected <= eps * steps * (branch + 1) / 2


# --- verdicts ---


@pytest.mark.parametrize(
    ("at_least", "measured", "expected"),
    [
        (True, (3, 2, 4), HOLDS),
        (True, (3, 1.9, 4), UNDECIDED),
        (True, (1, 0, 1.9), FAILS),
        (False, (1, 0, 2), HOLDS),
        (False, (1, 0, 2.1), UNDECIDED),
        (False, (3, 2.1, 4), FAILS),
        (True, (math.nan, 3, 4), UNDECIDED),
        (True, (3, 3, math.inf), UNDECIDED),
        (True, (3, 2, 4, LEAST), HOLDS),
        (True, (3, 2, 4, LEAST - 1), TOO_FEW),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_number_of_seeds(at_least, measured, expected):
    assert verdict(Prediction("", 2.0, at_least), Measured(*measured)) == expected
    assert verdict(Prediction("", 2.0, at_least), None) == NOT_RUN


@pytest.mark.parametrize("shape", coverage.SHAPES)
@pytest.mark.parametrize("pairs", [False, True])
def test_a_verdict_at_the_threshold_is_rarely_wrong_with_as_few_seeds_as_give_one(shape, pairs):
    """Both sides together: 5 in 100 by name, 8 measured. The mean of a lognormal is the exception: no interval of ten
    seeds has its tail, and 15 in 100 are wrong; of differences of pairs, whose tails are alike, 6."""
    draw, rng = coverage.SHAPES[shape], np.random.default_rng(0)
    middle = draw(np.random.default_rng(1), (1_000_000,)).mean()
    values = draw(rng, (LEAST, 2_000)) - (draw(rng, (LEAST, 2_000)) if pairs else middle)
    low, high = statistics.bootstrap(np.mean, values)
    wrong = float(((low >= 0) | (high < 0)).mean())
    assert wrong < (0.16 if shape == "skewed" and not pairs else 0.085), wrong


def test_the_published_simulation_says_the_same_of_the_interquartile_mean():
    rows = json.loads((harness.RESULTS / "coverage.json").read_text())["rows"]
    found = [r["covered"] for r in rows if r["interval"] == "expanded" and r["seeds"] >= 8]
    assert len(found) == 6 and min(found) > 0.93


def test_the_simulation_says_so_again_in_short():
    rows = {(r["shape"], r["seeds"], r["interval"]): r for r in coverage.measure(trials=200, draws=16_000, seeds=(5,))}
    covered = [[rows[shape, 5, kind]["covered"] for kind in ("percentile", "expanded")] for shape in coverage.SHAPES]
    assert all(0.75 < plain < wider < 0.97 for plain, wider in covered), covered


def test_the_quantiles_are_those_of_students_t():
    from scipy import stats

    edge = stats.norm.cdf(-math.sqrt(8 / 7) * stats.t.ppf(0.975, 7))
    np.testing.assert_allclose(statistics.level(8), 1 - 2 * edge)
    assert 0.95 < statistics.level(1_000) < 0.951


def test_differences_and_ratios_are_of_pairs():
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 100, 12)
    found = claim.gap((seeds + 3 + rng.normal(0, 0.1, 12), seeds[:10]))
    assert found.units == 10 and 2.8 < found.low < found.value < found.high < 3.2
    scale = np.exp(seeds / 100)
    again = claim.times((2 * scale, scale), (8 * scale, scale))
    np.testing.assert_allclose(again[:3], 4)


def test_the_band_of_curves_is_around_their_mean():
    curves = np.random.default_rng(0).normal(size=(400, 3)) + [0, 10, 20]
    band = claim.band(curves)
    np.testing.assert_allclose(band["centre"], curves.mean(0))
    width = np.subtract(band["high"], band["low"])
    np.testing.assert_allclose(width, 2 * 1.96 / 20, rtol=0.3)


# --- the claims ---


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_says_what_it_predicts_and_reports_other_seeds_than_it_was_developed_on(name):
    module, said = importlib.import_module(f"experiments.lecture.{name}"), CLAIMS[name]
    assert said.name == name and said.predictions and said.intervals
    for prediction in said.predictions.values():
        assert math.isfinite(prediction.threshold) and any(c.isdigit() for c in prediction.words)
    for full in (False, True):
        work = module.measure(full)  # which runs nothing yet
        assert work.measured.keys() == said.predictions.keys()
        first = REPORTED if full else DEVELOPMENT
        for config in work.arms.configs.values() if work.arms else ():
            assert config.seed == first and config.seeds >= (LEAST if full else 2)
    assert DEVELOPMENT + 100 <= REPORTED


def test_the_share_of_predictions_that_could_hardly_have_failed():
    every = [p for one in CLAIMS.values() for p in one.predictions.values()]
    assert len(every) == 53 and sum(bool(p.sure) for p in every) == 13


def test_a_run_is_made_once_and_only_when_it_is_asked_for(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(harness, "run", lambda config, name: made.append(name) or tmp_path)
    arms = Arms({"a b": ("one", None), "c": ("two", None)})
    assert not made and arms["a b"] == arms["a b"] == tmp_path
    assert made == ["one"] and arms.configs.keys() == {"a b", "c"}


@pytest.mark.parametrize("other", [oracle, data, compute])
def test_a_run_that_is_equal_to_one_of_versions_is_that_run(other):
    first, second = (one.measure(True).arms.arms for one in (versions, other))
    equal = [arm for arm in second.values() if arm[1] in [config for _, config in first.values()]]
    assert equal and all(arm in first.values() for arm in equal)


def trained(config, name):
    """A directory as a run would leave it, with returns that rise."""
    where = harness.RUNS / name
    where.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(len(name)), []
    for epoch, steps in enumerate(range(config.explore_steps, config.env_steps + 1, config.epoch_steps)):
        for seed in range(config.seed, config.seed + config.seeds):
            row = {"seed": seed, "epoch": epoch, "env_steps": steps, "wall_s": 1.0, "model_steps": steps, "updates": 1}
            rows.append({**row, runlog.RETURN: -900 + steps + rng.normal()})
    (where / rundir.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (where / rundir.ENVIRONMENT).write_text("{}")
    return where


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """All that takes time, replaced; the working directory is empty."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(statistics, "RESAMPLES", 60)
    monkeypatch.setattr(harness, "run", trained)
    modules = {name: importlib.import_module(f"experiments.lecture.{name}") for name in CLAIMS}
    looked = lambda where: [{"late": np.arange(3), "imagined": {1, 2}, "error": rng.uniform(1, 2)}] * 2  # noqa: E731
    monkeypatch.setattr(modules["horizon"], "looked_at", looked)
    kinds = ("latest", "data", "apart", "floor")
    monkeypatch.setattr(modules["mismatch"], "distances", lambda _: [dict.fromkeys(kinds, rng.uniform())] * 2)
    grown = lambda *_: {kind: rng.normal(size=(4, 200)) for kind in ("world", "model")}  # noqa: E731
    monkeypatch.setattr(modules["jacobians"], "growth", grown)

    def errors(name, seed, amounts):
        keys = [f"{a} {m} {kind}" for a in amounts for m in (1, 5) for kind in ("same", "other")]
        return {key: np.cumsum(rng.uniform(1, 2, (4, 200)), 1) for key in keys}

    monkeypatch.setattr(modules["compounding"], "errors", errors)

    def draws(self, world, name, horizon, samples, estimates=64, std=0.3):
        return rng.normal(size=(estimates, 2 if world == "lqr" else 5)), 0.1

    monkeypatch.setattr(modules["estimators"].Laboratory, "draws", draws)
    return modules


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_measured_published_and_drawn(name, stubs, monkeypatch):
    module = stubs[name]
    monkeypatch.setattr("sys.argv", [name])
    claim.main(name, module.measure, module.draw)
    result = claim.read(name, False)
    assert None not in claim.known(CLAIMS[name], result).values() and "data" in result
    assert (claim.folder(False) / f"{name}.png").exists()
    assert result["made"]["command"] == f"python -m experiments.lecture.{name}"


def test_an_interrupted_claim_goes_on_with_what_is_missing(stubs, monkeypatch):
    asked = []

    def measure(full):
        def number(name):
            asked.append(name)
            return Measured(1.0, 0.9, 1.1, LEAST)

        names = CLAIMS["oracle"].predictions
        return Work({name: (lambda name=name: number(name)) for name in names}, lambda: {"x": [1]})

    def draw(data, path):
        figures.save(path, [1.0], lambda axes: axes.plot(data["x"]))

    monkeypatch.setattr("sys.argv", ["oracle", "--only", "2.5"])
    claim.main("oracle", measure, draw)
    result, picture = claim.read("oracle", False), claim.folder(False) / "oracle.png"
    assert asked == ["2.5"] and "data" not in result and not picture.exists()
    assert [m is None for m in claim.known(CLAIMS["oracle"], result).values()] == [True, False, True]
    monkeypatch.setattr("sys.argv", ["oracle"])
    claim.main("oracle", measure, draw)
    assert asked == ["2.5", "3.0", "2.0"] and picture.exists()


# --- the distance of samples ---


def test_mmd_is_what_it_is_for_two_normal_distributions():
    size, shift, width = 3, 0.8, 1.3
    key_x, key_y = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (1_500, size))
    y = jax.random.normal(key_y, (1_500, size)) + np.array([shift, 0, 0])
    scale = (width**2 / (width**2 + 2)) ** (size / 2)
    exact = 2 * scale * (1 - math.exp(-(shift**2) / (2 * (width**2 + 2))))
    np.testing.assert_allclose(mismatch.mmd2(x, y, width), exact, atol=0.01)
    np.testing.assert_allclose(mismatch.mmd2(x[:750], x[750:], width), 0, atol=0.005)


# --- the page ---


@pytest.fixture
def results(tmp_path, monkeypatch):
    """All claims as if they had been run with full settings; the working directory is empty but for that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["page", "--full"])
    for name, one in CLAIMS.items():
        found = {p: Measured(q.threshold, q.threshold, q.threshold, LEAST) for p, q in one.predictions.items()}
        claim.publish(one, found, True, Work({}, lambda: {"x": [1, 2]}))
        figures.save(claim.folder(True) / f"{name}.png", [1.0], lambda axes: axes.plot([1, 2]))
    return tmp_path / "results"


def test_the_page_holds_every_claim_and_needs_nothing_else(results, capsys):
    page.main()
    text = (results / "lecture.html").read_text()
    assert text.count("data:image/png;base64,") == len(CLAIMS) and text.count("✓") == 53
    assert "13 of them could hardly have failed (°: 13 hold). Of the other 40: 40 hold." in text
    assert "0.5 [0.5, 0.5] decades" in text
    assert not [word for word in ("<script", "http://", "https://", "<link") if word in text]
    assert capsys.readouterr().out.count("holds (sure)") == 13


def edit(path, change):
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


@pytest.mark.parametrize("how", ["no file", "older design", "another threshold"])
def test_what_was_not_run_in_this_design_has_no_verdict_and_fails_the_command(how, results, capsys):
    path, count = results / "lecture" / "oracle.json", 3
    if how == "no file":
        path.unlink()
    elif how == "older design":
        edit(path, lambda result: result.update(design=1))
    else:
        count = 1
        edit(path, lambda result: (result["predictions"]["2.5"].update(threshold=0.3), result.pop("data")))
    with pytest.raises(SystemExit, match="not complete: oracle"):
        page.main()
    assert capsys.readouterr().out.count(NOT_RUN) == count
    text = (results / "lecture.html").read_text()
    assert "make lecture-oracle" in text and text.count("○") == count and f"{count} have not been run yet" in text


def test_a_claim_that_does_not_hold_is_said_not_to(results, capsys):
    one = CLAIMS["oracle"]
    found = dict.fromkeys(one.predictions, Measured(0.1, 0.05, 0.15, LEAST))
    claim.publish(one, found, True, Work({}, dict))
    page.main()
    assert FAILS in capsys.readouterr().out and "1 do not" in (results / "lecture.html").read_text()


def test_the_hanging_pendulum_starts_where_the_observation_says():
    from branchax import worlds
    from experiments.lecture.horizon import WORLD

    state = worlds.make(WORLD, episode_length=7).reset(jax.random.key(3))
    assert abs(abs(float(state.inner[0])) - math.pi) <= 0.1 and abs(float(state.inner[1])) <= 0.1
    np.testing.assert_allclose(state.obs[:2], [math.cos(state.inner[0]), math.sin(state.inner[0])], rtol=1e-5)


@pytest.mark.slow
def test_one_collection_is_the_same_however_many_updates_follow(tmp_path):
    """The pairs of `mismatch`: the real rows and the model, bit by bit."""
    from branchax.runs.restoring import restore
    from branchax.runs.train import train

    states = []
    for updates in (1, 3):
        config = claim.changed(mismatch.snapshot(updates, False), seeds=1, model__max_rounds=2, rollout__per_update=12)
        states.append(restore(train(config, tmp_path / str(updates)))[1])
    for first, second in zip(*(jax.tree.leaves((s.real, s.model)) for s in states), strict=True):
        np.testing.assert_array_equal(
            *(
                jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
                for x in (first, second)
            )
        )


def test_the_page_and_the_documentation_say_the_same_of_what_it_means():
    text = " ".join((ROOT / "docs" / "lecture.md").read_text(encoding="utf-8").split())
    assert list(page.MEANING) == list(CLAIMS)
    assert all(f"*{sentence}*" in text for sentence in page.MEANING.values())
