"""The double-horizon update against plain loops: targets, gradients, and the stages that its settings ask for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import jit_soon, replace

from branchax import nn, normalize, replay
from branchax.agents import soft
from branchax.agents.base import Ahead, Sources
from branchax.agents.critic import in_range
from branchax.agents.sac import make_sac
from branchax.agents.value_range import ValueRange, track_range
from branchax.build import build
from branchax.config import CriticConfig, SACConfig
from branchax.dynamics.fit import make_ensemble
from branchax.optimizer import adam, count_skipped, renew_statistics, reset_optimizers
from branchax.presets import preset
from branchax.rollout import rollout
from branchax.types import Row, Transition
from branchax.worlds.base import World, WorldSpec, WorldState, never

SPEC = WorldSpec("test/line", obs_size=2, action_size=1, episode_length=100)
ELITES, STEPS, BATCH = 2, 3, 6
CONFIG = SACConfig(
    hidden=(8,),
    learning_rate=1e-9,  # as good as none: the losses are then those of the parameters that went in
    discount=0.9,
    tau=0.1,
    target_entropy=-1.0,
    init_temperature=0.3,
    through_model=True,
    activation="silu",
    normalise_obs=True,
    critic=CriticConfig(members=3, subset=2, expand="fresh", pre_norm=True, scale="quantile", scale_rate=0.5),
)


def line(member):
    """s' = A s + b a, another one for each member; it ends where the first entry passes 1.2."""

    def step(key, state, action):
        rate = 0.9 + 0.1 * member
        obs = jnp.stack([rate * state.obs[0] + state.obs[1] * 0.2, 0.8 * state.obs[1] + 0.5 * action[0]])
        reward = obs[0] - 0.1 * (action**2).sum()
        t = Transition(state.obs, action, reward, obs, obs[0] > 1.2, jnp.zeros((), bool))
        return WorldState((), obs, state.time + 1), t

    return World(SPEC, None, step)


def start(key, rows, after):
    return WorldState((), rows.transition.obs, jnp.zeros(rows.transition.reward.shape, jnp.int32))


def left(member):
    """The line, where it ends by leaving what the data cover."""

    def step(*arguments):
        state, t = line(member).step(*arguments)
        return state, t._replace(terminated=t.truncated, truncated=t.terminated)

    return World(SPEC, None, step)


def in_members(key, act, starts, world_of=line):
    """Group i in member i at even steps, in the other one at odd steps."""

    def one(key, first, start):
        members = (first + jnp.arange(STEPS)) % ELITES
        return rollout(key, world_of, act, start, STEPS, context=members.astype(jnp.float32))[1]

    return jax.vmap(one)(jax.random.split(key, ELITES), jnp.arange(ELITES), starts)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    f = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    ended = np.zeros(BATCH, bool)
    rows = Row(Transition(f(BATCH, 2), f(BATCH, 1), f(BATCH), f(BATCH, 2), ended, ended))
    return jax.tree.map(jnp.asarray, rows)


SOURCES = Sources(lambda key: batch(), None, ahead=Ahead(ELITES, start, None, in_members))


def run(agent, config=CONFIG, world_of=line):
    mixed = functools.partial(in_members, world_of=world_of)
    sources = SOURCES._replace(ahead=SOURCES.ahead._replace(mixed=mixed))
    return jax.jit(lambda p: make_sac(SPEC, config).update(jax.random.key(5), p, sources))(agent)


def made(config=CONFIG):
    agent = jax.jit(make_sac(SPEC, config).init)(jax.random.key(1))
    stats = normalize.Stats(jnp.array([0.5, -1.0]), jnp.array([2.0, 0.5]), jnp.zeros(2), jnp.zeros(2))
    return renew_statistics(agent, stats)


def apply(params, x, pre_norm):
    """The network in NumPy, in float64: standardised inputs, SiLU, LayerNorm before every layer but the first."""
    net = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.net)
    x = (x - np.asarray(params.mean, np.float64)) / np.asarray(params.std, np.float64)
    for i in range(2):
        if i and pre_norm:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x @ net[f"layer_{i}"]["kernel"] + net[f"layer_{i}"]["bias"]
        x = x / (1 + np.exp(-x)) if i == 0 else x
    return x


def acted(actor, noise, obs):
    """A tanh-squashed Gaussian's sample and log-density, from standard normal noise."""
    out = apply(actor, obs, pre_norm=False)
    mean, raw = out[..., :1], out[..., 1:]
    log_std = -10 + 0.5 * 12 * (np.tanh(raw + np.arctanh((np.log(0.5) + 4) / 6)) + 1)  # at the start, 0.5
    x = mean + np.exp(log_std) * noise
    action = np.tanh(x)
    density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)
    return action, density.sum(-1)


def noise_of(keys):
    return np.asarray(jax.vmap(lambda k: jax.random.normal(k, (1,)))(keys), np.float64)


@pytest.mark.parametrize(
    ("before_end", "clips", "world_of"),
    [(False, False, line), (True, False, line), (True, True, line), (False, False, left), (True, False, left)],
)
def test_the_first_update_equals_a_loop(before_end, clips, world_of):
    critic = dataclasses.replace(CONFIG.critic, clip_actor=clips)
    config = dataclasses.replace(CONFIG, value_before_end=before_end, critic=critic)
    agent = made(config)
    after, told = run(agent, config, world_of)
    key = jax.random.split(jax.random.key(5), 3)[1]
    key_rollout, key_subset, _ = jax.random.split(key, 3)
    key_ahead, key_last = jax.random.split(key_rollout)
    _, key_run = jax.random.split(key_ahead)

    policy = functools.partial(acted, agent.actor.params)

    groups = BATCH // ELITES
    obs0 = np.asarray(batch().transition.obs, np.float64).reshape(ELITES, groups, 2)
    alpha, gamma = 0.3, 0.9
    r, logp, seen, done = (np.zeros((STEPS, BATCH, *size)) for size in ((), (), (2,), (1,)))
    alive, first, last = np.ones((STEPS + 1, BATCH), bool), np.zeros((BATCH, 1)), np.zeros((BATCH, 2))
    for g in range(ELITES):
        key_group, obs = jax.random.split(key_run, ELITES)[g], obs0[g]
        rows = slice(g * groups, (g + 1) * groups)
        for t in range(STEPS):
            key_act = jax.random.split(jax.random.fold_in(key_group, t), 3)[0]
            action, density = policy(noise_of(jax.random.split(key_act, groups)), obs)
            seen[t, rows], done[t, rows] = obs, action
            rate = 0.9 + 0.1 * ((g + t) % ELITES)
            obs = np.stack([rate * obs[:, 0] + 0.2 * obs[:, 1], 0.8 * obs[:, 1] + 0.5 * action[:, 0]], -1)
            r[t, rows], logp[t, rows] = obs[:, 0] - 0.1 * action[:, 0] ** 2, density
            alive[t + 1, rows] = alive[t, rows] & (obs[:, 0] <= 1.2)
            if t == 0:
                first[rows] = action
        last[rows] = obs
    assert not alive.all() and alive[-1].any()  # some end on the way
    noise = np.asarray(jax.random.normal(key_last, (BATCH, 1)), np.float64)
    final, final_logp = policy(noise, last)
    soft = r - alpha * logp
    q01, q99 = np.quantile(soft[alive[:-1]], [0.01, 0.99]) / (1 - gamma)
    middle, half = 0.5 * (q01 + q99), 0.5 * (q99 - q01)

    def q(params, obs, action):
        x = np.concatenate([obs, action], -1)
        each = [apply(jax.tree.map(lambda leaf: leaf[c], params), x, pre_norm=True)[:, 0] for c in range(3)]  # noqa: B023
        return middle + half * np.stack(each)

    chosen = np.asarray(jax.random.choice(key_subset, 3, (2,), replace=False))
    tail = np.clip(q(agent.targets, last, final)[chosen].min(0), q01, q99) - alpha * final_logp
    seen_q = lambda obs, action: np.clip(q(agent.critics.params, obs, action), *bounds).mean(0)  # noqa: E731
    bounds = (q01, q99) if clips else (-np.inf, np.inf)
    tail_actor = seen_q(last, final) - alpha * final_logp
    assert not clips or (seen_q(last, final) != q(agent.critics.params, last, final).mean(0)).any()
    y, j = np.zeros(BATCH), np.zeros(BATCH)
    for b in range(BATCH):
        for t in range(STEPS):
            y[b] += gamma**t * alive[t, b] * (r[t, b] - (alpha * logp[t, b] if t else 0.0))
            j[b] += gamma**t * alive[t + before_end, b] * soft[t, b]
        y[b] += gamma**STEPS * alive[-1, b] * tail[b]
        j[b] += gamma**STEPS * alive[-1, b] * tail_actor[b]
        n = alive[:, b].sum() - 1  # the step that ends the rollout
        if world_of is left and not alive[-1, b]:  # what follows is worth the least
            y[b] += gamma ** (n + 1) * q01
            j[b] += 0.0 if before_end else gamma ** (n + 1) * q01
        if before_end and not alive[-1, b]:
            at_end = seen_q(seen[n, b : b + 1], done[n, b : b + 1])[0]
            j[b] += gamma**n * (at_end - alpha * logp[n, b])
    loss = 0.5 * ((q(agent.critics.params, obs0.reshape(BATCH, 2), first) - y) ** 2).sum() / BATCH
    assert float(after.range.low) == pytest.approx(q01, rel=1e-4)
    assert float(told.losses["critic/loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(told.losses["policy/loss"]) == pytest.approx(-j.mean(), rel=1e-4)
    assert float(told.metrics["policy/entropy"]) == pytest.approx(-logp[0].mean(), rel=1e-4)
    assert float(told.model_steps) == alive[:-1].sum()


@pytest.mark.parametrize("before_end", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_actors_gradient_equals_finite_differences(before_end):
    """Adam's first moment after one step is a tenth of the gradient.

    The range of values, which rewards move, is no part of the gradient, so that it is left out here.
    """
    config = dataclasses.replace(CONFIG, critic=dataclasses.replace(CONFIG.critic, scale="none"))
    config = dataclasses.replace(config, value_before_end=before_end)
    agent = made(config)
    moment = run(agent, config)[0].actor.optimizer.inner_state[1].mu
    put = lambda actor: agent._replace(actor=agent.actor._replace(params=actor))  # noqa: E731
    loss = jax.jit(lambda actor: run(put(actor), config)[1].losses["policy/loss"])
    rng = np.random.default_rng(3)
    for _ in range(3):
        way = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape), np.float32), agent.actor.params)
        way = way._replace(mean=jnp.zeros(2), std=jnp.zeros(2))
        at = lambda h: float(loss(jax.tree.map(lambda p, w: p + h * w, agent.actor.params, way)))  # noqa: B023, E731
        slope = (at(2e-3) - at(-2e-3)) / 4e-3
        dot = sum(float((10 * m * w).sum()) for m, w in zip(jax.tree.leaves(moment), jax.tree.leaves(way), strict=True))
        assert dot == pytest.approx(slope, rel=0.02, abs=2e-3)
    assert float(jnp.abs(moment.mean).max()) == 0.0  # no gradient moves the statistics


@pytest.mark.slow
def test_the_actors_gradient_through_a_fitted_model_is_that_through_the_world():
    """Without hidden layers a member can be the line itself, but for a noise of 0.7 % of what changes, its least."""

    def plain(member):  # endless, and with a reward that is linear
        def step(key, state, action):
            after, t = line(0.0).step(key, state, action)
            return after, t._replace(reward=after.obs[0], terminated=jnp.zeros((), bool))

        return World(SPEC._replace(termination=never), None, step)

    settings = replace(preset("dhmbpo_tiny"), model__members=ELITES, model__elites=ELITES, model__max_rounds=60).model
    settings = dataclasses.replace(settings, hidden=(), dropout=0.0, noise="measured", learning_rate=0.02)
    dynamics = make_ensemble(plain(0), settings)
    rng = np.random.default_rng(1)
    f = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    states = WorldState((), f(1.5 * rng.normal(size=(1_000, 2))), jnp.zeros(1_000, jnp.int32))
    actions = f(rng.uniform(-1, 1, size=(1_000, 1)))

    @jax.jit
    def fit():
        rows = Row(jax.vmap(plain(0).step, (None, 0, 0))(jax.random.key(0), states, actions)[1])
        ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), 1_000), rows)
        return dynamics.fit(jax.random.key(1), dynamics.init(jax.random.key(2)), ring)[0]

    def gradient(world_of):
        def mixed(key, act, starts):
            run = lambda key, member, start: rollout(key, world_of(member), act, start, STEPS)[1]  # noqa: E731
            return jax.vmap(run)(jax.random.split(key, ELITES), jnp.arange(ELITES), starts)

        sources = SOURCES._replace(ahead=SOURCES.ahead._replace(mixed=mixed))
        moved = jax.jit(lambda p: make_sac(SPEC, CONFIG).update(jax.random.key(5), p, sources)[0])(made())
        return np.concatenate([x.ravel() for x in jax.tree.leaves(moved.actor.optimizer.inner_state[1].mu.net)])

    model = fit()
    learned, true = gradient(lambda member: dynamics.world(model, member)), gradient(plain)
    assert learned @ true / np.linalg.norm(learned) / np.linalg.norm(true) > 0.99
    assert np.linalg.norm(learned) == pytest.approx(np.linalg.norm(true), rel=0.15)


def scheduled(length, horizon):
    """Sources whose rollouts may be `length` steps long, and are now `horizon`; rows end nowhere."""

    def mixed(key, act, starts):
        def one(key, member, start):
            endless = line(member)
            step = lambda *a: (lambda s, t: (s, t._replace(terminated=t.terminated & False)))(*endless.step(*a))  # noqa: E731
            return rollout(key, endless._replace(step=step), act, start, length, horizon=horizon)[1]

        return jax.vmap(one)(jax.random.split(key, ELITES), jnp.arange(ELITES, dtype=jnp.float32), starts)

    return SOURCES._replace(ahead=SOURCES.ahead._replace(mixed=mixed))


@pytest.mark.slow
def test_a_scheduled_look_ahead_equals_one_of_that_length():
    """Rows past the horizon are blank: the last is not the state to bootstrap from, and their rewards do not count."""
    update, agent = make_sac(SPEC, CONFIG).update, made()
    told = [
        jax.jit(lambda p, h: update(jax.random.key(5), p, scheduled(length, h)))(agent, jnp.int32(2))  # noqa: B023
        for length in (2, 5)
    ]
    (short, now), (long, then) = told
    assert float(then.losses["critic/loss"]) == pytest.approx(float(now.losses["critic/loss"]), rel=1e-5)
    assert float(then.losses["policy/loss"]) == pytest.approx(float(now.losses["policy/loss"]), rel=1e-5)
    assert (float(long.range.low), float(long.range.high)) == pytest.approx(
        (float(short.range.low), float(short.range.high)), rel=1e-5
    )
    for x, y in zip(*(jax.tree.leaves(a.actor.optimizer.inner_state[1].mu) for a in (short, long)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_bounds_hold_values_and_leave_the_derivative():
    stats = normalize.Stats(jnp.zeros(2), jnp.ones(2), -jnp.ones(2), jnp.ones(2))
    x = jnp.array([0.5, 7.0])
    value, slope = jax.value_and_grad(lambda x: normalize.clip(stats, x, 0.5).sum())(x)
    assert float(value) == 0.5 + 2.0
    np.testing.assert_array_equal(slope, [1.0, 1.0])


def test_a_model_sees_actions_as_the_world_takes_them():
    config = replace(preset("mbpo"), model__hidden=(8,), model__members=2, model__elites=2).model
    dynamics = make_ensemble(line(0.0)._replace(reset=lambda key: start(key, batch(), False)), config)
    model = jax.jit(dynamics.init)(jax.random.key(0))
    state = WorldState((), jnp.array([0.3, -0.2]), jnp.int32(0))
    step = jax.jit(lambda a: dynamics.world(model, jnp.int32(0)).step(jax.random.key(2), state, a)[1])
    beyond, at = step(jnp.array([3.0])), step(jnp.array([1.0]))
    np.testing.assert_array_equal(beyond.next_obs, at.next_obs)
    assert float(beyond.action[0]) == 3.0  # what the policy did is kept


def test_standardised_networks():
    net = nn.standardise(nn.mlp(3, (4,), 2), 3)
    params = net.init(jax.random.key(0))
    x = jnp.array([[1.0, 2.0, 3.0]])
    stats = normalize.Stats(jnp.array([1.0, 0.0]), jnp.array([2.0, 4.0]), jnp.zeros(2), jnp.zeros(2))
    renewed = renew_statistics({"a": params, "b": jnp.ones(3)}, stats)["a"]
    learner = adam().init(params)
    moved = renew_statistics({"it": learner}, stats)["it"]
    jax.tree.map(np.testing.assert_array_equal, moved.optimizer, learner.optimizer)
    assert float(moved.params.std[1]) == 4.0
    np.testing.assert_allclose(net.apply(renewed, x), net.apply(params, jnp.array([[0.0, 0.5, 3.0]])), rtol=1e-6)


def test_the_range_follows_the_quantiles():
    rewards = np.random.default_rng(0).normal(size=1_000).astype(np.float32)
    now = track_range(ValueRange(jnp.zeros(()), jnp.ones(()), jnp.zeros((), bool)), rewards, jnp.float32(0.9), 0.1)
    low, high = np.quantile(rewards, [0.01, 0.99]) / 0.1
    assert (float(now.low), float(now.high)) == pytest.approx((low, high), rel=1e-4)
    then = track_range(now, rewards + 1, jnp.float32(0.9), 0.1)
    assert float(then.low) == pytest.approx(low + 0.1 * 10, rel=1e-4)
    bad = track_range(now, jnp.array([jnp.nan, 1.0]), jnp.float32(0.9), 0.1)
    assert (float(bad.low), float(bad.high)) == (float(now.low), float(now.high))
    hidden = track_range(now, jnp.array([jnp.nan, 1.0]), jnp.float32(0.9), 0.1, mask=jnp.array([False, True]))
    assert float(hidden.low) == pytest.approx(float(now.low) + 0.1 * (10 - float(now.low)), rel=1e-4)
    assert in_range("critic", None) == "critic"


@pytest.mark.parametrize(("reward", "range_"), [(1.0, (0.0, 10.0)), (-2.0, (-20.0, 0.0))])
def test_the_possible_range_holds_what_follows_a_termination(reward, range_):
    rewards = jnp.full(8, reward)  # all the same, as where each step is worth 1: their quantiles are one point
    unseen = ValueRange(-jnp.ones(()), jnp.ones(()), jnp.zeros((), bool))
    now = track_range(unseen, rewards, jnp.float32(0.9), 0.1, ends=True)
    assert (float(now.low), float(now.high)) == pytest.approx(range_, rel=1e-5)
    flat = track_range(unseen, rewards, jnp.float32(0.9), 0.1)
    assert float(flat.low) == float(flat.high)
    for scale, wide in (("possible", True), ("quantile", False)):
        config = SACConfig(hidden=(4,), critic=CriticConfig(scale=scale))
        pieces = soft.make_pieces(SPEC, config, nn.mlp)
        seen = soft.update_range(pieces, soft.init(pieces, jax.random.key(0)), rewards)
        assert bool(seen.range.high > seen.range.low) == wide


def test_optimizers_forget_and_still_count():
    learner = adam().init({"w": jnp.ones(2)})
    learner = adam().step(learner, {"w": jnp.array([jnp.nan, 1.0])}, jnp.float32(0.1))
    learner = adam().step(learner, {"w": jnp.ones(2)}, jnp.float32(0.1))
    blank = reset_optimizers({"it": learner})["it"]
    assert float(learner.optimizer.inner_state[1].mu["w"][0]) > 0
    assert (
        float(jnp.abs(blank.optimizer.inner_state[1].mu["w"]).max()) == int(blank.optimizer.inner_state[1].count) == 0
    )
    assert int(count_skipped(blank)) == 1
    jax.tree.map(np.testing.assert_array_equal, blank.params, learner.params)


@pytest.mark.parametrize("norm", [None, 1.0])
def test_a_gradient_whose_squares_overflow_is_skipped_and_counted(norm):
    before = adam(norm).init({"w": jnp.ones(2)})
    after = adam(norm).step(before, {"w": jnp.array([1e30, 1.0])}, jnp.float32(0.1))
    assert int(count_skipped(after)) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, after.optimizer.inner_state, before.optimizer.inner_state)


@pytest.mark.parametrize("reset", [False, True])
def test_a_fit_resets_the_optimizers_where_it_should(reset):
    config = dataclasses.replace(CONFIG, reset_optimizer=reset)
    after, _ = run(made(config), config)
    renewed = make_sac(SPEC, config).renew(after, normalize.unit(2))
    for before, now in ((after.actor, renewed.actor), (after.critics, renewed.critics)):
        moved = [
            max(float(jnp.abs(x).max()) for x in jax.tree.leaves(of.optimizer.inner_state)) for of in (before, now)
        ]
        assert moved[0] > 0 and (moved[1] == 0) == reset


def test_critics_drop_units_while_they_learn():
    config = dataclasses.replace(CONFIG, critic=dataclasses.replace(CONFIG.critic, dropout=0.5))
    losses = [float(run(made(), each)[1].losses["critic/loss"]) for each in (CONFIG, config)]
    assert abs(losses[1] - losses[0]) > 1e-3 * losses[0]


TINY = replace(
    preset("dhmbpo_small", "classic/pendulum"),
    env_steps=80,
    explore_steps=40,
    epoch_steps=12,
    collect_steps=12,
    first_updates=36,
    batch_size=8,
    model__hidden=(8,),
    model__members=2,
    model__elites=2,
    model__max_rounds=1,
    model__round_steps=2,
    rollout__every=4,
    rollout__per_step=2,
    rollout__groups=2,
    rollout__horizon=3,
    rollout__look_ahead=2,
    rollout__keep_epochs=2,
    agent__hidden=(8,),
    agent__critic_warmup=5,
    eval_episodes=2,
)


@pytest.mark.slow
@pytest.mark.parametrize(("dropout", "warm_ups"), [(0.0, 5), (0.3, 5), (0.0, 0)])
def test_an_epoch_makes_the_updates_and_rollouts_that_its_settings_ask_for(dropout, warm_ups):
    config = replace(TINY, agent__critic__dropout=dropout, agent__critic_warmup=warm_ups)
    program = build(config)
    state = jit_soon(program.init)(jax.random.key(0))
    epoch = jit_soon(program.epoch)
    first, report = epoch(state, jnp.int32(3))
    assert int(first.counts.updates) == 36 and int(first.counts.env_steps) == 52
    # Rollouts of 8 x 3 steps: before the updates of critics alone, and before each 4 of the 36 updates; batches of 8
    # look 2 steps ahead.
    before = int(warm_ups > 0)
    assert int(first.counts.model_steps) == 24 * (before + 9) + 16 * (warm_ups + 36)
    assert int(report.metrics["imagine/steps"]) == 24 * (before + 9)
    assert config.rollouts == 8 and config.imagined_capacity == 48 and int(first.imagined.size) == 48
    assert np.isfinite(float(report.metrics["critic/loss"]))
    second, _ = epoch(first, jnp.int32(3))
    assert int(second.counts.updates) == 48
    assert int(second.counts.model_steps - first.counts.model_steps) == 24 * (before + 3) + 16 * (warm_ups + 12)
    rows = first.real.data.transition.obs[: int(first.real.size)]
    np.testing.assert_allclose(first.agent.actor.params.mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(first.agent.targets.std[1, :3], np.asarray(rows).std(0), rtol=1e-4)
    newest = jnp.abs(second.imagined.data.obs).max()
    assert np.isfinite(float(newest)) and replay.capacity(second.imagined) == 48


@pytest.mark.slow
def test_seeds_side_by_side_are_as_each_alone():
    program, keys = build(TINY), jax.random.split(jax.random.key(0), 2)
    run = lambda key: program.epoch(program.init(key), jnp.int32(3))[0]  # noqa: E731
    both, alone = jit_soon(jax.vmap(run))(keys), jit_soon(run)(keys[1])
    assert int(alone.counts.updates) == 36 and both.counts.model_steps.tolist() == [int(alone.counts.model_steps)] * 2
    for x, y in zip(jax.tree.leaves(both.agent), jax.tree.leaves(alone.agent), strict=True):
        np.testing.assert_allclose(x[1], y, rtol=2e-3, atol=2e-4)


def test_the_critics_alone_warm_up():
    agent = make_sac(SPEC, dataclasses.replace(CONFIG, critic_warmup=1, learning_rate=1e-2))
    before = made()
    after, told = jax.jit(lambda p: agent.warm_up(jax.random.key(5), p, SOURCES))(before)
    jax.tree.map(np.testing.assert_array_equal, after.actor.params, before.actor.params)
    assert float(jnp.abs(after.critics.params.net["layer_0"]["bias"]).max()) > 0 and set(told.losses) == {"critic/loss"}


def test_the_way_back_through_the_model_keeps_products_only():
    program = build(preset("dhmbpo_tiny", "classic/pendulum"))
    state = jax.eval_shape(program.init, jax.random.key(0))
    text = str(jax.make_jaxpr(lambda state: program.stages.improve(state, None, jnp.int32(20)))(state))
    assert "dotssaveable" in text.lower().replace("_", "")  # JAX's name of the policy, as its versions print it
