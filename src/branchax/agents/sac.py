"""Soft actor-critic with twin critics and a learned temperature (Haarnoja et al. 2018, arXiv:1812.05905).

    y       = r + gamma (1 - terminated) [ min_j Qbar_j(s', a') - alpha log pi(a' | s') ],   a' ~ pi(. | s')
    J_Q     = 1/2 sum_j E (Q_j(s, a) - y)^2                                                   (their eq. 5 and 6)
    J_pi    = E [ alpha log pi(a | s) - min_j Q_j(s, a) ],   a = tanh(mean + std noise)        (eq. 9)
    J_alpha = E [ -log_alpha (log pi(a | s) + target_entropy) ]                                (eq. 18, in log alpha)
    Qbar   <- (1 - tau) Qbar + tau Q

A truncated transition bootstraps like any other: only `terminated` ends the value.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from branchax import nn
from branchax.agents.base import Agent, Sources
from branchax.agents.learner import Learner, adam, skipped
from branchax.config import SACConfig
from branchax.distributions import tanh_normal
from branchax.types import Key, Metrics, Params
from branchax.worlds.base import WorldSpec


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    learning_rate: jax.Array
    discount: jax.Array
    tau: jax.Array
    target_entropy: jax.Array


class SAC(NamedTuple):
    """The state of the agent; the critics' leaves have a leading axis of 2."""

    actor: Learner
    critics: Learner
    targets: Params
    log_alpha: Learner  # of []
    knobs: Knobs


def make_sac(spec: WorldSpec, config: SACConfig) -> Agent:
    """SAC for a world with observations [D] and continuous actions [A] in [-1, 1]."""
    policy = nn.mlp(spec.obs_size, config.hidden, tanh_normal.size(spec.action_size))
    q_net = nn.mlp(spec.obs_size + spec.action_size, config.hidden, 1, layer_norm=config.critic_layer_norm)
    optimizer = adam()
    default_entropy = -0.5 * spec.action_size

    def init(key: Key) -> SAC:
        key_actor, key_critics = jax.random.split(key)
        actor, critics = policy.init(key_actor), jax.vmap(q_net.init)(jax.random.split(key_critics, 2))
        log_alpha = optimizer.init(jnp.log(jnp.float32(config.init_temperature)))
        entropy = default_entropy if config.target_entropy is None else config.target_entropy
        knobs = Knobs(*(jnp.float32(x) for x in (config.learning_rate, config.discount, config.tau, entropy)))
        # A copy, because the epoch's buffers are donated and no array may be donated twice.
        targets = jax.tree.map(jnp.copy, critics)
        return SAC(optimizer.init(actor), optimizer.init(critics), targets, log_alpha, knobs)

    def q_values(critics: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """[B, D], [B, A] -> [2, B]."""
        x = jnp.concatenate([obs, action], -1)
        return jax.vmap(lambda params: q_net.apply(params, x)[:, 0])(critics)

    def act(key: Key, agent: SAC, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return tanh_normal.sample(key, policy.apply(agent.actor.params, obs))[0], ()

    def mode(agent: SAC, obs: jax.Array) -> jax.Array:
        return tanh_normal.mode(policy.apply(agent.actor.params, obs))

    def update(key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Metrics]:
        key_batch, key_next, key_actor = jax.random.split(key, 3)
        batch = sources.replay(key_batch)
        chex.assert_rank([batch.obs, batch.action, batch.reward, batch.terminated], [2, 2, 1, 1])
        alpha = jnp.exp(agent.log_alpha.params)
        learning_rate = agent.knobs.learning_rate

        next_action, next_log_prob = tanh_normal.sample(key_next, policy.apply(agent.actor.params, batch.next_obs))
        next_value = q_values(agent.targets, batch.next_obs, next_action).min(0) - alpha * next_log_prob
        y = batch.reward + agent.knobs.discount * jnp.where(batch.terminated, 0.0, next_value)  # [B]

        def critic_loss(critics: Params) -> tuple[jax.Array, jax.Array]:
            q = q_values(critics, batch.obs, batch.action)
            return 0.5 * ((q - y) ** 2).mean(-1).sum(), q

        (j_q, q), gradient = jax.value_and_grad(critic_loss, has_aux=True)(agent.critics.params)
        critics = optimizer.step(agent.critics, gradient, learning_rate)

        def actor_loss(actor: Params) -> tuple[jax.Array, jax.Array]:
            action, log_prob = tanh_normal.sample(key_actor, policy.apply(actor, batch.obs))
            j_pi = alpha * log_prob - q_values(critics.params, batch.obs, action).min(0)
            return j_pi.mean(), -log_prob.mean()

        (j_pi, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(agent.actor.params)
        actor = optimizer.step(agent.actor, gradient, learning_rate)

        log_alpha = agent.log_alpha
        if config.learn_temperature:
            gradient = entropy - agent.knobs.target_entropy  # d J_alpha / d log_alpha
            log_alpha = optimizer.step(log_alpha, gradient, learning_rate)

        targets = optax.incremental_update(critics.params, agent.targets, agent.knobs.tau)
        metrics = {
            "critic/loss": j_q,
            "critic/q_mean": q.mean(),
            "critic/q_max": q.max(),
            "policy/loss": j_pi,
            "policy/entropy": entropy,
            "policy/alpha": alpha,
            "critic/skipped_steps": skipped(critics),
            "policy/skipped_steps": skipped(actor),
        }
        return SAC(actor, critics, targets, log_alpha, agent.knobs), metrics

    return Agent(init, act, mode, update)
