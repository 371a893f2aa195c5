"""The lecture's claims: the exact chain, verdicts, the distance of samples, and a page that says what is missing."""

import importlib
import json
import math

import jax
import numpy as np
import pytest

from experiments.lecture import claim, cliff, compounding, mismatch, page
from experiments.lecture.claim import FAILS, HOLDS, UNDECIDED, Claim, Found, Measured, Prediction, verdict

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
    ],
)
def test_a_verdict_follows_from_the_interval_alone(at_least, measured, expected):
    assert verdict(Prediction("", 2.0, at_least), Measured(*measured)) == expected


def test_intervals_cover_the_mean_of_normal_samples_and_repeat():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(30):
        found = claim.bootstrap(np.mean, rng.normal(1.0, 2.0, 60))
        inside += found.low <= 1.0 <= found.high
    assert 25 <= inside <= 30
    sample = rng.normal(size=20)
    assert claim.bootstrap(np.mean, sample) == claim.bootstrap(np.mean, sample)


def test_the_band_of_curves_is_around_their_mean():
    curves = np.random.default_rng(0).normal(size=(400, 3)) + [0, 10, 20]
    band = claim.band(curves)
    np.testing.assert_allclose(band["centre"], curves.mean(0))
    width = np.subtract(band["high"], band["low"])
    np.testing.assert_allclose(width, 2 * 1.96 / 20, rtol=0.3)


@pytest.mark.parametrize("name", claim.NAMES)
def test_every_claim_says_what_it_predicts(name):
    module = importlib.import_module(f"experiments.lecture.{name}")
    said: Claim = module.CLAIM
    assert said.name == name and said.predictions and said.intervals and callable(module.measure)
    for prediction in said.predictions.values():
        assert math.isfinite(prediction.threshold) and any(c.isdigit() for c in prediction.words)


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
    for name in claim.NAMES:
        one = Claim(name, f"About {name}", "It <is> so.", "none", {"first": Prediction("at least 2", 2.0)})
        claim.publish(one, Found({"first": Measured(3.0, 2.5, 3.5)}, {"x": [1, 2]}), full=True)
        claim.save(claim.folder(True) / f"{name}.png", [1.0], lambda axes: axes.plot([1, 2]))
    return tmp_path / "results"


def test_the_page_holds_every_claim_and_needs_nothing_else(results, capsys):
    page.main()
    text = (results / "lecture.html").read_text()
    assert text.count("data:image/png;base64,") == len(claim.NAMES) and text.count("✓") == len(claim.NAMES)
    assert "It &lt;is&gt; so." in text and "3 [2.5, 3.5]" in text and f"{len(claim.NAMES)} hold" in text
    assert not [word for word in ("<script", "http://", "https://", "<link") if word in text]
    assert capsys.readouterr().out.count("holds") == len(claim.NAMES)


def test_a_claim_that_was_not_run_is_missing_and_fails_the_command(results, capsys):
    (results / "lecture" / "horizon.json").unlink()
    with pytest.raises(SystemExit, match="missing: horizon"):
        page.main()
    assert "missing" in capsys.readouterr().out
    assert "make lecture-horizon" in (results / "lecture.html").read_text()


def test_a_claim_that_does_not_hold_is_said_not_to(results, capsys):
    path = results / "lecture" / "oracle.json"
    result = json.loads(path.read_text())
    one = Claim("oracle", result["title"], result["claim"], "none", {"first": Prediction("at least 9", 9.0)})
    claim.publish(one, Found({"first": Measured(3.0, 2.5, 3.5)}, {}), full=True)
    page.main()
    assert FAILS in capsys.readouterr().out and "1 do not" in (results / "lecture.html").read_text()


def test_a_claim_may_not_drop_a_prediction(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="predictions and measurements differ"):
        claim.publish(compounding.CLAIM, Found({}, {}), full=False)


def test_the_hanging_pendulum_starts_where_the_observation_says():
    from branchax import worlds
    from experiments.lecture.horizon import WORLD

    state = worlds.make(WORLD, episode_length=7).reset(jax.random.key(3))
    assert abs(abs(float(state.inner[0])) - math.pi) <= 0.1 and abs(float(state.inner[1])) <= 0.1
    np.testing.assert_allclose(state.obs[:2], [math.cos(state.inner[0]), math.sin(state.inner[0])], rtol=1e-5)
