"""Ensembles of Q-functions, shared by the off-policy agents.

    J_Q = 1/2 sum_c E (Q_c(s, a) - y)^2              y = r + gamma (1 - terminated) V(s')
    Qbar <- (1 - tau) Qbar + tau Q

V(s') is the minimum of the target critics' values V_c(s'), over all of them (clipped double Q: Fujimoto et al. 2018,
arXiv:1802.09477) or over a random subset (REDQ: Chen et al. 2021, arXiv:2101.05982). Only `terminated` ends the value.
A time limit does not: real rows come without its mark. A row marked `truncated` is an imagined one that has left the
range of the data; the lowest possible value follows it (`value_range.halt`). With a model, y can look ahead
before it bootstraps:

    mve     y = r + gamma (1 - terminated) [sum_{i < H} gamma^i r_i + gamma^H V(s_H)], one elite per row. The critics
            also learn on the imagined states, with the remaining horizon (TD-k)
                                                                          (Feinberg et al. 2018, arXiv:1803.00101)
    steve   y = sum_h w_h mean(T_h), w_h proportional to 1 / var(T_h), with T_h the same sum over h <= H steps, in each
            elite and for each critic; mean and var go over both               (Buckman et al. 2018, arXiv:1807.01675)

    fresh   y starts at s itself, with a fresh action: see `double_horizon`

With `through_model` the actor rolls out by itself, from s: only `fresh` has one rollout for both, because mve and steve
begin after the stored action.

Soft values add each imagined action's bonus to its reward: r_i - alpha log pi(a_i | s_i) for r_i.

With `batch_norm` (CrossQ: Bhatt et al. 2024, arXiv:1902.05605), Q_c(s, a) in J_Q and Qbar_c(s', a') in y normalise by
the statistics of the joined batch [(s, a), (s', a')], each with its own weights. All else takes running statistics:
mean <- 0.99 mean + 0.01 mean_batch, and the variance likewise. Polyak averages of them are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from branchax import nn
from branchax.agents import categorical
from branchax.agents.base import Ahead, Outcome, Sources
from branchax.agents.value_range import ValueRange, halt, units
from branchax.config import CriticConfig
from branchax.normalize import FLAT
from branchax.optimizer import Learner, Optimizer, skipped
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
    # the arguments of `values` -> [C, ..., K], the logits of categorical values; None: they are numbers
    logits: Callable[..., jax.Array] | None = None
    # (params, obs [N, D], action [N, A]) -> params with the statistics of these rows; None: there is no BatchNorm
    measure: Callable[[Params, jax.Array, jax.Array], Params] | None = None


class Backup(NamedTuple):
    """An agent's policy and values for the states that follow."""

    act: Act  # the policy of the values; its extras are the action's bonus [], such as the entropy in soft values
    value: Callable[[Key, jax.Array], jax.Array]  # (key, obs [..., D]) -> V_c [C, ...], by the target critics
    # (key, obs [B, D]) -> [B, A], the actions that `value` takes with this key; None: critics do not join them
    draw: Callable[[Key, jax.Array], jax.Array] | None = None
    range: ValueRange | None = None  # the range of values, whose lowest follows where a rollout leaves the data


class Targets(NamedTuple):
    """Regression targets of Q; [N, ...]."""

    obs: jax.Array
    action: jax.Array
    y: jax.Array
    weight: jax.Array
    steps: jax.Array | None = None  # [] model steps taken, if the targets look ahead
    after: tuple[jax.Array, jax.Array] | None = None  # obs and action that follow, whose statistics count as well


def make_critic(
    in_size: int,
    hidden: tuple[int, ...],
    config: CriticConfig,
    activation: nn.Activation = jax.nn.relu,
    standardised: bool = False,
    network: nn.MakeNetwork = nn.mlp,
) -> Critic:
    """Critics with input [obs, action]; `standardised` ones scale obs by the statistics of the real data."""
    net = _network(in_size, hidden, config.atoms or 1, config, activation, standardised, network)
    init, outputs, measure = _members(net, config, lambda obs, action: jnp.concatenate([obs, action], -1))

    def values(*arguments: Any) -> jax.Array:
        out = outputs(*arguments)
        return out[..., 0] if config.atoms is None else categorical.expectation(out)

    return Critic(init, values, net.layers, outputs if config.atoms else None, measure)


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
    net = _network(spec.obs_size, hidden, spec.action_size + dueling, config, activation, standardised, network)
    init, outputs, measure = _members(net, config, lambda obs, action: obs)

    def values(params: Params, obs: jax.Array, action: jax.Array, key: Key | None = None) -> jax.Array:
        out = outputs(params, obs, action, key)
        if dueling:
            advantage = out[..., 1:]
            out = out[..., :1] + advantage - advantage.mean(-1, keepdims=True)
        return (out * action).sum(-1)

    return Critic(init, values, net.layers, measure=measure)


def _network(
    in_size: int,
    hidden: tuple[int, ...],
    out_size: int,
    config: CriticConfig,
    activation: nn.Activation,
    standardised: bool,
    network: nn.MakeNetwork,
) -> nn.Network:
    """One member of the ensemble."""
    net = network(
        in_size,
        hidden,
        out_size,
        activation=activation,
        layer_norm=config.layer_norm,
        pre_norm=config.pre_norm,
        dropout=config.dropout,
        last_scale=0.0 if config.zero_last else None,
        **({"batch_norm": True} if config.batch_norm else {}),
    )
    return nn.standardise(net, in_size) if standardised else net


def _members(net: nn.Network, config: CriticConfig, inputs: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
    """`Critic.init`, the networks' outputs [C, ..., K] by the arguments of `Critic.values`, and `Critic.measure`."""

    def outputs(params: Params, obs: jax.Array, action: jax.Array, key: Key | None = None) -> jax.Array:
        x = inputs(obs, action)
        if key is None or not config.dropout:
            return jax.vmap(lambda one: net.apply(one, x))(params)
        keys = jax.random.split(key, config.members)
        return jax.vmap(lambda one, k: net.apply(one, x, k))(params, keys)

    def measure(params: Params, obs: jax.Array, action: jax.Array) -> Params:
        assert net.measure is not None
        return jax.vmap(net.measure, (0, None))(params, inputs(obs, action))

    init = lambda key: jax.vmap(net.init)(jax.random.split(key, config.members))  # noqa: E731
    return init, outputs, measure if config.batch_norm else None


def measured(critic: Critic, params: Params, *rows: tuple[jax.Array, jax.Array]) -> Params:
    """`params` with the statistics of these (obs [N, D], action [N, A]) joined; as they are without BatchNorm."""
    if critic.measure is None:
        return params
    return critic.measure(params, *(jnp.concatenate(each) for each in zip(*rows, strict=True)))


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
        after = None if backup.draw is None else (t.next_obs, backup.draw(key_value, t.next_obs))
        later = halt(t.truncated, pessimist(t.next_obs), backup.range)
        return Targets(t.obs, t.action, back(later), weight, after=after)
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


def in_range(critic: Critic, now: ValueRange | None) -> Critic:
    """`critic` with outputs in units of the range: Q = (high + low) / 2 + (high - low) / 2 net(s, a)."""
    if now is None:
        return critic
    middle, half = units(now)
    return critic._replace(values=lambda *arguments: middle + half * critic.values(*arguments))


def regress(
    critic: Critic,
    critics: Learner,
    targets: Targets,
    optimizer: Optimizer,
    learning_rate: jax.Array,
    key: Key | None = None,
    now: ValueRange | None = None,
) -> tuple[Learner, Outcome]:
    """One step of all critics on the weighted J_Q; `key` is for their dropout, `now` the range of values.

    Running statistics of BatchNorms follow those of the batch.
    """
    total, here = targets.weight.sum(), (targets.obs, targets.action)

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, Params]]:
        params = measured(critic, params, here, *([] if targets.after is None else [targets.after]))
        if critic.logits is None:
            q = in_range(critic, now).values(params, *here, *(() if key is None else (key,)))
            return 0.5 * (targets.weight * (q - targets.y) ** 2).sum() / total, (q, params)
        logits = critic.logits(params, *here, key)
        middle, half = units(now)
        each = categorical.cross_entropy(logits, (targets.y - middle) / jnp.maximum(half, 1e-30))
        return (targets.weight * each).sum() / total, (middle + half * categorical.expectation(logits), params)

    (j_q, (q, seen)), gradient = jax.value_and_grad(loss, has_aux=True)(critics.params)
    critics = optimizer.step(critics, gradient, learning_rate)
    critics = critics._replace(params=nn.follow(critics.params, seen))
    metrics = {"critic/q_mean": q.mean(), "critic/q_max": Largest(q.max()), "critic/skipped_steps": skipped(critics)}
    return critics, Outcome({"critic/loss": j_q}, metrics, 0.0 if targets.steps is None else targets.steps)
