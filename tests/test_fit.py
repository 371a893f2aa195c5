"""Fitting: what is learned, who keeps what, and what a poisoned row can reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from branchax import normalize, replay
from branchax.config import ModelConfig
from branchax.dynamics import ensemble
from branchax.dynamics import fit as fitting
from branchax.dynamics.fit import Progress, keep_best, make_ensemble
from branchax.optimizer import Learner
from branchax.types import Row, Transition
from branchax.worlds.base import WorldSpec, make_world, never

CONFIG = ModelConfig(
    members=3, elites=2, hidden=(32, 32), batch_size=64, round_steps=25, max_rounds=30, learning_rate=3e-3
)
COUNT = 400


def linear_world(termination):
    spec = WorldSpec("linear", 2, 1, 10, termination=termination)
    return make_world(
        spec, lambda key: (jnp.zeros(2), jnp.zeros(2)), lambda *a: (a[1], a[1], jnp.zeros(()), jnp.zeros((), bool))
    )


def data(noise=0.0):
    """Linear dynamics, a reward a thousand times the state's scale, and episodes that end where obs 0 is positive."""
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(COUNT, 2)), rng.uniform(-1, 1, size=(COUNT, 1))
    delta = 0.1 * obs @ np.array([[0.5, -1.0], [1.0, 0.2]]) + 0.1 * action + noise * rng.normal(size=(COUNT, 2))
    reward = 1_000 * obs[:, 0] - 500 * action[:, 0]
    ended = obs[:, 0] > 0
    t = Transition(obs, action, reward, obs + delta, ended, ~ended)
    return jax.tree.map(lambda x: jnp.asarray(x, bool if x.dtype == bool else jnp.float32), t)


def ring_of(transition, capacity=500):
    rows = Row(jax.tree.map(np.asarray, transition))
    return jax.jit(replay.add)(replay.init(jax.tree.map(lambda x: x[0], rows), capacity), rows)


DYNAMICS = make_ensemble(linear_world(never), CONFIG)
INIT, FIT = jax.jit(DYNAMICS.init), jax.jit(DYNAMICS.fit)


@pytest.mark.slow
def test_learns_dynamics_and_reward_of_very_different_scales():
    model, report = FIT(jax.random.key(0), INIT(jax.random.key(1)), ring_of(data()))
    assert float(report.metrics["model/holdout_error"]) < 0.01  # in variances of the targets
    assert float(report.metrics["model/skipped_steps"]) == 0
    t = data()

    @jax.jit
    def imagine(model):
        step, starts = jax.vmap(DYNAMICS.world(model, model.elites[0]).step), jax.vmap(DYNAMICS.branch)(Row(t))
        return step(jax.random.split(jax.random.key(2), COUNT), starts, t.action)[1]

    out, t = jax.tree.map(np.asarray, (imagine(model), t))
    for got, want in ((out.next_obs - out.obs, t.next_obs - t.obs), (out.reward, t.reward)):
        assert float(((got - want) ** 2).mean() / want.var()) < 0.02
    assert not out.terminated.any()  # `never`


@pytest.mark.parametrize("power", [-20, 60])
def test_a_world_in_other_units_is_learned_and_judged_to_the_same_bits(power):
    unit, t = np.float32(2.0**power), data()
    other = t._replace(obs=t.obs * unit, next_obs=t.next_obs * unit, reward=t.reward * unit)
    one, two = (FIT(jax.random.key(0), INIT(jax.random.key(1)), ring_of(rows)) for rows in (t, other))
    jax.tree.map(np.testing.assert_array_equal, one[1], two[1])
    jax.tree.map(np.testing.assert_array_equal, one[0].params, two[0].params)
    assert float(one[1].metrics["model/holdout_error"]) < 0.01  # in variances of the targets


def test_predicted_deviation_is_that_of_the_noise():
    noise = 0.2
    model, _ = FIT(jax.random.key(0), INIT(jax.random.key(1)), ring_of(data(noise)))
    t = data(noise)
    world = DYNAMICS.world(model, model.elites[0])
    start = DYNAMICS.branch(jax.tree.map(lambda x: x[0], Row(t)))
    draws = jax.jit(jax.vmap(lambda k: world.step(k, start, t.action[0])[1].next_obs))
    spread = draws(jax.random.split(jax.random.key(0), 2_000)).std(0)
    np.testing.assert_allclose(spread, noise, rtol=0.35)


@pytest.mark.slow
def test_constant_noise_that_fell_to_its_least_rises_again():
    """As where a reward was always the same, until it was found."""
    dynamics = make_ensemble(linear_world(never), dataclasses.replace(CONFIG, noise="constant", max_rounds=4))
    model = jax.jit(dynamics.init)(jax.random.key(1))
    model = model._replace(params=model.params | {"log_var": jnp.full((3, 3), -10.5)})
    fitted, _ = jax.jit(dynamics.fit)(jax.random.key(0), model, ring_of(data(0.2)))
    assert float(fitted.params["log_var"].min()) > -9.99


def test_held_out_rows_are_never_trained_on():
    """NaN in every held-out row reaches no gradient: all steps are taken, and the parameters stay finite."""
    ring = ring_of(data())
    slot = jax.jit(replay.holdout_slot, static_argnums=1)(
        np.arange(COUNT // CONFIG.holdout_every), CONFIG.holdout_every
    )
    reward = np.array(ring.data.transition.reward)
    reward[np.asarray(slot)] = np.nan
    poisoned = ring.data.transition._replace(reward=reward)
    scales = fitting.measure(linear_world(never).spec, ring, CONFIG.target)
    original, fitting.measure = fitting.measure, lambda *_: scales  # else the NaN would enter through the scales
    try:
        start = INIT(jax.random.key(1))
        model, report = jax.jit(make_ensemble(linear_world(never), CONFIG).fit)(
            jax.random.key(0), start, ring._replace(data=Row(poisoned))
        )
    finally:
        fitting.measure = original
    assert float(report.metrics["model/skipped_steps"]) == 0
    # ... and an error that is NaN is never the best: what was there before is kept.
    jax.tree.map(np.testing.assert_array_equal, model.params, start.params)


def test_a_member_gone_nan_leaves_the_others_bit_equal():
    start = INIT(jax.random.key(1))
    broken = start._replace(params=jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), start.params))
    ring = ring_of(data())
    well, _ = FIT(jax.random.key(0), start, ring)
    hurt, report = FIT(jax.random.key(0), broken, ring)
    for member in (0, 2):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[member], y[member]), well.params, hurt.params)  # noqa: B023
    assert float(report.metrics["model/skipped_steps"]) > 0 and 1 not in hurt.elites


def test_a_member_that_diverges_is_rolled_back_alone_and_counted():
    """Huge weights overflow to infinity: what the member had before the fit stays, the others never notice."""
    start = INIT(jax.random.key(1))
    huge = start._replace(params=jax.tree.map(lambda leaf: leaf.at[1].multiply(1e20), start.params))
    ring = ring_of(data())
    well, before = FIT(jax.random.key(0), start, ring)
    hurt, report = FIT(jax.random.key(0), huge, ring)
    for member in (0, 2):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[member], y[member]), well.params, hurt.params)  # noqa: B023
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y[1]), huge.params, hurt.params)
    assert (int(before.metrics["model/nonfinite_members"]), int(report.metrics["model/nonfinite_members"])) == (0, 1)
    assert 1 not in hurt.elites and np.isfinite(float(report.metrics["model/holdout_error"]))


def test_a_gradient_whose_squares_overflow_is_skipped_and_counted_and_not_kept_in_adam():
    """Huge weights: the loss and its gradient are finite, the squares are beyond float32."""
    config = dataclasses.replace(CONFIG, noise="constant", round_steps=1, max_rounds=1)
    dynamics = make_ensemble(linear_world(never), config)
    start, t = jax.jit(dynamics.init)(jax.random.key(1)), data()
    steep = start._replace(params=start.params | {"net": jax.tree.map(lambda leaf: 1e5 * leaf, start.params["net"])})
    after, report = jax.jit(dynamics.fit)(jax.random.key(0), steep, ring_of(t))
    assert float(report.metrics["model/skipped_steps"]) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.optimizer))


def test_members_draw_their_own_minibatches():
    """Members that start alike end apart."""
    start = INIT(jax.random.key(1))
    alike = start._replace(params=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), start.params))
    model, _ = FIT(jax.random.key(0), alike, ring_of(data()))
    w = np.asarray(model.params["net"]["layer_0"]["kernel"])
    assert not np.allclose(w[0], w[1]) and not np.allclose(w[1], w[2])


def fit_once(**changes):
    """A model before and after a fit of one minibatch, the report, and the rows with their places."""
    config = dataclasses.replace(CONFIG, round_steps=1, max_rounds=1, batch_size=COUNT - COUNT // 5, **changes)
    dynamics = make_ensemble(linear_world(never), config)
    before, t = jax.jit(dynamics.init)(jax.random.key(1)), data(noise=0.3)
    before = before._replace(scales=fitting.measure(linear_world(never).spec, ring_of(t), config.target))
    after, report = jax.jit(dynamics.fit)(jax.random.key(0), before, ring_of(t))
    held = np.asarray(replay.holdout_slot(jnp.arange(COUNT // 5), 5))
    x = normalize.apply(before.scales.inputs, ensemble.inputs(linear_world(never).spec, t.obs, t.action))
    y = normalize.apply(before.scales.targets, ensemble.targets(t, config.target))
    net = ensemble.network(linear_world(never).spec, config)
    predict = jax.vmap(lambda params: ensemble.predict(net, params, x))
    return before, after, report, held, np.asarray(y), predict


def test_each_member_weighs_every_training_row_by_its_own_draw():
    """The gradient of the last layer's bias, read off Adam's first moment, against NumPy."""
    before, after, _, held, y, predict = fit_once(bootstrap="weights", noise="constant", weight_decay=(0.0,))
    train = np.setdiff1d(np.arange(COUNT), held)
    weight = np.asarray(ensemble.row_weights(3, jnp.asarray(train)))
    error = np.asarray(predict(before.params).mean)[:, train] - y[train]  # the variance is 1 at first
    expected = 2 / 3 * (weight[..., None] * error).mean(1)
    moment = after.optimizer.inner_state[1].mu["net"]["layer_2"]["bias"][:, :3]
    np.testing.assert_allclose(moment, 0.1 * expected, rtol=1e-4, atol=1e-6)


def test_measured_noise_is_the_mean_square_of_held_out_errors():
    _, after, _, held, y, predict = fit_once(noise="measured")
    each = predict(after.params)
    square = ((np.asarray(each.mean)[:, held] - y[held]) ** 2).mean(1)
    np.testing.assert_allclose(np.asarray(each.log_var)[:, 0], np.log(square), rtol=1e-4)
    bad = ensemble.set_noise({"log_var": jnp.zeros(3)}, jnp.array([jnp.nan, 0.0, 2.0]))["log_var"]
    np.testing.assert_allclose(bad, [0.0, ensemble.LOG_VAR_BOUNDS[0], np.log(2.0)])


def test_weights_of_rows_are_exponential_stay_and_differ_between_members():
    weight = np.asarray(ensemble.row_weights(2, jnp.arange(4_000)))
    for own in weight:
        assert stats.kstest(own, "expon").pvalue > 0.01
    assert abs(np.corrcoef(weight)[0, 1]) < 0.05
    np.testing.assert_array_equal(ensemble.row_weights(2, jnp.array([7, 3_000])), weight[:, [7, 3_000]])


def test_a_fit_may_be_judged_by_the_likelihood_of_the_mixture():
    _, after, report, held, y, predict = fit_once(stop="mixture", elites=3)
    each = predict(after.params)
    mean, log_var = np.asarray(each.mean)[:, held], np.asarray(each.log_var)[:, held]
    deviation = np.sqrt(np.exp(log_var.mean(0)) + mean.var(0))
    nll = -stats.norm(mean.mean(0), deviation).logpdf(y[held]).mean() - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(report.metrics["model/holdout_error"], np.exp(2 * nll - 1), rtol=1e-4)
    np.testing.assert_allclose(report.metrics["model/holdout_error_worst"], np.exp(2 * nll - 1), rtol=1e-4)


def test_each_member_keeps_the_parameters_of_its_own_best_round():
    scores = np.array([[5.0, 3.0, 4.0], [4.0, 3.5, np.nan], [4.5, 1.0, 3.99], [3.0, 2.0, np.inf], [9.0, 9.0, 1.0]])
    blank, config = jnp.zeros(3, jnp.int32), dataclasses.replace(CONFIG, patience=3)
    members = Learner(jnp.zeros(3), jnp.zeros(3))
    unbeaten = jnp.full(3, jnp.inf)
    progress = Progress(members, members, unbeaten, unbeaten, blank, jnp.zeros((), jnp.int32))
    for number, error in enumerate(scores):
        latest = Learner(jnp.full(3, float(number)), jnp.full(3, 10.0 * number))
        progress = keep_best(progress, latest, jnp.asarray(error), config)
        if number == 3:
            np.testing.assert_array_equal(progress.stale, [0, 1, 3])  # 3.99 against 4 is no gain of 1 %
    np.testing.assert_array_equal(progress.best.params, [3.0, 2.0, 2.0])  # the last member had stopped before its 1.0
    np.testing.assert_array_equal(progress.best.optimizer, [30.0, 20.0, 20.0])
    np.testing.assert_allclose(progress.best_error, [3.0, 1.0, 3.99])
    assert int(progress.round) == 5


def test_slow_gains_add_up():
    """An error that falls by 0.8 % a round is a gain in every second one."""
    members, unbeaten = Learner(jnp.zeros(1), jnp.zeros(1)), jnp.full(1, jnp.inf)
    progress = Progress(members, members, unbeaten, unbeaten, jnp.zeros(1, jnp.int32), jnp.zeros((), jnp.int32))
    for number in range(20):
        progress = keep_best(progress, members, jnp.full(1, 0.992**number), CONFIG)
        assert int(progress.stale[0]) <= 1


def test_elites_are_the_members_with_the_lowest_error_and_fits_stop_early():
    model, report = FIT(jax.random.key(0), INIT(jax.random.key(1)), ring_of(data(noise=0.3)))
    assert float(report.metrics["model/fit_rounds"]) < CONFIG.max_rounds  # noise cannot be learned
    assert float(report.metrics["model/holdout_error"]) <= float(report.metrics["model/holdout_error_worst"])
    assert len(set(model.elites.tolist())) == 2
    short = make_ensemble(linear_world(never), dataclasses.replace(CONFIG, round_steps=1, max_rounds=1))
    start = INIT(jax.random.key(1))
    far = jax.tree.map(lambda leaf: leaf.at[1].multiply(30.0), start.params)  # member 1 begins far off
    model, _ = jax.jit(short.fit)(jax.random.key(0), start._replace(params=far), ring_of(data()))
    assert sorted(model.elites.tolist()) == [0, 2]


@pytest.mark.parametrize(("termination", "mode"), [(None, "known"), (never, "learned")])
def test_a_world_without_a_predicate_learns_one(termination, mode):
    config = ModelConfig(
        members=2, elites=1, hidden=(32,), round_steps=50, max_rounds=20, termination=mode, learning_rate=3e-3
    )
    dynamics = make_ensemble(linear_world(termination), config)
    model, _ = jax.jit(dynamics.fit)(jax.random.key(0), jax.jit(dynamics.init)(jax.random.key(1)), ring_of(data()))
    t = data()
    keys = jax.random.split(jax.random.key(2), COUNT)
    step = jax.jit(jax.vmap(dynamics.world(model, model.elites[0]).step))
    ended = step(keys, jax.vmap(dynamics.branch)(Row(t)), t.action)[1].terminated
    clear = jnp.abs(t.obs[:, 0]) > 0.3  # nearer to the border the head is unsure, and its draws say so
    assert float((ended == t.terminated)[clear].mean()) > 0.97


def test_scales_are_those_of_the_stored_rows():
    t = data()
    spec = linear_world(never).spec
    scales = fitting.measure(spec, ring_of(t), "delta")
    np.testing.assert_allclose(scales.targets.std[-1], np.asarray(t.reward, np.float64).std(), rtol=1e-4)
    np.testing.assert_allclose(scales.targets.std[:2], np.asarray(t.next_obs - t.obs, np.float64).std(0), rtol=1e-4)
    np.testing.assert_array_equal(scales.obs.high, np.maximum(t.obs.max(0), t.next_obs.max(0)))
    np.testing.assert_array_equal(scales.obs.low, np.minimum(t.obs.min(0), t.next_obs.min(0)))
    beyond = t._replace(next_obs=t.next_obs.at[7].set(jnp.array([-50.0, 60.0])))
    wide = fitting.measure(spec, ring_of(beyond), "delta").obs
    assert (float(wide.low[0]), float(wide.high[1])) == (-50.0, 60.0)
