"""REINFORCE, advantage actor-critic and PPO: one on-policy update with different settings.

    L(theta) = E_t[ w_t A_t ] - kl_weight KL(old || theta) + entropy_weight H(theta)
    w_t      = pi(a_t | s_t; theta) / pi(a_t | s_t; old)

A_t is the reward to go (REINFORCE, Williams 1992), optionally minus a learned value, or the generalised advantage
estimate (A2C, Mnih et al. 2016; `returns.gae`). At theta = old, w_t = 1, and the gradient is the likelihood-ratio
gradient E[score A_t]. PPO (Schulman et al. 2017, arXiv:1707.06347) takes several steps on the same rollouts and bounds
how far the policy moves:

    clip        E_t[ min(w_t A_t, clip(w_t, 1 - clip, 1 + clip) A_t) ]                               (eq. 7)
    penalty     kl_weight doubles when KL > 1.5 kl_target and halves when KL < kl_target / 1.5        (section 4)
    early stop  no further step in this update once KL > kl_stop

KL is estimated by the mean of w - 1 - log w over the rows, which is never negative and has mean KL(old || theta).
As usual for these methods, all states have equal weight: the factor discount^t of the exact gradient is omitted.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from branchax import nn, normalize
from branchax.agents.base import Agent, Layers, Outcome, Sources, Valuation, fill_knobs
from branchax.agents.value import Value, fit_value, init_value, rescale, value_of
from branchax.config import PolicyGradientConfig
from branchax.gradients.likelihood_ratio import weights
from branchax.optimizer import Learner, Optimizer, adam, skipped
from branchax.policies import Policy, categorical_policy, gaussian_policy
from branchax.returns import rewards_to_go
from branchax.types import Key, Params, Trajectory
from branchax.worlds.base import WorldSpec


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    learning_rate: jax.Array
    value_learning_rate: jax.Array
    discount: jax.Array
    gae_lambda: jax.Array
    entropy_weight: jax.Array


class PolicyGradient(NamedTuple):
    """The state of the agent."""

    policy: Learner
    value: Value
    kl_weight: jax.Array  # []
    knobs: Knobs


Carry = tuple[PolicyGradient, jax.Array]  # the agent, and whether the policy is still learning in this update [] bool


class Rows(NamedTuple):
    """The steps of one update, flattened; [N, ...]."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array  # under the policy that took the actions
    advantage: jax.Array
    target: jax.Array  # for the value
    weight: jax.Array  # 1 for a valid step, else 0


class Pieces(NamedTuple):
    """What the agent is made of, which does not change."""

    config: PolicyGradientConfig
    policy: Policy
    value: nn.Network
    optimizer: Optimizer  # of the policy and of the value


def make_policy_gradient(spec: WorldSpec, config: PolicyGradientConfig, network: nn.MakeNetwork = nn.mlp) -> Agent:
    """The agent for a world with observations [D] and actions [A], continuous in [-1, 1] or discrete."""
    if spec.discrete:
        policy = categorical_policy(spec, config.hidden, network=network)
    else:
        policy = gaussian_policy(spec, config.hidden, config.init_std, config.squash, network=network)
    net = network(spec.obs_size, config.value_hidden, 1, activation=nn.tanh)
    pieces, stack = Pieces(config, policy, net, adam(config.max_gradient_norm)), policy.layers
    valuation = Valuation(lambda agent, obs, action: value_of(net, agent.value, obs)[None], False)
    return Agent(
        functools.partial(init, pieces),
        lambda key, agent, obs: policy.act(agent.policy.params)(key, obs),
        lambda agent, obs: policy.mode(agent.policy.params, obs),
        functools.partial(update, pieces),
        learns_from="rollouts",
        divergence=functools.partial(divergence, pieces),
        budget=config.kl_budget,
        valuation=None if config.weight == "to_go" else valuation,
        layers=None if stack is None else lambda agent: Layers(stack(agent.policy.params), "tanh", policy.head),
    )


def init(pieces: Pieces, key: Key) -> PolicyGradient:
    """The agent before its first update."""
    key_policy, key_value = jax.random.split(key)
    return PolicyGradient(
        pieces.optimizer.init(pieces.policy.init(key_policy)),
        init_value(key_value, pieces.value, pieces.optimizer),
        jnp.float32(pieces.config.kl_penalty),
        fill_knobs(Knobs, pieces.config),
    )


def update(pieces: Pieces, key: Key, agent: PolicyGradient, sources: Sources) -> tuple[PolicyGradient, Outcome]:
    """One update: fresh rollouts of the policy, then several passes over their steps in minibatches."""
    key_rollout, key_steps = jax.random.split(key)
    trajectory = jax.lax.stop_gradient(sources.rollout(key_rollout, pieces.policy.act(agent.policy.params), None))
    rows = prepare(pieces, agent, trajectory)
    agent = agent._replace(value=rescale(agent.value, rows.target, rows.weight))
    one_pass = functools.partial(take_pass, pieces, rows)
    keys = jax.random.split(key_steps, pieces.config.passes)
    (agent, _), told = jax.lax.scan(one_pass, (agent, jnp.ones((), bool)), keys)
    kl = surrogate(pieces, agent.policy.params, rows, agent, key_steps)[1].metrics["policy/kl"]  # of the whole update
    agent = agent._replace(kl_weight=adapt_penalty(pieces.config, agent.kl_weight, kl))
    steps = trajectory.valid.sum().astype(jnp.float32)
    mean = jax.tree.map(jnp.mean, told)
    metrics = mean.metrics | {
        "policy/kl": kl,
        "policy/skipped_steps": skipped(agent.policy),
        "value/skipped_steps": skipped(agent.value.learner),
        "value/mean": agent.value.mean,
        "improve/steps": steps,
        "improve/reward_mean": rows_mean(trajectory.transition.reward, trajectory.valid),
    }
    return agent, Outcome(mean.losses, metrics, steps)


def prepare(pieces: Pieces, agent: PolicyGradient, trajectory: Trajectory) -> Rows:
    """The steps of rollouts [H, B, ...] as rows [H B, ...], with their advantages and the value's targets."""
    config, t, knobs = pieces.config, trajectory.transition, agent.knobs
    chex.assert_rank([t.obs, t.action, t.reward, trajectory.valid], [3, 3, 2, 2])
    value = lambda obs, time: value_of(pieces.value, agent.value, obs)  # noqa: E731
    psi = weights(trajectory, knobs.discount, config.weight, value, knobs.gae_lambda)
    if config.weight == "gae":
        target = psi + value_of(pieces.value, agent.value, t.obs)
    else:
        target = rewards_to_go(trajectory, knobs.discount)
    log_prob = pieces.policy.log_prob(agent.policy.params, t.obs, t.action)
    weight = trajectory.valid.astype(psi.dtype)
    if config.normalise:
        psi = standardise(psi, weight)
    rows = Rows(t.obs, t.action, log_prob, psi, target, weight)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)


def take_pass(pieces: Pieces, rows: Rows, carry: Carry, key: Key) -> tuple[Carry, Outcome]:
    """A pass over all rows [N] in random order, a gradient step for each minibatch; outcomes [minibatches]."""
    number = pieces.config.minibatches
    count = rows.weight.shape[0] // number
    key_order, key_entropy = jax.random.split(key)
    order = jax.random.permutation(key_order, rows.weight.shape[0])[: count * number].reshape(number, count)

    def step(carry: Carry, batch: tuple[jax.Array, Key]) -> tuple[Carry, Outcome]:
        places, key = batch
        return take_step(pieces, carry, jax.tree.map(lambda x: x[places], rows), key)

    return jax.lax.scan(step, carry, (order, jax.random.split(key_entropy, number)))


def take_step(pieces: Pieces, carry: Carry, rows: Rows, key: Key) -> tuple[Carry, Outcome]:
    """One gradient step of the policy, unless it was stopped, and the value's steps, on the rows of a minibatch."""
    config, (agent, going) = pieces.config, carry
    loss = jax.value_and_grad(functools.partial(surrogate, pieces), has_aux=True)
    (_, told), gradient = loss(agent.policy.params, rows, agent, key)
    if config.kl_stop is not None:
        going = going & (told.metrics["policy/kl"] <= config.kl_stop)
    moved = pieces.optimizer.step(agent.policy, gradient, agent.knobs.learning_rate)
    policy = jax.tree.map(lambda new, old: jnp.where(going, new, old), moved, agent.policy)
    value, value_loss = agent.value, jnp.zeros(())
    if config.weight != "to_go":
        part = rows.obs, rows.target, rows.weight
        step = pieces.optimizer, agent.knobs.value_learning_rate
        value, value_loss = fit_value(pieces.value, value, *part, *step, config.value_passes)
    metrics = told.metrics | {"policy/steps_taken": going.astype(jnp.float32)}
    outcome = Outcome(told.losses | {"value/loss": value_loss}, metrics)
    return (agent._replace(policy=policy, value=value), going), outcome


def surrogate(pieces: Pieces, params: Params, rows: Rows, agent: PolicyGradient, key: Key) -> tuple[jax.Array, Outcome]:
    """-L(theta) over rows [N], and what is reported of it."""
    config, zeta = pieces.config, pieces.policy.apply(params, rows.obs)
    mean = lambda x: (rows.weight * x).sum() / jnp.maximum(rows.weight.sum(), 1.0)  # noqa: E731
    log_prob, entropy_of = pieces.policy.distribution.log_prob, pieces.policy.distribution.entropy
    assert log_prob is not None and entropy_of is not None
    log_ratio = jnp.where(rows.weight > 0, log_prob(zeta, rows.action) - rows.log_prob, 0.0)
    ratio = jnp.exp(log_ratio)
    gain = ratio * rows.advantage
    if config.clip is not None:
        gain = jnp.minimum(gain, jnp.clip(ratio, 1 - config.clip, 1 + config.clip) * rows.advantage)
    kl = mean(ratio - 1 - log_ratio)
    entropy = mean(entropy_of(key, zeta))
    total = -mean(gain) + agent.kl_weight * kl - agent.knobs.entropy_weight * entropy
    moved = mean(jnp.abs(ratio - 1) > (config.clip or jnp.inf))
    losses = {"policy/loss": -mean(gain)}
    return total, Outcome(losses, {"policy/kl": kl, "policy/entropy": entropy, "policy/clipped": moved})


def adapt_penalty(config: PolicyGradientConfig, kl_weight: jax.Array, kl: jax.Array) -> jax.Array:
    """The weight of the penalty [] after an update whose divergence was `kl` []; without one, as it was."""
    if config.kl_penalty == 0:
        return kl_weight
    doubled = jnp.where(kl > 1.5 * config.kl_target, 2.0, 1.0)
    factor = jnp.where(kl < config.kl_target / 1.5, 0.5, doubled)
    bounds = 1e-3 * config.kl_penalty, 1e3 * config.kl_penalty  # so that it cannot get stuck at 0 or infinity
    return jnp.clip(kl_weight * factor, *bounds)


def divergence(pieces: Pieces, before: PolicyGradient, after: PolicyGradient, obs: jax.Array) -> jax.Array:
    """The mean KL(before || after) over obs [B, D]."""
    kl = pieces.policy.distribution.kl
    assert kl is not None
    return kl(*(pieces.policy.apply(agent.policy.params, obs) for agent in (before, after))).mean()


def standardise(x: jax.Array, weight: jax.Array) -> jax.Array:
    """(x - mean) / standard deviation, both over the entries with weight 1 (weights 0 or 1; same shape)."""
    stats = normalize.measure(x.reshape(-1, 1), weight.reshape(-1) > 0)
    return (x - stats.mean[0]) / stats.std[0]


def rows_mean(x: jax.Array, keep: jax.Array) -> jax.Array:
    """The mean of x over the entries where `keep` is true (same shape) -> []."""
    return jnp.where(keep, x, 0.0).sum() / jnp.maximum(keep.sum(), 1)
