"""What an epoch hands its agent and keeps, by counting rows; what the model's loss is; what stops improving."""

import dataclasses
import functools
from types import SimpleNamespace

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import as_numpy, net, same, slope

from branchax import normalize, replay
from branchax.agents.base import Outcome
from branchax.agents.critic import in_mixed_elites, in_one_elite
from branchax.config import Config, CriticConfig, ModelConfig, RolloutConfig, SACConfig
from branchax.dynamics import ensemble
from branchax.dynamics.base import FitReport
from branchax.dynamics.fit import make_ensemble
from branchax.epoch.program import make_program
from branchax.epoch.report import make_report, reduce_metric
from branchax.epoch.stopping import stop_early, while_models_agree
from branchax.types import Largest, Row, Total, Transition
from branchax.worlds.base import WorldSpec, make_world

TINY = Config(
    world="classic/lqr",
    env_steps=60,
    explore_steps=20,
    epoch_steps=20,
    collect_steps=20,
    parallel_worlds=2,
    updates_per_step=0.1,
    batch_size=32,
    real_fraction=0.25,
    rollout=RolloutConfig(per_step=4, groups=2, horizon=3),
    agent=SACConfig(hidden=(4,)),
)
REAL, IMAGINED = 1.0, 2.0  # rewards


def counting(fault_at=None, limit=100):
    """A world whose obs are a number of its own and the steps since its reset; its reward is NaN at step `fault_at`."""

    def reset(key):
        obs = jnp.stack([jax.random.uniform(key), 0.0])
        return obs, obs

    def step(key, inner, action):
        after = inner + jnp.array([0.0, 1.0])
        reward = REAL if fault_at is None else jnp.where(inner[1] == fault_at, jnp.nan, REAL)
        return after, after, jnp.float32(reward), jnp.zeros((), bool)

    return make_world(WorldSpec("counting", 2, 1, limit), reset, step)


def endless_members():
    def step(xp, member, obs, action):
        return obs + 1.0, jnp.float32(IMAGINED), jnp.zeros((), bool)

    return by_hand.two_members(step)


def after_an_epoch(config, world, agent, horizon=3):
    """The state after one epoch."""
    program = make_program(config, world, endless_members(), agent)
    state = jax.jit(program.init)(jax.random.key(0))
    return jax.jit(program.epoch)(state, jnp.int32(horizon))[0]


def test_batches_hold_exact_shares_of_real_and_imagined_rows():
    def watch(key, sources):
        reward = sources.replay(key).transition.reward
        return jnp.stack([(reward == kind).sum() for kind in (REAL, IMAGINED)])

    state = after_an_epoch(TINY, counting(), by_hand.watcher(watch, jnp.zeros(2, jnp.int32)))
    assert state.agent.tolist() == [8, 24]


@pytest.mark.parametrize(("real_fraction", "spoilt", "left"), [(0.25, False, 24), (0.25, True, 0), (1.0, False, 0)])
def test_no_time_limit_is_in_a_batch_but_what_has_left_the_data_is(real_fraction, spoilt, left):
    """A real episode ends by its limit after two steps; each imagined step leaves the data. Spoilt steps are not kept,
    and real rows fill their place."""

    def watch(key, sources):
        t = sources.replay(key).transition
        return jnp.stack([(t.truncated & (t.reward == kind)).sum() for kind in (REAL, IMAGINED)])

    def leaving(model, member):
        world = endless_members().world(model, member)

        def step(key, state, action):
            after, t = world.step(key, state, action)
            reward = jnp.where(spoilt, jnp.nan, t.reward)
            return after, t._replace(truncated=jnp.ones((), bool), reward=reward)

        return world._replace(step=step)

    agent = SACConfig(hidden=(4,), critic=CriticConfig(expand="none" if real_fraction < 1 else "mve"))
    config = dataclasses.replace(TINY, real_fraction=real_fraction, agent=agent)
    members = endless_members()._replace(world=leaving)
    program = make_program(config, counting(limit=2), members, by_hand.watcher(watch, jnp.zeros(2, jnp.int32)))
    state = jax.jit(program.epoch)(jax.jit(program.init)(jax.random.key(0)), jnp.int32(3))[0]
    assert state.agent.tolist() == [0, left]
    assert state.real.data.transition.truncated.any()  # they are still there, for whoever asks where episodes began


def test_imagined_rows_count_less_where_the_model_is_unsure():
    def watch(key, sources):
        return sources.weigh(sources.replay(key))

    config = dataclasses.replace(TINY, rollout=dataclasses.replace(TINY.rollout, weigh=True))
    agent = by_hand.watcher(watch, jnp.zeros(32))
    unsure = endless_members()._replace(doubt=lambda model, obs, action: jnp.float32(3.0))
    program = make_program(config, counting(), unsure, agent)
    state = jax.jit(program.epoch)(jax.jit(program.init)(jax.random.key(0)), jnp.int32(3))[0]
    np.testing.assert_allclose(state.agent, [1.0] * 8 + [0.25] * 24)


@pytest.mark.parametrize("horizon", [1, 2])
def test_what_updates_look_ahead_follows_the_schedule(horizon):
    def watch(key, sources):
        still = lambda key, obs: (jnp.zeros(1), ())  # noqa: E731
        return in_one_elite(key, sources.replay(key), sources.ahead, still).valid.sum(1)

    config = dataclasses.replace(
        TINY, real_fraction=1.0, agent=SACConfig(hidden=(4,), critic=CriticConfig(expand="mve"))
    )
    state = after_an_epoch(config, counting(), by_hand.watcher(watch, jnp.zeros(3, jnp.int32)), horizon)
    assert state.agent.tolist() == [32] * horizon + [0] * (3 - horizon)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_members_are_drawn_for_each_step_or_for_all(propagation):
    """The reward is the member's number."""

    def step(xp, member, obs, action):
        return obs + 1.0, jnp.float32(member), jnp.zeros((), bool)

    def watch(key, sources):
        still = lambda key, obs: (jnp.zeros(1), ())  # noqa: E731
        return in_mixed_elites(key, sources.replay(key), sources.ahead, still).transition.reward

    rollouts = dataclasses.replace(TINY.rollout, propagation=propagation)
    look = SACConfig(hidden=(4,), through_model=True, critic=CriticConfig(expand="fresh"))
    config = dataclasses.replace(TINY, real_fraction=1.0, agent=look, rollout=rollouts)
    agent = by_hand.watcher(watch, jnp.zeros((3, 32)))
    program = make_program(config, counting(), by_hand.two_members(step), agent)
    state = jax.jit(program.epoch)(jax.jit(program.init)(jax.random.key(0)), jnp.int32(3))[0]
    members = np.asarray(state.agent)
    assert set(members.ravel()) == {0.0, 1.0} and ((members == members[0]).all() == (propagation == "tsinf"))


def test_each_update_has_a_key_of_its_own_when_the_first_epoch_repeats_them():
    def update(key, drawn, sources):
        return jnp.roll(drawn, 1).at[0].set(jax.random.uniform(key)), Outcome({}, {})

    agent = by_hand.watcher(None, jnp.zeros(12))._replace(update=update)
    state = after_an_epoch(dataclasses.replace(TINY, first_updates=12), counting(), agent)
    assert int(state.counts.updates) == 12 and len(set(state.agent.tolist()) - {0.0}) == 12


def test_rows_are_stored_as_they_came_and_none_that_is_not_finite():
    """Two worlds in turn, each step by step; the step that goes wrong is missing, and its world starts anew."""
    agent = by_hand.watcher(lambda key, sources: jnp.zeros(()), jnp.zeros(()))
    sound = after_an_epoch(TINY, counting(), agent).real
    rows = jax.tree.map(lambda x: np.asarray(x)[: int(sound.size)], sound.data.transition)
    assert int(sound.size) == 40
    np.testing.assert_array_equal(rows.obs[:, 1], np.arange(40) // 2)
    for world in range(2):
        assert len(set(rows.obs[world::2, 0])) == 1
    assert rows.obs[0, 0] != rows.obs[1, 0]

    faulty = after_an_epoch(TINY, counting(fault_at=4), agent).real
    rows = jax.tree.map(lambda x: np.asarray(x)[: int(faulty.size)], faulty.data.transition)
    assert int(faulty.size) == 32  # of each five steps the last is wrong
    np.testing.assert_array_equal(rows.obs[:, 1], np.tile(np.repeat(np.arange(4), 2), 4))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.tree.map(np.asarray, faulty.data)))


def test_models_agree_with_the_last_time_and_not_with_the_first():
    """Returns rise, then fall, but not below where they began."""
    promised = jnp.array([0.0, 5.0, 3.0, 4.0])
    rule = while_models_agree(lambda count: (promised[count][None], jnp.zeros(())), 1.0)

    def update(count, key):
        return count + 1, Outcome({}, {})

    keys = jax.random.split(jax.random.key(0), 3)
    run = stop_early(update, rule, promised[:1], every=1, undo=False)
    assert int(jax.jit(run)(jnp.int32(0), keys)[0]) == 2


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_models_loss_is_that_of_the_formula(beta, monkeypatch):
    """Twice the mean -log N of an entry, 0.01 of the bounds' distance, half the decayed squares, cross entropy of ends.

    The whole gradient of one minibatch, from Adam's first moment, against central differences (Chua et al. 2018). The
    entries' weights v ** beta are constants (Seitzer et al. 2022).
    """
    decay = (0.3, 0.7)
    config = ModelConfig(
        members=2,
        elites=1,
        hidden=(3,),
        beta=beta,
        weight_decay=decay,
        round_steps=1,
        max_rounds=1,
        batch_size=8,
        holdout_every=5,
    )
    rng = np.random.default_rng(0)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    t = Transition(f(40, 2), jnp.tanh(f(40, 1)), f(40), f(40, 2), jnp.arange(40) % 3 == 0, jnp.zeros(40, bool))
    ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], Row(t)), 40), Row(t))
    model_of = make_ensemble(counting(), config)
    before = jax.jit(model_of.init)(jax.random.key(1))
    # The bootstrap in order: the minibatch is then the first training rows.
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.arange(shape[0]) % high)
    after = jax.jit(model_of.fit)(jax.random.key(2), before, ring)[0]
    used = np.asarray(replay.train_slot(jnp.arange(8), 5))
    t = as_numpy(t)
    inputs, targets = np.hstack([t.obs, t.action]), np.hstack([t.next_obs - t.obs, t.reward[:, None]])
    x, y = (((z - z.mean(0)) / z.std(0))[used] for z in (inputs, targets))
    ended = t.terminated[used]

    def softplus(z):
        return np.log1p(np.exp(z))

    def predict(p):
        out = net(p["net"], x, lambda z: z / (1 + np.exp(-z)))
        mean, raw, logit = out[:, :3], out[:, 3:6], out[:, 6]
        log_var = p["log_var_high"] - softplus(p["log_var_high"] - raw)
        return mean, p["log_var_low"] + softplus(log_var - p["log_var_low"]), logit

    def loss(p, weight):
        mean, log_var, logit = predict(p)
        fits = (weight * ((y - mean) ** 2 / np.exp(log_var) + log_var + np.log(2 * np.pi))).mean()
        bounds = 0.01 * (p["log_var_high"] - p["log_var_low"]).sum()
        weights = 0.5 * sum(rate * (p["net"][f"layer_{i}"]["kernel"] ** 2).sum() for i, rate in enumerate(decay))
        return fits + bounds + weights + (softplus(logit) - ended * logit).mean()

    for member in range(2):
        start, found = (jax.tree.map(lambda x: x[member], tree) for tree in (before.params, by_hand.gradient(after)))  # noqa: B023
        weight = np.exp(beta * predict(start)[1])
        same(found, slope(functools.partial(loss, weight=weight), start), 1e-3)


def test_a_model_reads_actions_as_worlds_do():
    """Clipped to [-1, 1], beyond which it has seen nothing; or as they are, in worlds that take them so."""
    spec = WorldSpec("anything", 2, 2, 10)
    for clips, first in ((True, -1.0), (False, -4.0)):
        read = ensemble.inputs(spec._replace(clips=clips), jnp.array([0.5, 3.0]), jnp.array([-4.0, 0.2]))
        np.testing.assert_allclose(read, [0.5, 3.0, first, 0.2])


def test_a_bound_on_predictions_does_not_end_their_gradient():
    stats = normalize.measure(jnp.array([[0.0], [1.0]]), jnp.ones(2, bool))
    slopes = jax.vmap(jax.grad(lambda x: normalize.clip(stats, x[None], 0.1)[0]))(jnp.array([-5.0, 0.5, 5.0]))
    np.testing.assert_array_equal(slopes, [1.0, 1.0, 1.0])


def test_a_member_says_its_mean_and_its_deviation():
    """One imagined step: y = mean + exp(log_var / 2) e, in the units of the data, added to where it was."""
    config = ModelConfig(members=2, elites=1, hidden=(3,), bound_margin=1e6)
    model_of = make_ensemble(counting(), config)
    model = jax.jit(model_of.init)(jax.random.key(1))
    rng = np.random.default_rng(0)
    columns = lambda n: normalize.measure(jnp.asarray(rng.normal(1, 3, (50, n)), jnp.float32), jnp.ones(50, bool))  # noqa: E731
    scales = model.scales._replace(inputs=columns(3), targets=columns(3), obs=columns(2))
    model = model._replace(scales=scales)
    obs, action = np.array([0.4, -0.3]), np.array([0.5])
    with pytest.MonkeyPatch.context() as patch:
        by_hand.fixed_noise(patch)
        world = model_of.world(model, jnp.int32(1))
        t = world.step(jax.random.key(0), by_hand.at(jnp.asarray(obs, jnp.float32)), jnp.asarray(action, jnp.float32))[
            1
        ]
    one = as_numpy(jax.tree.map(lambda x: x[1], model.params))
    stats = as_numpy(scales)
    x = (np.concatenate([obs, action]) - stats.inputs.mean) / stats.inputs.std
    out = net(one["net"], x, lambda z: z / (1 + np.exp(-z)))
    log_var = one["log_var_high"] - np.log1p(np.exp(one["log_var_high"] - out[3:6]))
    log_var = one["log_var_low"] + np.log1p(np.exp(log_var - one["log_var_low"]))
    y = (out[:3] + np.exp(log_var / 2) * by_hand.noise(3)) * stats.targets.std + stats.targets.mean
    np.testing.assert_allclose(t.next_obs, obs + y[:2], rtol=1e-4)
    np.testing.assert_allclose(t.reward, y[2], rtol=1e-4)


def test_metrics_of_an_epoch_are_those_of_its_updates_and_rollouts():
    """Means over the updates that were made, the largest of all rollouts, the sum of all rollouts' steps. The second
    update was taken back, the third was not made."""
    made, kept = jnp.array([True, True, False]), jnp.array([True, False, False])
    loss, steps = jnp.array([1.0, jnp.nan, jnp.nan]), Total(jnp.array([10.0, 0.0, 90.0]))
    metrics = {"mean": jnp.array([1.0, 2.0, 9.0]), "steps": steps, "most": Largest(jnp.array([-1.0, 5.0, 9.0]))}
    outcome = Outcome({"loss": loss}, metrics | {"given": 0.5}, made=made, kept=kept)
    after = SimpleNamespace(agent=(), fault=SimpleNamespace(rows=jnp.int32(0)))
    before = {"steps": Total(jnp.float32(7.0)), "most": Largest(jnp.float32(3.0)), "only": Total(jnp.float32(4.0))}
    report = make_report(jnp.int32(0), after, FitReport({}), before, outcome)
    told = {name: float(report.metrics[name]) for name in ("mean", "steps", "most", "only", "given", "improve/done")}
    expected = {"mean": 1.5, "steps": 17.0, "most": 5.0, "only": 4.0, "given": 0.5, "improve/done": 1 / 3}
    assert told == pytest.approx(expected)
    assert int(report.health.losses["loss"]) == 1  # the other was never made
    negative = Largest(jnp.array([-3.0, -2.0]))
    assert [float(reduce_metric(x)) for x in (negative, Total(jnp.ones(2)), 0.5)] == [-2.0, 2.0, 0.5]


def test_what_the_first_epochs_repeats_report_is_added_up():
    """Three times two updates; the loss of the first one is not finite, and the largest number comes first."""

    def update(key, count, sources):
        loss = jnp.where(count == 0, jnp.nan, 1.0)
        metrics = {"most": Largest(10.0 - count), "sum": Total(jnp.float32(1.0)), "mean": count * 1.0}
        return count + 1, Outcome({"loss": loss}, metrics)

    agent = by_hand.watcher(None, jnp.int32(0))._replace(update=update)
    config = dataclasses.replace(TINY, first_updates=6)
    program = make_program(
        config, counting(), by_hand.two_members(lambda xp, m, obs, a: (obs, obs[0], jnp.array(False))), agent
    )
    report = jax.jit(program.epoch)(jax.jit(program.init)(jax.random.key(0)), jnp.int32(3))[1]
    told = {name: float(report.metrics[name]) for name in ("most", "sum", "mean")}
    assert told == {"most": 10.0, "sum": 6.0, "mean": 4.5} and int(report.health.losses["loss"]) == 1
