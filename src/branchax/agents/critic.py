"""Ensembles of Q-functions, shared by the off-policy agents.

    J_Q = 1/2 sum_c E (Q_c(s, a) - y)^2              y = r + gamma (1 - terminated) V(s')
    Qbar <- (1 - tau) Qbar + tau Q

V(s') is the minimum of the target critics' values V_c(s'), over all of them (clipped double Q: Fujimoto et al. 2018,
arXiv:1802.09477) or over a random subset (REDQ: Chen et al. 2021, arXiv:2101.05982). Truncated transitions bootstrap
like any other: only `terminated` ends the value. With a model, y can look ahead before it bootstraps:

    mve     y = r + gamma (1 - terminated) [sum_{i < H} gamma^i r_i + gamma^H V(s_H)], one elite per row. The critics
            also learn on the imagined states, with the remaining horizon (TD-k)
                                                                          (Feinberg et al. 2018, arXiv:1803.00101)
    steve   y = sum_h w_h mean(T_h), w_h proportional to 1 / var(T_h), with T_h the same sum over h <= H steps, in each
            elite and for each critic; mean and var go over both               (Buckman et al. 2018, arXiv:1807.01675)

Soft values add each imagined action's bonus to its reward: r_i - alpha log pi(a_i | s_i) for r_i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from branchax import nn
from branchax.agents.base import Ahead, Outcome, Sources
from branchax.agents.learner import Learner, Optimizer, skipped
from branchax.config import CriticConfig
from branchax.normalize import FLAT
from branchax.returns import bootstrapped
from branchax.rollout import Act
from branchax.types import Key, Largest, Params, Row, Trajectory
from branchax.worlds.base import WorldSpec, WorldState


class Critic(NamedTuple):
    """An ensemble of C Q-functions; the parameters' leaves have a leading axis [C]."""

    init: Callable[[Key], Params]
    # (params, obs [..., D], action [..., A], key=None) -> [C, ...]; `key` is for dropout
    values: Callable[..., jax.Array]
    layers: Callable[[Params], list[nn.Layer]] | None = None  # [C, ...] each


class Backup(NamedTuple):
    """An agent's policy and values for the states that follow."""

    act: Act  # the policy of the values; its extras are the action's bonus [], such as the entropy in soft values
    value: Callable[[Key, jax.Array], jax.Array]  # (key, obs [..., D]) -> V_c [C, ...], by the target critics


class ValueRange(NamedTuple):
    """The range of discounted returns, estimated from the rewards seen; values are learned in units of it."""

    low: jax.Array  # []
    high: jax.Array  # []
    seen: jax.Array  # [] bool, whether there were any rewards yet


class Targets(NamedTuple):
    """Regression targets of Q; [N, ...]."""

    obs: jax.Array
    action: jax.Array
    y: jax.Array
    weight: jax.Array
    steps: jax.Array | None = None  # [] model steps taken, if the targets look ahead


def make_critic(
    in_size: int,
    hidden: tuple[int, ...],
    config: CriticConfig,
    activation: nn.Activation = jax.nn.relu,
    standardised: bool = False,
    network: nn.MakeNetwork = nn.mlp,
) -> Critic:
    """Critics with input [obs, action]; `standardised` ones scale obs by the statistics of the real data."""
    net = network(
        in_size,
        hidden,
        1,
        activation=activation,
        layer_norm=config.layer_norm,
        pre_norm=config.pre_norm,
        dropout=config.dropout,
        last_scale=0.0 if config.zero_last else None,
    )
    net = nn.standardise(net, in_size) if standardised else net

    def values(params: Params, obs: jax.Array, action: jax.Array, key: Key | None = None) -> jax.Array:
        x = jnp.concatenate([obs, action], -1)
        if key is None or not config.dropout:
            return jax.vmap(lambda one: net.apply(one, x)[..., 0])(params)
        keys = jax.random.split(key, config.members)
        return jax.vmap(lambda one, k: net.apply(one, x, k)[..., 0])(params, keys)

    return Critic(lambda key: jax.vmap(net.init)(jax.random.split(key, config.members)), values, net.layers)


def make_discrete_critic(
    spec: WorldSpec,
    hidden: tuple[int, ...],
    config: CriticConfig,
    dueling: bool = False,
    activation: nn.Activation = jax.nn.relu,
    standardised: bool = False,
    network: nn.MakeNetwork = nn.mlp,
) -> Critic:
    """Critics with input obs and one output per action; they are linear in `action`, so it may be a distribution.

    With `dueling`, Q(s, a) = V(s) + A(s, a) - mean_a A(s, a), all from one trunk (Wang et al. 2016, arXiv:1511.06581).
    """
    net = network(
        spec.obs_size,
        hidden,
        spec.action_size + dueling,
        activation=activation,
        layer_norm=config.layer_norm,
        pre_norm=config.pre_norm,
        dropout=config.dropout,
        last_scale=0.0 if config.zero_last else None,
    )
    net = nn.standardise(net, spec.obs_size) if standardised else net

    def values(params: Params, obs: jax.Array, action: jax.Array, key: Key | None = None) -> jax.Array:
        if key is None or not config.dropout:
            out = jax.vmap(lambda one: net.apply(one, obs))(params)
        else:
            keys = jax.random.split(key, config.members)
            out = jax.vmap(lambda one, k: net.apply(one, obs, k))(params, keys)
        if dueling:
            advantage = out[..., 1:]
            out = out[..., :1] + advantage - advantage.mean(-1, keepdims=True)
        return (out * action).sum(-1)

    return Critic(lambda key: jax.vmap(net.init)(jax.random.split(key, config.members)), values, net.layers)


def action_values(critic: Critic, params: Params, obs: jax.Array, count: int) -> jax.Array:
    """Q of each of `count` discrete actions: obs [..., D] -> [C, ..., A]."""
    each = jax.vmap(lambda action: critic.values(params, obs, action), out_axes=-1)
    return each(jnp.eye(count))


def least(key: Key, values: jax.Array, subset: int | None = None) -> jax.Array:
    """The minimum of values [C, ...], or of `subset` of them drawn without replacement -> [...]."""
    if subset is not None and subset < values.shape[0]:
        values = values[jax.random.choice(key, values.shape[0], (subset,), replace=False)]
    return lowest(values)


def lowest(values: jax.Array) -> jax.Array:
    """The minimum of values [C, ...] -> [...], with the derivative of the smallest entry.

    `min` is not used: its derivative compares the values with the minimum. If the compiler rounds the two differently
    (XLA without optimisation does), none is equal, and the derivative is 0 / 0.
    """
    which = jnp.expand_dims(jnp.arange(values.shape[0]), range(1, values.ndim))
    return jnp.where(which == values.argmin(0), values, 0.0).sum(0)


def make_targets(
    key: Key, row: Row, sources: Sources, backup: Backup, config: CriticConfig, discount: jax.Array
) -> Targets:
    """The targets of a batch of rows [B]; `mve` with TD-k gives (H + 1) B of them."""
    t = row.transition
    chex.assert_rank([t.obs, t.action, t.reward, t.terminated], [2, 2, 1, 1])
    key_value, key_subset, key_model = jax.random.split(key, 3)
    weight = jnp.ones_like(t.reward) if sources.weigh is None else sources.weigh(row)

    def pessimist(obs: jax.Array) -> jax.Array:
        return least(key_subset, backup.value(key_value, obs), config.subset)

    def back(later: jax.Array) -> jax.Array:
        return t.reward + discount * jnp.where(t.terminated, 0.0, later)

    if config.expand == "none":
        return Targets(t.obs, t.action, back(pessimist(t.next_obs)), weight)
    assert sources.ahead is not None, "targets that look ahead need a model"
    if config.expand == "steve":
        trajectory = in_every_elite(key_model, row, sources.ahead, backup.act)
        start = jnp.broadcast_to(t.next_obs, (*trajectory.valid.shape[::2], *t.next_obs.shape[1:]))
        states = jnp.concatenate([start[:, None], trajectory.transition.next_obs], 1)  # [n, H + 1, B, D]
        y = back(steve(trajectory, backup.value(key_value, states), discount))
        return Targets(t.obs, t.action, y, weight, trajectory.valid.sum().astype(y.dtype))
    trajectory = in_one_elite(key_model, row, sources.ahead, backup.act)
    imagined = trajectory.transition
    q = bootstrapped(trajectory, pessimist(imagined.next_obs), trajectory.extras, discount)  # [H, B]
    real = Targets(t.obs, t.action, back(trajectory.extras[0] + q[0]), weight)
    steps = trajectory.valid.sum().astype(q.dtype)
    if not config.td_k:
        return real._replace(steps=steps)
    more = Targets(imagined.obs, imagined.action, q, (trajectory.valid & ~t.terminated) * weight)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), more)
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), real, flat)._replace(steps=steps)


def in_one_elite(key: Key, row: Row, ahead: Ahead, act: Act, after: bool = True) -> Trajectory:
    """Rollouts [H, B, ...] from the states after (or at) rows [B]; row i uses elite i // ceil(B / n)."""
    return _in_groups(key, row, ahead, ahead.rollout, act, after)


def _in_groups(
    key: Key, row: Row, ahead: Ahead, run: Callable[[Key, Act, WorldState], Trajectory], act: Act, after: bool
) -> Trajectory:
    key_start, key_run = jax.random.split(key)
    count = row.transition.reward.shape[0]
    place = (jnp.arange(-(-count // ahead.elites) * ahead.elites) % count).reshape(ahead.elites, -1)
    starts = jax.tree.map(lambda x: x[place], ahead.start(key_start, row, after))
    trajectory = run(key_run, act, starts)  # [n, H, B / n, ...]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :count], trajectory)


def in_mixed_elites(key: Key, row: Row, ahead: Ahead, act: Act) -> Trajectory:
    """Rollouts [H, B, ...] from the states at rows [B], in equal parts over the elites as `Ahead.mixed` draws them."""
    return _in_groups(key, row, ahead, ahead.mixed, act, after=False)


def in_every_elite(key: Key, row: Row, ahead: Ahead, act: Act) -> Trajectory:
    """Rollouts [n, H, B, ...] from the states after rows [B], in each of the elites."""
    key_start, key_run = jax.random.split(key)
    starts = ahead.start(key_start, row, True)
    return ahead.rollout(key_run, act, jax.tree.map(lambda x: jnp.broadcast_to(x, (ahead.elites, *x.shape)), starts))


def steve(trajectory: Trajectory, values: jax.Array, discount: jax.Array) -> jax.Array:
    """The value [B] of the start states of rollouts [n, H, B, ...]: all horizons, weighted by inverse variance.

    `values` are V_c [C, n, H + 1, B] at the states from first to last. Horizons that no rollout reached get no weight.
    Only the variance is known, not the error: a horizon on which all members agree counts most, even if it is wrong.
    """
    t, horizon = trajectory.transition, trajectory.valid.shape[1]
    powers = discount ** jnp.arange(horizon + 1)
    ends = jnp.concatenate([jnp.zeros_like(t.terminated[:, :1]), t.terminated], 1)  # [n, H + 1, B]
    alive = jnp.cumprod(~ends, 1)
    gained = powers[:-1, None] * alive[:, :-1] * (t.reward + trajectory.extras)
    total = jnp.concatenate([jnp.zeros_like(gained[:, :1]), jnp.cumsum(gained, 1)], 1)
    candidates = total + powers[:, None] * alive * values  # [C, n, H + 1, B]
    mean, variance = candidates.mean((0, 1)), candidates.var((0, 1))
    taken = trajectory.valid.any((0, 2))  # [H]: past the horizon no step is valid
    reached = jnp.concatenate([jnp.ones(1, bool), taken])[:, None]
    least = (FLAT * jnp.where(reached, jnp.abs(mean), 0.0).max(0)) ** 2 + 1e-30  # rounding, not agreement
    weight = jnp.where(reached, 1 / (variance + least), 0.0)
    return (weight * jnp.where(reached, mean, 0.0)).sum(0) / weight.sum(0)


def init_range() -> ValueRange:
    """The range before any reward is seen: values are not scaled."""
    return ValueRange(-jnp.ones(()), jnp.ones(()), jnp.zeros((), bool))


def track_range(
    now: ValueRange,
    rewards: jax.Array,
    discount: jax.Array,
    rate: float,
    ends: bool = False,
    mask: jax.Array | bool = True,
) -> ValueRange:
    """Moves the range towards the 1 % and 99 % quantiles of rewards [...] / (1 - discount); the first call sets it.

    low <- low + rate (q_0.01(r) / (1 - gamma) - low),   high likewise with q_0.99        (Kubo et al. 2025, code)

    With `ends` 0 counts as a return, because nothing follows a termination. Rewards where `mask` is false do not count.
    """
    good = jnp.isfinite(rewards).all()
    counted = jnp.where(mask, jnp.where(good, rewards, 0.0), jnp.nan)
    low, high = jnp.nanquantile(counted, jnp.array([0.01, 0.99])) / (1 - discount)
    low, high = (jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)) if ends else (low, high)
    step = jnp.where(good, jnp.where(now.seen, rate, 1.0), 0.0)
    low, high = (1 - step) * now.low + step * low, (1 - step) * now.high + step * high
    return ValueRange(low, high, now.seen | good)


def in_range(critic: Critic, now: ValueRange | tuple[()]) -> Critic:
    """`critic` with outputs in units of the range: Q = (high + low) / 2 + (high - low) / 2 net(s, a)."""
    if not isinstance(now, ValueRange):
        return critic
    middle, half = 0.5 * (now.high + now.low), 0.5 * (now.high - now.low)
    return critic._replace(values=lambda *arguments: middle + half * critic.values(*arguments))


def clip_to_range(value: jax.Array, now: ValueRange | tuple[()]) -> jax.Array:
    """Values [...] clipped to the range of returns."""
    return jnp.clip(value, now.low, now.high) if isinstance(now, ValueRange) else value


def regress(
    values: Callable[[Params, jax.Array, jax.Array], jax.Array],
    critics: Learner,
    targets: Targets,
    optimizer: Optimizer,
    learning_rate: jax.Array,
    key: Key | None = None,
) -> tuple[Learner, Outcome]:
    """One step of all critics on the weighted J_Q; `key` is for their dropout."""
    total = targets.weight.sum()

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        q = values(params, targets.obs, targets.action, *(() if key is None else (key,)))
        return 0.5 * (targets.weight * (q - targets.y) ** 2).sum() / total, q

    (j_q, q), gradient = jax.value_and_grad(loss, has_aux=True)(critics.params)
    critics = optimizer.step(critics, gradient, learning_rate)
    metrics = {"critic/q_mean": q.mean(), "critic/q_max": Largest(q.max()), "critic/skipped_steps": skipped(critics)}
    return critics, Outcome({"critic/loss": j_q}, metrics, 0.0 if targets.steps is None else targets.steps)
