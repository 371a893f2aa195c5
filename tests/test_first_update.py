"""The first update of every agent against NumPy in float64: targets, losses, whole gradients, and what follows slowly.

The references are plain loops over rows, written from the papers that the agents' modules name. Gradients are central
differences of those loops; the library's own is read from Adam's first moment, so a wrong sign, factor or row shows.
"""

import dataclasses

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import BATCH, DISCOUNT, DISCRETE, SPEC, as_numpy, each_of, net, noise, same, slope

from branchax import nn
from branchax.agents import critic as critics
from branchax.agents import value as values
from branchax.agents import value_range
from branchax.agents.base import Sources
from branchax.agents.critic import Critic, steve
from branchax.agents.dqn import epsilon_greedy, make_dqn
from branchax.agents.pathwise import make_pathwise
from branchax.agents.policy_gradient import make_policy_gradient
from branchax.agents.q_learning import make_q_learning
from branchax.agents.sac import make_sac
from branchax.agents.td3 import make_td3
from branchax.config import (
    CriticConfig,
    DQNConfig,
    PathwiseConfig,
    PolicyGradientConfig,
    QLearningConfig,
    SACConfig,
    TD3Config,
)
from branchax.optimizer import adam
from branchax.rollout import rollout
from branchax.types import Trajectory, Transition

ALPHA, TAU = 0.3, 0.1
SHARED = {"hidden": (4,), "discount": DISCOUNT, "tau": TAU, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def _noise(monkeypatch):
    by_hand.fixed_noise(monkeypatch)


def begun(agent, apart=True):
    """Parameters at the start, with targets that differ from what they follow."""
    init = jax.jit(agent.init)
    params, other = (init(jax.random.key(seed)) for seed in (3, 4))
    slow = {"targets", "target_actor", "target_critics", "target"} & set(params._fields)
    return params._replace(**{name: getattr(other, name) for name in slow}) if apart else params


def q_of(critics, obs, action):
    """Q_c [C] at obs [D], action [A]."""
    return np.array([net(c, np.concatenate([obs, action]))[0] for c in each_of(critics)])


def regression(critics, targets, values=q_of):
    """1/2 sum_c of the weighted mean of (Q_c - y)^2, for targets [(obs, action, y, weight)]."""
    total = sum(w for *_, w in targets)
    return 0.5 * sum(w * ((values(critics, s, a) - y) ** 2).sum() for s, a, y, w in targets if w) / total


def followed(before, after, rate=TAU):
    return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, *map(as_numpy, (before, after)))


# --- soft actor-critic ---


def gaussian(actor, obs):
    """The squashed Gaussian's action at obs [D] with the fixed noise, and its log density (app. C of SAC)."""
    mean, raw = np.split(net(actor, obs), 2)
    log_std = -10 + 6 * (np.tanh(raw + np.arctanh((np.log(0.5) + 4) / 6)) + 1)  # at the start, 0.5
    e = noise(len(mean))
    u = mean + np.exp(log_std) * e
    density = -0.5 * e**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(u) ** 2)
    return np.tanh(u), density.sum()


def soft_values(critics, actor, obs):
    """Q_c(s, a) - alpha log pi(a | s), [C]."""
    action, log_prob = gaussian(actor, obs)
    return q_of(critics, obs, action) - ALPHA * log_prob


def soft_walk(actor, row, obs, horizon):
    def act(obs):
        action, log_prob = gaussian(actor, obs)
        return action, -ALPHA * log_prob

    return by_hand.walk(by_hand.member_of(row), obs, act, horizon)


def along(steps, last):
    """r_0 + gamma (b_1 + r_1) + ... + gamma^n last; `last` values what follows the final step (0 after an end)."""
    total, power = 0.0, 1.0
    for i, step in enumerate(steps):
        total += power * (step.reward + (step.bonus if i else 0.0))
        power *= DISCOUNT
    return total + (0.0 if steps[-1].ended else power * last(steps[-1].next_obs))


def sac_targets(t, actor, targets, expand, least, horizon=2, td_k=True):
    """[(obs, action, y, weight)] of the rows, and of the imagined states with TD-k."""
    value = lambda obs: least(soft_values(targets, actor, obs))  # noqa: E731
    rows, imagined = [], []
    for b in range(BATCH):
        goes_on = 0.0 if t.terminated[b] else DISCOUNT
        if expand == "none":
            later = value(t.next_obs[b])
        elif expand == "mve":
            steps = soft_walk(actor, b, t.next_obs[b], horizon)
            later = steps[0].bonus + along(steps, value)
            for i, step in enumerate(steps):
                if td_k and not t.terminated[b]:
                    imagined.append((step.obs, step.action, along(steps[i:], value), 1.0))
        else:
            later = by_steve(t.next_obs[b], actor, targets, horizon)
        rows.append((t.obs[b], t.action[b], t.reward[b] + goes_on * later, 1.0))
    return rows + imagined


def by_steve(obs, actor, targets, horizon):
    """Every horizon up to the last in every member and critic, weighted by inverse variance (STEVE, eq. 9)."""
    means, weights = [], []
    for h in range(horizon + 1):
        each = []
        for member in range(2):
            steps = by_hand.walk(member, obs, lambda o: (gaussian(actor, o)[0], -ALPHA * gaussian(actor, o)[1]), h)
            total = sum(DISCOUNT**i * (s.reward + s.bonus) for i, s in enumerate(steps))
            ended = bool(steps) and steps[-1].ended
            end = steps[-1].next_obs if steps else obs
            power = 0.0 if ended else DISCOUNT ** len(steps)
            each += list(total + power * soft_values(targets, actor, end))
        means.append(np.mean(each))
        weights.append(1 / np.var(each))
    return np.average(means, weights=weights)


SAC_CASES = {
    "sac": CriticConfig(),
    "redq": CriticConfig(members=4, subset=2),
    "mve": CriticConfig(expand="mve"),
    "mve_without_td_k": CriticConfig(expand="mve", td_k=False),
    "steve": CriticConfig(members=3, expand="steve"),
}


@pytest.mark.parametrize("name", list(SAC_CASES))
def test_sac(name, monkeypatch):
    critic = SAC_CASES[name]
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, critic=critic, **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch()
    monkeypatch.setattr(jax.random, "choice", lambda key, n, shape, replace: jnp.array([1, 3]))  # REDQ's random few
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows, by_hand.ahead(2)))
    actor, critics, targets = as_numpy((before.actor.params, before.critics.params, before.targets))
    least = (lambda v: v[[1, 3]].min()) if name == "redq" else np.min
    goal = sac_targets(t, actor, targets, critic.expand, least, td_k=critic.td_k)
    assert told["critic/loss"] == pytest.approx(regression(critics, goal), rel=1e-4)
    same(by_hand.gradient(after.critics), slope(lambda c: regression(c, goal), critics))

    new = as_numpy(after.critics.params)  # the critics move first
    settle = np.min if critic.members <= 2 else np.mean

    def actor_loss(actor):
        return -np.mean([settle(soft_values(new, actor, s)) for s in t.obs])

    assert told["policy/loss"] == pytest.approx(actor_loss(actor), rel=1e-4)
    same(by_hand.gradient(after.actor), slope(actor_loss, actor))
    # J_alpha = E[-log_alpha (log pi + target entropy)]: its slope in log alpha is the entropy less its target.
    entropy = -np.mean([gaussian(actor, s)[1] for s in t.obs])
    assert told["policy/entropy"] == pytest.approx(entropy, rel=1e-4)
    same(by_hand.gradient(after.log_alpha), entropy - (-0.5 * SPEC.action_size))
    same(after.targets, followed(before.targets, after.critics.params), 1e-6)


def test_sac_in_a_range_of_values():
    """Values in units of [-3, 5]: Q = 1 + 4 net, and V is clipped to it. After a row that has left the data, -3."""
    critic = CriticConfig(scale="possible", scale_rate=0.0)
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, critic=critic, **SHARED))
    now = value_range.ValueRange(jnp.float32(-3), jnp.float32(5), jnp.ones((), bool))
    before, (rows, t) = begun(agent)._replace(range=now), by_hand.batch()
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows))
    actor, critics, targets = as_numpy((before.actor.params, before.critics.params, before.targets))

    def scaled(critics, obs, action):
        return 1 + 4 * q_of(critics, obs, action)

    goal = []
    for b in range(BATCH):
        action, log_prob = gaussian(actor, t.next_obs[b])
        later = np.clip(scaled(targets, t.next_obs[b], action) - ALPHA * log_prob, -3, 5).min()
        later = 0.0 if t.terminated[b] else -3.0 if t.truncated[b] else later
        goal.append((t.obs[b], t.action[b], t.reward[b] + DISCOUNT * later, 1.0))
    assert told["critic/loss"] == pytest.approx(regression(critics, goal, scaled), rel=1e-4)
    same(by_hand.gradient(after.critics), slope(lambda c: regression(c, goal, scaled), critics))


@pytest.mark.parametrize("expand", ["none", "mve"])
def test_critics_learn_by_the_weights_of_their_rows(expand):
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, critic=CriticConfig(expand=expand), **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch()
    weights = np.linspace(0.2, 1.0, BATCH, dtype=np.float32)
    sources = by_hand.off_batch(rows, by_hand.ahead(2))._replace(weigh=lambda row: jnp.asarray(weights))
    told = by_hand.update(agent, before, sources)[1]
    actor, critics, targets = as_numpy((before.actor.params, before.critics.params, before.targets))
    goal = sac_targets(t, actor, targets, expand, np.min)
    owner = [next(b for b in range(BATCH) if np.allclose(obs, t.obs[b])) for obs, *_ in goal[:BATCH]]
    # An imagined state counts as the row that its rollout began after; rows come first.
    steps = iter(b for b in range(BATCH) if not t.terminated[b] for _ in soft_walk(actor, b, t.next_obs[b], 2))
    owner += list(steps) if expand == "mve" else []
    goal = [(obs, action, y, weight * weights[b]) for (obs, action, y, weight), b in zip(goal, owner, strict=True)]
    assert told["critic/loss"] == pytest.approx(regression(critics, goal), rel=1e-4)


def test_sac_through_the_model():
    """SVG: the return of two imagined steps and the value after them, differentiated through the model."""
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, through_model=True, **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch()
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows, by_hand.ahead(2)))
    actor, new = as_numpy((before.actor.params, after.critics.params))

    def actor_loss(actor):
        total = 0.0
        for b in range(BATCH):
            steps = soft_walk(actor, b, t.obs[b], 2)
            total += steps[0].bonus + along(steps, lambda obs: soft_values(new, actor, obs).min())
        return -total / BATCH

    assert told["policy/loss"] == pytest.approx(actor_loss(actor), rel=1e-4)
    same(by_hand.gradient(after.actor), slope(actor_loss, actor))


def test_sac_off_fresh_rollouts():
    """The double horizon's update: one rollout of fresh actions for both, and critics that learn on its first alone."""
    critic = CriticConfig(expand="fresh")
    agent = make_sac(SPEC, SACConfig(init_temperature=ALPHA, through_model=True, critic=critic, **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch()
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows, by_hand.ahead(3)))
    actor, critics, targets = as_numpy((before.actor.params, before.critics.params, before.targets))
    walks = [soft_walk(actor, b, t.obs[b], 3) for b in range(BATCH)]
    goal = [
        (steps[0].obs, steps[0].action, along(steps, lambda obs: soft_values(targets, actor, obs).min()), 1.0)
        for steps in walks
    ]
    assert told["critic/loss"] == pytest.approx(regression(critics, goal), rel=1e-4)
    same(by_hand.gradient(after.critics), slope(lambda c: regression(c, goal), critics))
    new = as_numpy(after.critics.params)

    def actor_loss(actor):
        walks = [soft_walk(actor, b, t.obs[b], 3) for b in range(BATCH)]
        return -np.mean([s[0].bonus + along(s, lambda obs: soft_values(new, actor, obs).min()) for s in walks])

    assert told["policy/loss"] == pytest.approx(actor_loss(actor), rel=1e-4)
    same(by_hand.gradient(after.actor), slope(actor_loss, actor))
    entropy = -np.mean([gaussian(actor, s)[1] for s in t.obs])
    same(by_hand.gradient(after.log_alpha), entropy - (-0.5 * SPEC.action_size))


def test_sac_with_discrete_actions():
    """Expectations over the actions are exact; the temperature rises where the entropy is below half the largest."""
    agent = make_sac(DISCRETE, SACConfig(init_temperature=ALPHA, **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch(discrete=True)
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows))
    actor, critics, targets = as_numpy((before.actor.params, before.critics.params, before.targets))

    def chances(actor, obs):
        p = np.exp(net(actor, obs))
        return p / p.sum()

    def entropy(actor, obs):
        p = chances(actor, obs)
        return -(p * np.log(p)).sum()

    def values(critics, actor, obs):
        p = chances(actor, obs)
        return np.array([(p * (net(c, obs) - ALPHA * np.log(p))).sum() for c in each_of(critics)])

    goal = [
        (s, a, r + DISCOUNT * (1 - end) * values(targets, actor, s2).min(), 1.0)
        for s, a, r, s2, end in zip(*t[:5], strict=True)
    ]
    of_action = lambda critics, obs, action: np.array([net(c, obs) @ action for c in each_of(critics)])  # noqa: E731
    assert told["critic/loss"] == pytest.approx(regression(critics, goal, of_action), rel=1e-4)
    same(by_hand.gradient(after.critics), slope(lambda c: regression(c, goal, of_action), critics))
    new = as_numpy(after.critics.params)
    actor_loss = lambda actor: -np.mean([values(new, actor, s).min() for s in t.obs])  # noqa: E731
    assert told["policy/loss"] == pytest.approx(actor_loss(actor), rel=1e-4)
    same(by_hand.gradient(after.actor), slope(actor_loss, actor))
    mean_entropy = np.mean([entropy(actor, s) for s in t.obs])
    same(by_hand.gradient(after.log_alpha), mean_entropy - 0.5 * np.log(3))
    same(after.targets, followed(before.targets, after.critics.params), 1e-6)


@pytest.mark.parametrize("spec", [SPEC._replace(action_size=3), DISCRETE], ids=["continuous", "discrete"])
def test_targets_of_the_entropy(spec):
    """-A / 2, or half the largest entropy of A actions; the agent's own number where one is set."""
    default = 0.5 * np.log(3) if spec.discrete else -1.5
    for given, expected in ((None, default), (0.7, 0.7)):
        agent = make_sac(spec, SACConfig(hidden=(4,), target_entropy=given))
        assert float(jax.jit(agent.init)(jax.random.key(0)).knobs.target_entropy) == pytest.approx(expected)


# --- TD3 ---


def test_td3():
    """Two steps of the critics to one of the actor, which climbs the first critic; the target's noise is clipped."""
    config = TD3Config(policy_delay=2, target_noise=0.8, target_noise_clip=0.25, **SHARED)
    agent = make_td3(SPEC, config)
    before, (rows, t) = begun(agent), by_hand.batch()
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows))
    assert agent.counts == 2
    actor, critics = as_numpy((before.actor.params, before.critics.params))
    slow_actor, slow_critics = as_numpy((before.target_actor, before.target_critics))
    assert 0.8 * noise(1)[0] > 0.25
    goal = []
    for s, a, r, s2, end in zip(*t[:5], strict=True):
        smoothed = np.clip(np.tanh(net(slow_actor, s2)) + np.clip(0.8 * noise(1), -0.25, 0.25), -1, 1)
        goal.append((s, a, r + DISCOUNT * (1 - end) * q_of(slow_critics, s2, smoothed).min(), 1.0))
    first = slope(lambda c: regression(c, goal), critics)
    critics = by_hand.adam_step(critics, first, 1e-3)
    assert told["critic/loss"] == pytest.approx(regression(critics, goal), rel=1e-4)  # the last step's
    second = slope(lambda c: regression(c, goal), critics)
    same(by_hand.gradient(after.critics), jax.tree.map(lambda g, h: 0.9 * g + h, first, second), 1e-3)
    new = as_numpy(after.critics.params)
    actor_loss = lambda actor: -np.mean([q_of(new, s, np.tanh(net(actor, s)))[0] for s in t.obs])  # noqa: E731
    assert told["policy/loss"] == pytest.approx(actor_loss(actor), rel=1e-4)
    same(by_hand.gradient(after.actor), slope(actor_loss, actor))
    same(after.target_critics, followed(before.target_critics, after.critics.params), 1e-6)
    same(after.target_actor, followed(before.target_actor, after.actor.params), 1e-6)


def look_ahead(t, act, value):
    """[(obs, action, y, weight)] of the rows by MVE, two imagined steps of `act` and the value after them."""
    goal = []
    for b, (s, a, r, s2, end) in enumerate(zip(*t[:5], strict=True)):
        steps = by_hand.walk(by_hand.member_of(b), s2, lambda obs: (act(obs), 0.0), 2)
        goal.append((s, a, r + DISCOUNT * (1 - end) * along(steps, value), 1.0))
    return goal


AHEAD = CriticConfig(expand="mve", td_k=False)


def test_td3_looks_ahead_by_its_smoothed_target_policy():
    agent = make_td3(SPEC, TD3Config(policy_delay=1, target_noise=0.2, critic=AHEAD, **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch()
    told = by_hand.update(agent, before, by_hand.off_batch(rows, by_hand.ahead(2)))[1]
    actor, slow_actor, slow = as_numpy((before.actor.params, before.target_actor, before.target_critics))

    def smoothed(obs):
        return np.clip(np.tanh(net(slow_actor, obs)) + 0.2 * noise(1), -1, 1)

    goal = look_ahead(t, smoothed, lambda obs: q_of(slow, obs, smoothed(obs)).min())
    assert told["critic/loss"] == pytest.approx(regression(as_numpy(before.critics.params), goal), rel=1e-4)
    others = look_ahead(t, lambda obs: np.tanh(net(actor, obs)), lambda obs: q_of(slow, obs, smoothed(obs)).min())
    assert not np.allclose([y for *_, y, _ in goal], [y for *_, y, _ in others])


def test_td3_explores_by_its_noise_inside_the_bounds():
    agent = make_td3(SPEC, TD3Config(exploration=0.5, **SHARED))
    params = begun(agent)
    obs = jnp.array([0.3, -0.2])
    mean = np.tanh(net(as_numpy(params.actor.params), np.asarray(obs, np.float64)))
    action, _ = agent.act(jax.random.key(0), params, obs)
    np.testing.assert_allclose(action, np.clip(mean + 0.5 * noise(1), -1, 1), atol=1e-5)
    np.testing.assert_allclose(agent.mode(params, obs), mean, atol=1e-5)
    loud = params._replace(knobs=params.knobs._replace(exploration=jnp.float32(50.0)))
    assert float(agent.act(jax.random.key(0), loud, obs)[0][0]) == 1.0


# --- Q-learning, deep and with a table ---


def values_of_actions(params, obs, dueling):
    out = net(params, obs)
    return out[0] + out[1:] - out[1:].mean() if dueling else out


@pytest.mark.parametrize("dueling", [False, True], ids=["plain", "dueling"])
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
def test_dqn(double, dueling):
    agent = make_dqn(DISCRETE, DQNConfig(double=double, dueling=dueling, **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch(discrete=True)
    after, told = by_hand.update(agent, before, by_hand.off_batch(rows))
    critics, targets = as_numpy((before.critics.params, before.targets))
    goal, differ = [], 0
    for s, a, r, s2, end in zip(*t[:5], strict=True):
        slow, fast = (values_of_actions(each_of(p)[0], s2, dueling) for p in (targets, critics))
        differ += slow[fast.argmax()] != slow.max()
        goal.append((s, a, r + DISCOUNT * (1 - end) * (slow[fast.argmax()] if double else slow.max()), 1.0))
    assert differ  # or the two would be one
    of_action = lambda critics, s, a: np.array([values_of_actions(c, s, dueling) @ a for c in each_of(critics)])  # noqa: E731
    assert told["critic/loss"] == pytest.approx(regression(critics, goal, of_action), rel=1e-4)
    same(by_hand.gradient(after.critics), slope(lambda c: regression(c, goal, of_action), critics))
    same(after.targets, followed(before.targets, after.critics.params), 1e-6)


def test_dqn_looks_ahead_by_the_actions_that_it_would_take():
    """By the online critics' best actions, which are not those of the targets everywhere."""
    agent = make_dqn(DISCRETE, DQNConfig(double=True, critic=dataclasses.replace(AHEAD, members=1), **SHARED))
    before, (rows, t) = begun(agent), by_hand.batch(discrete=True)
    told = by_hand.update(agent, before, by_hand.off_batch(rows, by_hand.ahead(2)))[1]
    fast, slow = (each_of(as_numpy(p))[0] for p in (before.critics.params, before.targets))
    best = lambda params: lambda obs: np.eye(3)[net(params, obs).argmax()]  # noqa: E731
    value = lambda obs: net(slow, obs) @ best(fast)(obs)  # noqa: E731
    goal = look_ahead(t, best(fast), value)
    of_action = lambda critics, s, a: np.array([net(c, s) @ a for c in each_of(critics)])  # noqa: E731
    critics = as_numpy(before.critics.params)
    assert told["critic/loss"] == pytest.approx(regression(critics, goal, of_action), rel=1e-4)
    others = look_ahead(t, best(slow), value)
    assert not np.allclose([y for *_, y, _ in goal], [y for *_, y, _ in others])


def test_q_learning_takes_rows_in_order_and_does_not_look_past_an_end():
    """Collected rows [H, W] as they came, then those of a batch where there is a model."""
    agent = make_q_learning(DISCRETE, QLearningConfig(learning_rate=0.5, discount=DISCOUNT))
    rng = np.random.default_rng(0)
    where, action, after = (rng.integers(0, n, (6, 2)) for n in (2, 3, 2))
    reward, ended = np.float32(rng.normal(size=(6, 2))), rng.random((6, 2)) < 0.3
    one_hot = lambda i, n: jnp.eye(n)[i]  # noqa: E731
    t = Transition(one_hot(where, 2), one_hot(action, 3), reward, one_hot(after, 2), ended, ended & False)
    recent = Trajectory(t, jnp.ones((6, 2), bool), (), ())
    planned, _ = by_hand.batch(discrete=True)
    planned = planned._replace(
        transition=planned.transition._replace(
            obs=one_hot(np.arange(BATCH) % 2, 2), next_obs=one_hot((np.arange(BATCH) + 1) % 2, 2)
        )
    )
    before = agent.init(jax.random.key(0))._replace(table=jnp.asarray(rng.normal(size=(2, 3)), jnp.float32))
    table = as_numpy(before.table)

    def learn(s, a, r, s2, end):
        table[s, a] += 0.5 * (r + (0.0 if end else DISCOUNT * table[s2].max()) - table[s, a])

    for h in range(6):
        for w in range(2):
            learn(where[h, w], action[h, w], reward[h, w], after[h, w], ended[h, w])
    model_free, _ = by_hand.update(agent, before, Sources(None, None, recent))
    np.testing.assert_allclose(model_free.table, table, atol=1e-5)
    p = as_numpy(planned.transition)
    for b in range(BATCH):
        learn(p.obs[b].argmax(), p.action[b].argmax(), p.reward[b], p.next_obs[b].argmax(), p.terminated[b])
    dyna, _ = by_hand.update(agent, before, Sources(lambda key: planned, None, recent, ahead=by_hand.ahead(1)))
    np.testing.assert_allclose(dyna.table, table, atol=1e-5)


def test_epsilon_is_the_share_of_actions_drawn_at_random():
    best = jnp.eye(4)[2]
    keys = jax.random.split(jax.random.key(0), 2_000)
    drawn = jax.jit(jax.vmap(lambda key: epsilon_greedy(key, best, 0.2)))(keys).mean(0)
    np.testing.assert_allclose(drawn, [0.05, 0.05, 0.85, 0.05], atol=0.02)
    # Both agents hand it on as it is: with epsilon 0 they are greedy.
    obs = jnp.array([1.0, 0.0])
    dqn, table = (
        make_dqn(DISCRETE, DQNConfig(epsilon=0.0, **SHARED)),
        make_q_learning(DISCRETE, QLearningConfig(epsilon=0)),
    )
    for agent in (dqn, table):
        params = begun(agent, apart=False)
        if agent is table:
            params = params._replace(table=jnp.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]]))
        actions = jax.jit(jax.vmap(lambda key: agent.act(key, params, obs)[0]))(keys[:50])  # noqa: B023
        np.testing.assert_array_equal(actions, jnp.broadcast_to(agent.mode(params, obs), (50, 3)))


# --- policy gradients ---

LENGTH = 5


def episodes(seed=0):
    """[H, B] rows of which some end, some are cut by the clock, and what follows an end is blank."""
    rng = np.random.default_rng(seed)
    f = lambda *s: np.asarray(rng.normal(size=(LENGTH, 4, *s)), np.float32)  # noqa: E731
    ended, cut = np.zeros((LENGTH, 4), bool), np.zeros((LENGTH, 4), bool)
    ended[2, 0], cut[1, 1] = True, True
    valid = np.ones((LENGTH, 4), bool)
    valid[3:, 0] = False
    t = Transition(f(2), f(1), f(), f(2), ended, cut)
    return Trajectory(jax.tree.map(jnp.asarray, t), jnp.asarray(valid), (), ()), as_numpy(t), valid


def advantages(t, valid, v, v_next, rate):
    """The generalised advantage estimates, backwards through each episode."""
    out = np.zeros(valid.shape)
    for b in range(valid.shape[1]):
        later = 0.0
        for i in reversed(range(LENGTH)):
            if not valid[i, b]:
                continue
            last = i + 1 == LENGTH or not valid[i + 1, b] or t.terminated[i, b] or t.truncated[i, b]
            delta = t.reward[i, b] + DISCOUNT * (1 - t.terminated[i, b]) * v_next[i, b] - v[i, b]
            later = out[i, b] = delta + DISCOUNT * rate * (0.0 if last else later)
    return out


def to_go(t, valid):
    out = np.zeros(valid.shape)
    for b in range(valid.shape[1]):
        for i in range(LENGTH):
            power = 1.0
            for k in range(i, LENGTH):
                if not valid[k, b]:
                    break
                out[i, b] += power * t.reward[k, b]
                power *= DISCOUNT
                if t.terminated[k, b] or t.truncated[k, b]:
                    break
    return out


def log_density(params, t):
    """log N(a; mean(s), std), and the entropy of it."""
    mean, log_std = net(params["mean"], t.obs, np.tanh), params["log_std"]
    density = -0.5 * ((t.action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    return density.sum(-1), (log_std + 0.5 * (1 + np.log(2 * np.pi))).sum()


@pytest.mark.parametrize("weight", ["to_go", "baseline", "gae"])
def test_policy_gradient(weight):
    """REINFORCE, with a baseline, and A2C: the likelihood-ratio gradient with the entropy's, and the value's."""
    config = PolicyGradientConfig(
        hidden=(4,), value_hidden=(4,), weight=weight, normalise=False, entropy_weight=0.2, max_gradient_norm=None,
        discount=DISCOUNT, gae_lambda=0.7, learning_rate=1e-3,
    )  # fmt: skip
    agent = make_policy_gradient(SPEC, config)
    before, (trajectory, t, valid) = begun(agent), episodes()
    after, told = by_hand.update(agent, before, by_hand.off_rollouts(lambda key, act: trajectory))
    policy, critic = as_numpy((before.policy.params, before.value.learner.params))
    v, v_next = (net(critic, x, np.tanh)[..., 0] for x in (t.obs, t.next_obs))
    psi = {"to_go": to_go(t, valid), "baseline": to_go(t, valid) - v, "gae": advantages(t, valid, v, v_next, 0.7)}[
        weight
    ]

    def loss(params):
        log_prob, entropy = log_density(params, t)
        ratio = np.exp(log_prob - log_density(policy, t)[0])
        return -(ratio * psi)[valid].mean() - 0.2 * entropy

    same(by_hand.gradient(after.policy), slope(loss, policy))
    assert told["policy/entropy"] == pytest.approx(log_density(policy, t)[1], rel=1e-4)
    if weight == "to_go":
        return
    # The value is fitted in units of its targets: V = mean + std net.
    target = psi + v if weight == "gae" else to_go(t, valid)
    kept = target[valid]
    scaled = (target - kept.mean()) / kept.std()
    value_loss = lambda c: 0.5 * ((net(c, t.obs, np.tanh)[..., 0] - scaled)[valid] ** 2).mean()  # noqa: E731
    same(by_hand.gradient(after.value.learner), slope(value_loss, critic), 1e-3)


def test_ppo():
    """Two passes: in the second the ratio is clipped where that is the lower bound, and the divergence is penalised."""
    config = PolicyGradientConfig(
        hidden=(4,), value_hidden=(4,), passes=2, clip=0.01, kl_penalty=0.5, max_gradient_norm=None, learning_rate=2e-2,
        discount=DISCOUNT, gae_lambda=0.7,
    )  # fmt: skip
    agent = make_policy_gradient(SPEC, config)
    before, (trajectory, t, valid) = begun(agent), episodes()
    after, _ = by_hand.update(agent, before, by_hand.off_rollouts(lambda key, act: trajectory))
    policy, critic = as_numpy((before.policy.params, before.value.learner.params))
    v, v_next = (net(critic, x, np.tanh)[..., 0] for x in (t.obs, t.next_obs))
    psi = advantages(t, valid, v, v_next, 0.7)
    psi = (psi - psi[valid].mean()) / psi[valid].std()
    seen = set()

    def loss(params):
        log_ratio = log_density(params, t)[0] - log_density(policy, t)[0]
        ratio = np.exp(log_ratio)
        bounded = np.clip(ratio, 0.99, 1.01) * psi
        seen.update((bounded < ratio * psi)[valid].tolist())
        return -np.minimum(ratio * psi, bounded)[valid].mean() + 0.5 * (ratio - 1 - log_ratio)[valid].mean()

    first = slope(loss, policy)
    seen.clear()
    second = slope(loss, by_hand.adam_step(policy, first, 2e-2))
    assert seen == {True, False}  # some rows are clipped and some are not
    same(by_hand.gradient(after.policy), jax.tree.map(lambda g, h: 0.9 * g + h, first, second), 5e-3)


# --- gradients through the model ---


@pytest.mark.parametrize("critic", [False, True], ids=["svg_infinity", "shac"])
def test_pathwise(critic):
    """The return of three imagined steps, and the slow value after them, differentiated through model and policy."""
    config = PathwiseConfig(
        hidden=(4,), value_hidden=(4,), critic=critic, value_passes=1, max_gradient_norm=None, tau=TAU,
        discount=DISCOUNT, gae_lambda=0.7,
    )  # fmt: skip
    agent = make_pathwise(SPEC, config)
    before, (rows, _) = begun(agent), by_hand.batch()
    starts = np.asarray(rows.transition.obs)

    def make(key, act):
        return rollout(key, by_hand.member_world(0), act, jax.vmap(by_hand.at)(jnp.asarray(starts)), 3)[1]

    after, told = by_hand.update(agent, before, by_hand.off_rollouts(make))
    theta, slow, value = as_numpy((before.policy.params, before.target, before.value.learner.params))

    def act_of(theta):
        def act(obs):
            mean, log_std = net(theta["mean"], obs, np.tanh), -10 + 6 * (np.tanh(theta["log_std"]) + 1)
            return np.tanh(mean + np.exp(log_std) * noise(1)), 0.0

        return act

    v_of = lambda params, obs: net(params, obs, np.tanh)[0]  # noqa: E731
    last = (lambda obs: v_of(slow, obs)) if critic else (lambda obs: 0.0)

    def loss(theta):
        walks = [by_hand.walk(0, s, act_of(theta), 3) for s in starts.astype(np.float64)]
        return -np.mean([along(steps, last) for steps in walks])

    assert told["policy/loss"] == pytest.approx(loss(theta), rel=1e-4)
    same(by_hand.gradient(after.policy), slope(loss, theta))
    if not critic:
        return
    obs, target = [], []  # lambda-returns by the slow value
    for s in starts.astype(np.float64):
        steps = by_hand.walk(0, s, act_of(theta), 3)
        for i in range(len(steps)):
            later = 0.0
            for step in reversed(steps[i:]):
                bootstrap = 0.0 if step.ended else v_of(slow, step.next_obs)
                later = step.reward + DISCOUNT * bootstrap - v_of(slow, step.obs) + DISCOUNT * 0.7 * later
            obs.append(steps[i].obs)
            target.append(later + v_of(slow, steps[i].obs))
    obs, target = np.array(obs), np.array(target)
    scaled = (target - target.mean()) / target.std()
    value_loss = lambda p: 0.5 * ((net(p, obs, np.tanh)[:, 0] - scaled) ** 2).mean()  # noqa: E731
    same(by_hand.gradient(after.value.learner), slope(value_loss, value), 1e-3)
    same(after.target, followed(before.target, after.value.learner.params), 1e-6)


def test_steve_weighs_what_agrees():
    """Of two horizons, one on which members and critics agree counts alone."""
    t = Transition(
        *(jnp.zeros((2, 1, 1, *s)) for s in ((1,), (1,), ())),
        jnp.zeros((2, 1, 1, 1)),
        *[jnp.zeros((2, 1, 1), bool)] * 2,
    )
    trajectory = Trajectory(t, jnp.ones((2, 1, 1), bool), None, jnp.zeros((2, 1, 1)))
    values = jnp.array([[[5.0, 1.0]], [[5.0, 9.0]]])[None, :, 0, :, None]  # [C, n, H + 1, B]
    assert float(steve(trajectory, values, 1.0)[0]) == pytest.approx(5.0, abs=1e-4)


# --- what the agents share ---


def test_a_value_is_in_units_of_its_targets():
    net_ = nn.mlp(2, (4,), 1)
    value = values.init_value(jax.random.key(0), net_, adam())
    value = value._replace(mean=jnp.float32(3.0), std=jnp.float32(2.0))
    obs = np.array([0.3, -0.5])
    expected = 3.0 + 2.0 * net(as_numpy(value.learner.params), obs)[0]
    assert float(values.value_of(net_, value, jnp.asarray(obs, jnp.float32))) == pytest.approx(expected, abs=1e-5)


def test_units_follow_targets_at_first_at_once_and_then_by_a_tenth():
    value = values.init_value(jax.random.key(0), nn.mlp(2, (4,), 1), adam())
    first = values.rescale(value, jnp.array([1.0, 5.0, 99.0]), jnp.array([1.0, 1.0, 0.0]))
    assert (float(first.mean), float(first.std)) == pytest.approx((3.0, 2.0), rel=1e-3)
    tiny = values.rescale(value, 1e-9 * jnp.array([1.0, 5.0]), jnp.ones(2))  # in any unit
    assert (float(tiny.mean), float(tiny.std)) == pytest.approx((3e-9, 2e-9), rel=1e-3)
    then = values.rescale(first, jnp.array([13.0, 13.0]), jnp.ones(2))
    assert float(then.mean) == pytest.approx(4.0, rel=1e-3)


def test_long_gradients_are_scaled_down_to_the_norm_given():
    optimizer = adam(0.5)
    after = optimizer.step(optimizer.init(jnp.zeros(2)), jnp.array([3.0, 4.0]), 1e-3)
    np.testing.assert_allclose(by_hand.gradient(after), [0.3, 0.4], rtol=1e-5)
    np.testing.assert_allclose(after.params, [-1e-3, -1e-3], rtol=1e-3)  # downhill


def test_the_penalty_of_divergence_halves_where_the_policy_hardly_moves():
    config = PolicyGradientConfig(hidden=(4,), value_hidden=(4,), kl_penalty=1.0, kl_target=1e3)
    agent = make_policy_gradient(SPEC, config)
    after, _ = by_hand.update(agent, begun(agent), by_hand.off_rollouts(lambda key, act: episodes()[0]))
    assert float(after.kl_weight) == 0.5


def test_ties_of_a_table_are_broken_at_random():
    agent = make_q_learning(DISCRETE, QLearningConfig(epsilon=0.0))
    params = agent.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 60)
    actions = jax.jit(jax.vmap(lambda key: agent.act(key, params, jnp.array([1.0, 0.0]))[0]))(keys)
    assert (np.asarray(actions).sum(0) > 5).all()


def test_the_range_of_values_is_that_of_rewards_over_one_less_the_discount():
    """The first time all the way to the 1 % and 99 % quantiles, and then by the rate; targets stay inside."""
    rewards = jnp.linspace(-1.0, 1.0, 201)
    first = value_range.track_range(value_range.init_range(), rewards, 0.9, 0.25)
    assert (float(first.low), float(first.high)) == pytest.approx((-9.8, 9.8), rel=1e-4)
    tiny = value_range.track_range(value_range.init_range(), 1e-9 * rewards, 0.9, 0.25)  # in any unit
    np.testing.assert_allclose([tiny.low, tiny.high], 1e-9 * np.array([first.low, first.high]), rtol=1e-5)
    then = value_range.track_range(first, rewards + 1, 0.9, 0.25)
    assert (float(then.low), float(then.high)) == pytest.approx((-9.8 + 2.5, 9.8 + 2.5), rel=1e-4)
    np.testing.assert_allclose(
        value_range.clip_to_range(jnp.array([-20.0, 1.0, 20.0]), first), [-9.8, 1.0, 9.8], rtol=1e-4
    )
    half = Critic(lambda key: (), lambda params, obs, action: jnp.array([0.5]))
    assert float(critics.in_range(half, then).values(None, None, None)[0]) == pytest.approx(2.5 + 0.5 * 9.8, rel=1e-4)


@pytest.mark.parametrize("values", [[[1.0, 5.0], [2.0, 3.0]], [[1.0, -jnp.inf], [1.0, 3.0]]])
def test_the_least_has_the_derivative_of_the_one_that_it_is(values):
    values = jnp.array(values)
    np.testing.assert_array_equal(critics.lowest(values), values.min(0))
    slopes = jax.grad(lambda v: (critics.lowest(v) * jnp.array([2.0, 3.0])).sum())(values)
    expected = np.zeros((2, 2))
    expected[np.asarray(values.argmin(0)), [0, 1]] = [2.0, 3.0]
    np.testing.assert_array_equal(slopes, expected)
