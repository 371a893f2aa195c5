"""Measures of doubt against quadrature and NumPy, gates against loops, calibration where the answer is known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from branchax.config import RolloutConfig
from branchax.dynamics import uncertainty
from branchax.types import Trajectory, Transition

MEAN = np.float32([[0.3], [-0.5], [1.1]])
LOG_VAR = np.float32([[-0.2], [0.4], [-1.0]])

# Each a program, where each of its operations alone would be one.
MEASURES = {name: jax.jit(measure) for name, measure in uncertainty.MEASURES.items()}
calibration, gate = jax.jit(uncertainty.calibration), jax.jit(uncertainty.gate, static_argnums=3)
jensen_shannon, one_vs_rest = jax.jit(uncertainty.jensen_shannon), jax.jit(uncertainty.one_vs_rest)


def divergence(p, q):
    """KL of two densities, by quadrature."""
    return integrate.quad(lambda x: p(x) * np.log(p(x) / q(x)), -12, 12, limit=200)[0]


def density(mean, scale):
    """Of a normal distribution; SciPy's takes a hundred times as long."""
    return lambda x: math.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


def normal(e):
    return density(float(MEAN[e, 0]), math.exp(0.5 * float(LOG_VAR[e, 0])))


def test_geometric_jensen_shannon_equals_quadrature():
    found = []
    for e, f in ((0, 1), (0, 2), (1, 2)):
        p, q = normal(e), normal(f)
        root = lambda x: np.sqrt(p(x) * q(x))  # noqa: B023, E731
        total = integrate.quad(root, -12, 12)[0]
        middle = lambda x: root(x) / total  # noqa: B023, E731
        found.append(0.5 * divergence(p, middle) + 0.5 * divergence(q, middle))
    assert float(jensen_shannon(MEAN, LOG_VAR)) == pytest.approx(np.mean(found), rel=1e-4)
    twice = np.repeat(MEAN, 2, 1), np.repeat(LOG_VAR, 2, 1)  # independent entries add up
    assert float(jensen_shannon(*twice)) == pytest.approx(2 * np.mean(found), rel=1e-4)
    assert float(jensen_shannon(MEAN[:1], LOG_VAR[:1])) == 0.0


def test_one_against_the_rest_equals_quadrature():
    found = []
    for e in range(3):
        others = [f for f in range(3) if f != e]
        mean = np.mean([float(MEAN[f, 0]) for f in others])
        square = np.mean([float(np.exp(LOG_VAR[f, 0]) + MEAN[f, 0] ** 2) for f in others])
        found.append(divergence(normal(e), density(mean, np.sqrt(square - mean**2))))
    assert float(one_vs_rest(MEAN, LOG_VAR)) == pytest.approx(max(found), rel=1e-4)
    assert float(one_vs_rest(MEAN[:1], LOG_VAR[:1])) == 0.0


def test_the_simple_measures():
    mean, log_var = jax.random.normal(jax.random.key(0), (2, 4, 3))
    spread = np.sqrt(np.var(mean, 0).mean())
    np.testing.assert_allclose(uncertainty.disagreement(mean, log_var), spread, rtol=1e-5)
    norms = np.linalg.norm(np.exp(0.5 * np.asarray(log_var)), axis=-1)
    np.testing.assert_allclose(uncertainty.max_std(mean, log_var), norms.max(), rtol=1e-5)


@pytest.mark.parametrize("name", uncertainty.MEASURES)
def test_each_measure_grows_as_members_part_or_noise_grows(name):
    measure = MEASURES[name]
    noise = name == "max_std"
    each = [float(measure(MEAN * (1 if noise else s), LOG_VAR + (s if noise else 0))) for s in (0.5, 1.0, 2.0)]
    assert each == sorted(each) and each[0] < each[-1]


def imagined(horizon=4, groups=2, batch=25, stop=3):
    rng = np.random.default_rng(1)
    shape = groups, horizon, batch
    ended = rng.random(shape) < 0.2
    alive = np.concatenate([np.ones((groups, 1, batch), bool), np.cumprod(~ended, 1)[:, :-1].astype(bool)], 1)
    valid = alive & (np.arange(horizon) < stop)[:, None]
    zero = np.zeros((*shape, 1), np.float32)
    reward = np.asarray(rng.normal(size=shape), np.float32)
    t = Transition(zero, zero, reward, zero, ended, np.zeros(shape, bool))
    doubt = np.asarray(rng.exponential(size=shape), np.float32)
    return Trajectory(t, valid, None, None), doubt, stop


def test_the_rank_gate_keeps_the_least_doubtful_share_of_each_step():
    trajectory, doubt, stop = imagined()
    out = gate(trajectory, doubt, jnp.int32(stop), RolloutConfig(gate="rank", gate_share=0.8))
    out = jax.tree.map(np.asarray, out)
    for h in range(4):
        was, now, u = (np.asarray(x)[:, h].ravel() for x in (trajectory.valid, out.valid, doubt))
        count = int(0.8 * (stop - h) / (stop + 1) * was.sum()) if h < stop else 0
        assert now.sum() == count and not (now & ~was).any()
        if count:
            assert u[now].max() <= u[was & ~now].min()
    assert bool((out.valid[:, 1] & ~out.valid[:, 0]).any())  # a rollout goes on though a step of it was masked
    np.testing.assert_array_equal(out.transition.reward, trajectory.transition.reward)


def test_the_threshold_gate_ends_rollouts_for_good():
    trajectory, doubt, stop = imagined()
    config = RolloutConfig(gate="threshold", gate_quantile=0.8, gate_scale=1.2)
    out = np.asarray(gate(trajectory, doubt, jnp.int32(stop), config).valid)
    most = 1.2 * np.quantile(np.asarray(doubt)[:, 0], 0.8)
    for g in range(2):
        for b in range(25):
            alive = True
            for h in range(4):
                alive = alive and float(doubt[g, h, b]) <= most
                assert out[g, h, b] == (alive and bool(trajectory.valid[g, h, b]))


def test_the_penalty_lowers_rewards_and_masks_nothing():
    trajectory, doubt, stop = imagined()
    out = gate(trajectory, doubt, jnp.int32(stop), RolloutConfig(penalty=2.0))
    np.testing.assert_allclose(out.transition.reward, trajectory.transition.reward - 2.0 * doubt, rtol=1e-6)
    np.testing.assert_array_equal(out.valid, trajectory.valid)


def test_calibration_of_a_mixture_that_made_the_data_and_of_one_too_sure():
    rng = np.random.default_rng(0)
    count = 20_000
    mean = np.asarray(rng.normal(size=(3, count, 2)), np.float32)
    log_var = np.asarray(rng.normal(size=(3, count, 2)), np.float32)
    member = rng.integers(0, 3, count)
    at = np.arange(count)
    noise, other = np.float32(rng.normal(size=(2, count, 2)))
    y = mean[member, at] + np.exp(0.5 * log_var[member, at]) * noise
    keep = at % 3 > 0
    good = calibration(mean, log_var, y, keep)
    assert float(good["model/ece"]) < 0.01 and float(good["model/coverage_90"]) == pytest.approx(0.9, abs=0.01)
    density = np.mean([stats.norm.pdf(y, mean[e], np.exp(0.5 * log_var[e])).prod(-1) for e in range(3)], 0)
    np.testing.assert_allclose(good["model/nll"], -np.log(density)[keep].mean() / 2, rtol=1e-4)
    # Doubt that is too large in one entry and too small in the other does not cancel.
    apart = log_var[:1] + np.float32([4.0, -4.0])
    y_one = mean[0] + np.exp(0.5 * log_var[0]) * other
    assert float(calibration(mean[:1], apart, y_one, keep)["model/ece"]) > 0.15
    sure = calibration(mean[:1], log_var[:1] - 4.0, y, keep)
    assert float(sure["model/ece"]) > 0.1 and float(sure["model/coverage_90"]) < 0.6


@pytest.mark.slow
def test_where_no_step_passes_the_gate_batches_are_real():
    from test_train import TINY, compiled, run, stored

    rollout = RolloutConfig(per_step=10, groups=4, horizon=3, gate="rank", gate_share=0.0)
    state, metrics = run(TINY, *compiled(dataclasses.replace(TINY, rollout=rollout)), (0,), epochs=1)
    assert int(metrics[0]["imagine/steps"][0]) == int(state.counts.model_steps[0]) == 0
    known = {x.tobytes() for x in stored(state.real).transition.obs[-60:]}  # before the epoch collected more
    assert int(state.imagined.size[0]) == TINY.batch_size
    assert {x.tobytes() for x in stored(state.imagined).obs} <= known


@pytest.mark.slow
def test_a_gate_by_its_config_is_a_mask_in_the_compiled_epoch():
    """Gated epochs store fewer steps than they imagine, and those with the least doubt."""
    from test_train import TINY, compiled, run

    rollout = RolloutConfig(per_step=10, groups=4, horizon=3, gate="rank")
    config = dataclasses.replace(TINY, world="classic/pendulum", rollout=rollout)
    state, metrics = run(config, *compiled(config), (0,), epochs=1)
    share = sum(int(0.5 * (3 - h) / 4 * 400) for h in range(3))
    assert int(state.imagined.size[0]) == share == int(metrics[0]["imagine/steps"][0])
    for name in ("model/nll", "model/ece", "model/coverage_90"):
        assert np.isfinite(float(metrics[0][name][0]))
