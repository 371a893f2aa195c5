"""Critics with BatchNorm over joined batches (CrossQ) and categorical values (XQC), against NumPy in float64."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import BATCH, SPEC, as_numpy, each_of, same, slope
from conftest import replace
from test_first_update import ALPHA, SHARED, along, begun, followed, gaussian, soft_walk

from benchmarks.settings import attempt
from branchax import nn
from branchax.agents import categorical
from branchax.agents.sac import make_sac
from branchax.checks import check
from branchax.config import CriticConfig, SACConfig
from branchax.errors import ConfigError
from branchax.presets import preset

ATOMS, RANGE = 7, (-3.0, 5.0)


@pytest.fixture(autouse=True)
def _noise(monkeypatch):
    by_hand.fixed_noise(monkeypatch)


# --- BatchNorm ---


def normal(rows, norm, seen):
    """A BatchNorm of rows [N, F], which keeps their statistics in `seen`."""
    mean, variance = rows.mean(0), rows.var(0)
    seen.append((mean, variance))
    return (rows - mean) / np.sqrt(variance + 1e-3) * norm["scale"] + norm.get("bias", 0)


def outputs(net, rows):
    """What a network with one hidden layer says of joined rows [N, in] -> [N, K], and their statistics."""
    seen = []
    x = normal(rows, net["batch_norm_in"], seen)
    assert set(net["layer_0"]) == {"kernel"} and set(net["batch_norm_in"]) == {"scale"}  # a shift would be taken away
    x = x @ net["layer_0"]["kernel"]
    x = np.maximum(normal(x, net["batch_norm_0"], seen), 0)
    return x @ net["layer_1"]["kernel"] + net["layer_1"]["bias"], seen


def unlike_the_start(params, seed=0):
    """The same with norms that do something and statistics that no batch has."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.uniform(0.1, 0.5, x.shape), x.dtype), params)


def test_measured_statistics_are_the_batch_s_and_the_running_ones_follow():
    net = nn.mlp(3, (4,), 2, batch_norm=True)
    params = unlike_the_start(net.init(jax.random.key(0)))
    rows = np.random.default_rng(1).normal(2, 3, (16, 3)).astype(np.float32)
    measured = net.measure(params, jnp.asarray(rows))
    expected, seen = outputs(as_numpy(params.net), rows.astype(float))
    np.testing.assert_allclose(net.apply(measured, rows), expected, rtol=1e-4, atol=1e-5)
    for (mean, variance), name in zip(seen, ("batch_norm_in", "batch_norm_0"), strict=True):
        np.testing.assert_allclose(measured.stats[name]["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(measured.stats[name]["var"], variance, rtol=1e-4)
    broken = measured._replace(stats=jax.tree.map(lambda x: x.at[1].set(jnp.nan), measured.stats))
    now = nn.follow(params, broken)
    for old, new, batch in zip(*map(jax.tree.leaves, (params.stats, now.stats, measured.stats)), strict=True):
        np.testing.assert_allclose(new, np.where(np.arange(len(old)) == 1, old, 0.99 * old + 0.01 * batch), rtol=1e-5)
    assert now.net is params.net


def test_networks_without_it_are_as_they_were():
    net = nn.mlp(3, (4,), 2)
    assert net.measure is None and set(net.init(jax.random.key(0))) == {"layer_0", "layer_1"}
    assert nn.mlp(3, (4,), 2, batch_norm=True).layers is None


def q_joined(nets, here, after):
    """Q_c of (s, a) and of (s', a'), [C, B] each: of networks whose statistics are those of the two joined."""
    rows = np.concatenate([np.concatenate(pair, -1) for pair in (here, after)])
    found = np.array([outputs(net, rows)[0][:, 0] for net in each_of(nets)])
    return found[:, :BATCH], found[:, BATCH:]


def q_running(params, obs, action):
    """Q_c [C] at obs [D], action [A], by the running statistics."""

    def one(net, stats):
        x = np.concatenate([obs, action])
        for i in ("in", "0"):
            s, norm = stats[f"batch_norm_{i}"], net[f"batch_norm_{i}"]
            x = (x - s["mean"]) / np.sqrt(s["var"] + 1e-3) * norm["scale"] + norm.get("bias", 0)
            layer = net[f"layer_{0 if i == 'in' else 1}"]
            x = (x if i == "in" else np.maximum(x, 0)) @ layer["kernel"] + layer.get("bias", 0)
        return x[0]

    return np.array([one(net, stats) for net, stats in zip(each_of(params.net), each_of(params.stats), strict=True)])


def checked(before, after, told, here, later, y, actor_loss):
    """Loss, gradients, statistics and slow copies of an update with BatchNorm."""
    critics, targets = as_numpy((before.critics.params.net, before.targets.net))
    y = y(q_joined(targets, here, later)[1])

    def loss(nets):
        return 0.5 * ((q_joined(nets, here, later)[0] - y) ** 2).mean(-1).sum()

    assert told["critic/loss"] == pytest.approx(loss(critics), rel=1e-4)
    gradient = by_hand.gradient(after.critics)
    same(gradient.net, slope(loss, critics))
    assert not any(np.any(x) for x in jax.tree.leaves(gradient.stats))
    rows = np.concatenate([np.concatenate(pair, -1) for pair in (here, later)])
    for c, net in enumerate(each_of(critics)):
        for (mean, variance), name in zip(outputs(net, rows)[1], ("batch_norm_in", "batch_norm_0"), strict=True):
            for what, batch in (("mean", mean), ("var", variance)):
                old, new = (np.asarray(p.critics.params.stats[name][what][c], float) for p in (before, after))
                np.testing.assert_allclose(new, 0.99 * old + 0.01 * batch, rtol=1e-4, atol=1e-6)
    same(after.targets, followed(before.targets, after.critics.params), 1e-6)
    actor = as_numpy(before.actor.params)
    assert told["policy/loss"] == pytest.approx(actor_loss(actor), rel=1e-4)
    same(by_hand.gradient(after.actor), slope(actor_loss, actor))


def varied(agent):
    """An agent's start at which all of this shows."""
    before = begun(agent)
    critics = before.critics._replace(params=unlike_the_start(before.critics.params))
    return before._replace(critics=critics, targets=unlike_the_start(before.targets, 1))


def test_an_update_joins_states_with_those_that_follow():
    """CrossQ: both networks see (s, a) and (s', a') as one batch; the actor sees running statistics."""
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, critic=CriticConfig(batch_norm=True), **SHARED))
    before, (rows, t) = varied(agent), by_hand.batch()
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows))
    actor, new = as_numpy((before.actor.params, after.critics.params))
    drawn, log_prob = map(np.array, zip(*[gaussian(actor, s) for s in t.next_obs], strict=True))

    def y(q):
        return t.reward + np.where(t.terminated, 0, SHARED["discount"]) * (q.min(0) - ALPHA * log_prob)

    def actor_loss(actor):
        acts = [gaussian(actor, s) for s in t.obs]
        return np.mean([ALPHA * p - q_running(new, s, a).min() for s, (a, p) in zip(t.obs, acts, strict=True)])

    checked(before, after, told, (t.obs, t.action), (t.next_obs, drawn), y, actor_loss)


def test_fresh_rollouts_join_their_first_and_last_states(monkeypatch):
    """The double horizon: (s_0, a_0) and (s_H, a_H), where a rollout has not ended."""
    monkeypatch.setattr(by_hand, "ENDS", 0.1)  # with this batch, some end
    critic = CriticConfig(expand="fresh", batch_norm=True)
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, through_model=True, critic=critic, **SHARED))
    before, (rows, t) = varied(agent), by_hand.batch()
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows, by_hand.ahead(3)))
    actor, new = as_numpy((before.actor.params, after.critics.params))
    walks = [soft_walk(actor, b, t.obs[b], 3) for b in range(BATCH)]
    assert 0 < sum(steps[-1].ended for steps in walks) < BATCH
    here = tuple(np.array([getattr(steps[0], name) for steps in walks]) for name in ("obs", "action"))
    ends = [(steps[-1].next_obs, *gaussian(actor, steps[-1].next_obs)) for steps in walks]
    later = tuple(np.array([here[i][b] if walks[b][-1].ended else ends[b][i] for b in range(BATCH)]) for i in range(2))

    def y(q):
        return np.array([along(walks[b], lambda obs, b=b: q[:, b].min() - ALPHA * ends[b][2]) for b in range(BATCH)])

    def last(actor, obs):
        action, log_prob = gaussian(actor, obs)
        return q_running(new, obs, action).min() - ALPHA * log_prob

    def actor_loss(actor):
        walks = [soft_walk(actor, b, t.obs[b], 3) for b in range(BATCH)]
        return -np.mean([s[0].bonus + along(s, lambda obs: last(actor, obs)) for s in walks])

    checked(before, after, told, here, later, y, actor_loss)


def test_standardised_inputs_are_measured_as_they_enter():
    net = nn.standardise(nn.mlp(3, (4,), 2, batch_norm=True), 3)
    params = unlike_the_start(net.init(jax.random.key(0)))
    rows = np.random.default_rng(1).normal(2, 3, (16, 3)).astype(np.float32)
    scaled = (rows - np.asarray(params.mean)) / np.asarray(params.std)
    found = net.measure(params, jnp.asarray(rows))
    np.testing.assert_allclose(found.net.stats["batch_norm_in"]["mean"], scaled.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        net.apply(found, rows), outputs(as_numpy(params.net.net), scaled)[0], rtol=1e-3, atol=1e-4
    )
    _, *slope = jax.grad(lambda params: net.apply(net.measure(params, rows), rows).sum())(params)
    assert not np.any(slope)  # the statistics of the data are no parameters
    now = nn.follow(params, found)
    assert now.mean is params.mean and not np.allclose(
        now.net.stats["batch_norm_in"]["mean"], params.net.stats["batch_norm_in"]["mean"]
    )


# --- categorical values ---


@pytest.mark.parametrize("atoms", [2, 7, 101])
def test_a_target_s_projection_has_its_mean_inside_the_range_and_the_end_s_outside(atoms):
    y = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 50), np.linspace(-1, 1, atoms), [-1.7, 2.0, np.inf]])
    m = np.asarray(categorical.two_hot(jnp.asarray(y, jnp.float32), atoms), float)
    z = np.linspace(-1, 1, atoms)
    np.testing.assert_allclose(m.sum(-1), 1, atol=2e-5)
    np.testing.assert_allclose(m @ z, np.clip(y, -1, 1), atol=2e-6)
    assert np.all(m >= 0) and np.all((m > 1e-4).sum(-1) <= 2)
    for weights, at in zip(m, np.clip(y, -1, 1), strict=True):
        assert np.all(np.abs(z[weights > 1e-4] - at) < 2 / (atoms - 1) + 1e-6)  # neighbours


def test_a_value_is_the_mean_of_its_distribution():
    logits = np.random.default_rng(0).normal(0, 2, (3, 5, ATOMS))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = categorical.expectation(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(found, p @ np.linspace(-1, 1, ATOMS), atol=1e-6)


def logits_of(critics, obs, action):
    """[C, K] at obs [D], action [A]."""
    return np.array([by_hand.net(c, np.concatenate([obs, action])) for c in each_of(critics)])


def q_of(critics, obs, action):
    """The expectations, on the range."""
    logits = logits_of(critics, obs, action)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return p @ np.linspace(*RANGE, ATOMS)


def test_the_first_update_of_categorical_critics():
    """Cross-entropy on the two-hot targets, whose values are expectations; the actor climbs expectations."""
    critic = CriticConfig(atoms=ATOMS, scale="quantile", scale_rate=0.0)
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, critic=critic, **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch()
    before = before._replace(
        range=before.range._replace(low=jnp.float32(RANGE[0]), high=jnp.float32(RANGE[1]), seen=jnp.array(True))
    )
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows))
    actor, critics, targets, new = as_numpy(
        (before.actor.params, before.critics.params, before.targets, after.critics.params)
    )
    goal = []
    for b in range(BATCH):
        action, log_prob = gaussian(actor, t.next_obs[b])
        later = np.clip(q_of(targets, t.next_obs[b], action) - ALPHA * log_prob, *RANGE).min()
        later = 0.0 if t.terminated[b] else RANGE[0] if t.truncated[b] else later  # truncated: it has left the data
        goal.append(t.reward[b] + SHARED["discount"] * later)

    def loss(critics):
        total = 0.0
        for b in range(BATCH):
            logits = logits_of(critics, t.obs[b], t.action[b])
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            place = (np.clip(goal[b], *RANGE) - RANGE[0]) / (RANGE[1] - RANGE[0]) * (ATOMS - 1)
            low = min(int(place), ATOMS - 2)
            total -= ((low + 1 - place) * log_p[:, low] + (place - low) * log_p[:, low + 1]).sum()
        return total / BATCH

    assert told["critic/loss"] == pytest.approx(loss(critics), rel=1e-4)
    same(by_hand.gradient(after.critics), slope(loss, critics))
    q = [q_of(critics, t.obs[b], t.action[b]) for b in range(BATCH)]
    assert (told["critic/q_mean"], told["critic/q_max"]) == pytest.approx((np.mean(q), np.max(q)), rel=1e-4)

    def actor_loss(actor):
        acts = [gaussian(actor, s) for s in t.obs]
        return np.mean([ALPHA * p - q_of(new, s, a).min() for s, (a, p) in zip(t.obs, acts, strict=True)])

    assert told["policy/loss"] == pytest.approx(actor_loss(actor), rel=1e-4)
    same(by_hand.gradient(after.actor), slope(actor_loss, actor))
    valued = agent.valuation.values(before, rows.transition.obs[0], rows.transition.action[0])
    np.testing.assert_allclose(valued, q_of(critics, t.obs[0], t.action[0]), rtol=1e-4)


def test_a_range_that_is_a_point_is_no_fault():
    critic = CriticConfig(atoms=ATOMS, scale="quantile", zero_last=True)
    agent = make_sac(SPEC, SACConfig(critic=critic, **SHARED))
    before, (rows, _) = begun(agent, apart=False), by_hand.batch()
    before = before._replace(range=before.range._replace(low=jnp.float32(2), high=jnp.float32(2), seen=jnp.array(True)))
    _, told = by_hand.update(agent, before, by_hand.off_batch(rows))
    assert all(np.isfinite(x) for x in told.values()) and told["critic/skipped_steps"] == 0
    assert told["critic/loss"] == pytest.approx(2 * np.log(ATOMS), rel=1e-4)


# --- what does not go together ---


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("td3", {"agent__critic__batch_norm": True}, ["agent.critic.batch_norm: True", "td3"]),
        (
            "sac",
            {"agent__critic__batch_norm": True, "agent__critic__layer_norm": True},
            ["agent.critic.layer_norm: True", "same layers"],
        ),
        ("mve", {"agent__critic__batch_norm": True}, ["agent.critic.expand: mve", "none or fresh"]),
        ("steve", {"agent__critic__batch_norm": True}, ["agent.critic.expand: steve", "none or fresh"]),
        ("sac", {"agent__critic__atoms": 101}, ["agent.critic.atoms: 101", "agent.critic.scale"]),
        ("sac", {"agent__critic__clip_actor": True}, ["agent.critic.clip_actor: True", "agent.critic.scale"]),
        ("sac", {"agent__critic__atoms": 1}, ["agent.critic.atoms: 1 is"]),
        (
            "sac",
            {"agent__critic__atoms": 51, "agent__critic__scale": "possible", "world": "classic/cartpole_discrete"},
            ["agent.critic.atoms: 51", "discrete"],
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(name, changes, words):
    with pytest.raises(ConfigError) as refused:
        check(replace(preset(name, changes.pop("world", "classic/pendulum")), **changes))
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize("name", ["sac", "mbpo", "dhmbpo_tiny", "svg"])
def test_where_it_can_work_it_is_possible(name):
    critic = {"agent__critic__batch_norm": True, "agent__critic__atoms": 101, "agent__critic__scale": "possible"}
    check(replace(preset(name, "classic/pendulum"), **critic))


# --- whole runs ---


def small(name):
    """A preset with such critics, that explores for 20 steps and has epochs of 20 with 4 updates."""
    config = replace(
        preset(name, "classic/pendulum"),
        explore_steps=20,
        epoch_steps=20,
        collect_steps=20,
        env_steps=60,
        updates_per_step=0.2,
        batch_size=8,
        eval_episodes=2,
        model__hidden=(8,),
        model__members=2,
        model__elites=2,
        model__max_rounds=1,
        model__round_steps=2,
        model__batch_size=8,
        agent__hidden=(8,),
        agent__critic__batch_norm=True,
        agent__critic__atoms=5,
        agent__critic__scale="possible",
    )
    if config.model_free:
        return config
    every = 2 if name == "dhmbpo_tiny" else None
    return replace(config, rollout__horizon=2, rollout__per_step=1, rollout__groups=2, rollout__every=every)


@pytest.mark.slow  # draws of settings have such critics in the fast tests
@pytest.mark.parametrize("name", ["sac", "mbpo", "dhmbpo_tiny"])
def test_runs_keep_their_numbers_finite_and_resume_to_the_bit(name):
    attempt(small(name))


@pytest.mark.slow
def test_seeds_side_by_side_are_as_each_alone():
    critic = CriticConfig(batch_norm=True, atoms=ATOMS, scale="possible")
    agent, (rows, _) = make_sac(SPEC, SACConfig(critic=critic, **SHARED)), by_hand.batch()
    sources = by_hand.off_batch(rows)

    def run(key):
        params, keys = agent.init(key), jax.random.split(key, 3)
        return jax.lax.scan(lambda params, key: (agent.update(key, params, sources)[0], ()), params, keys)[0]

    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.jit(jax.vmap(run))(keys)
    for i, key in enumerate(keys):
        alone = jax.jit(run)(key)
        same(jax.tree.map(lambda x, i=i: x[i], both.critics.params), alone.critics.params, 1e-5)
        assert not np.allclose(both.critics.params.stats["batch_norm_in"]["mean"][i], 0)
