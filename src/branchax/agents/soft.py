"""Parts of soft actor-critics, and the steps shared by their updates (`sac`, `double_horizon`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from branchax import nn
from branchax.agents.base import Outcome, fill_knobs
from branchax.agents.critic import (
    Critic,
    Targets,
    in_range,
    lowest,
    make_critic,
    make_discrete_critic,
    measured,
    regress,
)
from branchax.agents.value_range import ValueRange, clip_to_range, init_range, track_range
from branchax.config import SACConfig
from branchax.distributions import Distribution, categorical, raw_log_std, tanh_normal
from branchax.optimizer import Learner, Optimizer, adam, skipped
from branchax.rollout import Act
from branchax.types import Key, Params
from branchax.worlds.base import WorldSpec


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    learning_rate: jax.Array
    discount: jax.Array
    tau: jax.Array
    target_entropy: jax.Array


class SAC(NamedTuple):
    """The state of the agent; the critics' leaves have a leading axis [C]."""

    actor: Learner
    critics: Learner
    targets: Params
    log_alpha: Learner  # of []
    knobs: Knobs
    range: ValueRange | None = None  # the range of values; None: values are not scaled

    @property
    def alpha(self) -> jax.Array:
        """The temperature, []."""
        return jnp.exp(self.log_alpha.params)


Values = Callable[[jax.Array, jax.Array], jax.Array]  # (obs [..., D], action [..., A]) -> [C, ...]
Valued = tuple[jax.Array, jax.Array]  # V_c [C, ...], entropy [...]


class Pieces(NamedTuple):
    """The parts that the agent's functions take as first argument; they differ for continuous and discrete actions."""

    config: SACConfig
    distribution: Distribution
    policy: nn.Network
    critic: Critic
    value: Callable[..., Valued]  # (key, actor, values, obs [..., D], alpha); differentiable
    target_entropy: float  # used unless the config sets one
    optimizer: Optimizer = adam()

    def combine(self, values: jax.Array) -> jax.Array:
        """The value that the actor maximises, from critics' values [C, ...] -> [...]: minimum of two, mean of more."""
        return lowest(values) if self.config.critic.members <= 2 else values.mean(0)


def make_pieces(spec: WorldSpec, config: SACConfig, network: nn.MakeNetwork) -> Pieces:
    """The pieces for a world's actions."""
    return (discrete if spec.discrete else continuous)(spec, config, network)


def continuous(spec: WorldSpec, config: SACConfig, network: nn.MakeNetwork) -> Pieces:
    """Actions in [-1, 1]^A from a squashed Gaussian; V is estimated from one sample."""
    activation = nn.ACTIVATIONS[config.activation]
    policy = network(spec.obs_size, config.hidden, tanh_normal.size(spec.action_size), activation=activation)
    policy = nn.standardise(policy, spec.obs_size) if config.normalise_obs else policy
    start = jnp.repeat(jnp.array([0.0, raw_log_std(math.log(config.init_std))]), spec.action_size)  # mean, deviation
    policy = policy._replace(apply=lambda params, obs, raw=policy.apply: raw(params, obs) + start)
    size = spec.obs_size + spec.action_size
    critic = make_critic(size, config.hidden, config.critic, activation, config.normalise_obs, network)

    def value(key: Key, actor: Params, values: Values, obs: jax.Array, alpha: jax.Array) -> Valued:
        action, log_prob = tanh_normal.sample(key, policy.apply(actor, obs))
        return values(obs, action) - alpha * log_prob, -log_prob

    return Pieces(config, tanh_normal, policy, critic, value, config.entropy_per_action * spec.action_size)


def discrete(spec: WorldSpec, config: SACConfig, network: nn.MakeNetwork) -> Pieces:
    """One of A actions; V is exact. The minimum is over the critics' expectations, not over each action's values."""
    activation = nn.ACTIVATIONS[config.activation]
    policy = network(spec.obs_size, config.hidden, spec.action_size, activation=activation)
    policy = nn.standardise(policy, spec.obs_size) if config.normalise_obs else policy
    critic = make_discrete_critic(
        spec,
        config.hidden,
        config.critic,
        activation=activation,
        standardised=config.normalise_obs,
        network=network,
    )

    def value(key: Key, actor: Params, values: Values, obs: jax.Array, alpha: jax.Array) -> Valued:
        del key
        log_p = jax.nn.log_softmax(policy.apply(actor, obs))
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        return values(obs, jnp.exp(log_p)) + alpha * entropy, entropy

    return Pieces(config, categorical, policy, critic, value, 0.5 * math.log(spec.action_size))


def init(pieces: Pieces, key: Key) -> SAC:
    """The initial state."""
    config, optimizer = pieces.config, pieces.optimizer
    key_actor, key_critics = jax.random.split(key)
    actor, critics = pieces.policy.init(key_actor), pieces.critic.init(key_critics)
    log_alpha = optimizer.init(jnp.log(jnp.float32(config.init_temperature)))
    entropy = pieces.target_entropy if config.target_entropy is None else config.target_entropy
    knobs = fill_knobs(Knobs, config, target_entropy=entropy)
    # A copy: the epoch's buffers are donated, and no array may be donated twice.
    targets = jax.tree.map(jnp.copy, critics)
    range_ = None if config.critic.scale == "none" else init_range()
    return SAC(optimizer.init(actor), optimizer.init(critics), targets, log_alpha, knobs, range_)


def soft_act(pieces: Pieces, actor: Params, weight: jax.Array | float) -> Act:
    """The policy, with extras -weight log pi(a | s), []."""

    def act(key: Key, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        action, log_prob = pieces.distribution.sample(key, pieces.policy.apply(actor, obs))
        return action, -weight * log_prob

    return act


def values_of(pieces: Pieces, agent: SAC, critics: Params, here: tuple[jax.Array, jax.Array] | None = None) -> Values:
    """The critics with these parameters, scaled to the agent's range of values.

    BatchNorms have running statistics; or those of what is valued joined with `here`, obs [B, D] and action [B, A].
    """
    mine = in_range(pieces.critic, agent.range)

    def values(obs: jax.Array, action: jax.Array) -> jax.Array:
        params = critics if here is None else measured(mine, critics, here, (obs, action))
        return mine.values(params, obs, action)

    return values


def values_for_actor(pieces: Pieces, agent: SAC) -> Values:
    """The critics as the actor's objective has them: with `critic.clip_actor`, clipped to the range of values."""
    values = values_of(pieces, agent, agent.critics.params)
    if not pieces.config.critic.clip_actor:
        return values
    return lambda obs, action: clip_to_range(values(obs, action), agent.range)


def update_range(pieces: Pieces, agent: SAC, soft: jax.Array, mask: jax.Array | bool = True) -> SAC:
    """Updates the agent's range of values, if it has one, from soft rewards [...] where the mask is true."""
    if agent.range is None:
        return agent
    critic, possible = pieces.config.critic, pieces.config.critic.scale == "possible"
    seen = track_range(agent.range, soft, agent.knobs.discount, critic.scale_rate, possible, mask)
    return agent._replace(range=seen)


def step_critics(pieces: Pieces, key: Key, agent: SAC, goal: Targets) -> tuple[SAC, Outcome]:
    """One step of the critics, then of the target critics."""
    dropped, step = key if pieces.config.critic.dropout else None, (pieces.optimizer, agent.knobs.learning_rate)
    critics, told = regress(pieces.critic, agent.critics, goal, *step, dropped, agent.range)
    targets = optax.incremental_update(critics.params, agent.targets, agent.knobs.tau)
    return agent._replace(critics=critics, targets=targets), told


def step_actor(
    pieces: Pieces, agent: SAC, gradient: Params, j_pi: jax.Array, entropy: jax.Array, told: Outcome
) -> tuple[SAC, Outcome]:
    """One step of the actor and the temperature; `told` is the critics' outcome and counts all model steps."""
    knobs, step = agent.knobs, pieces.optimizer.step
    actor, log_alpha = step(agent.actor, gradient, knobs.learning_rate), agent.log_alpha
    if pieces.config.learn_temperature:  # d J_alpha / d log_alpha
        log_alpha = step(log_alpha, entropy - knobs.target_entropy, knobs.learning_rate)
    metrics = {"policy/entropy": entropy, "policy/alpha": agent.alpha, "policy/skipped_steps": skipped(actor)}
    outcome = told._replace(losses=told.losses | {"policy/loss": j_pi}, metrics=told.metrics | metrics)
    return agent._replace(actor=actor, log_alpha=log_alpha), outcome
