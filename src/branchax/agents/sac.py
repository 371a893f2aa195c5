"""Soft actor-critic with a learned temperature (Haarnoja et al. 2018, arXiv:1812.05905).

    V(s)    = min_c Qbar_c(s, a) - alpha log pi(a | s),   a ~ pi(. | s)                bootstraps the critics (`critic`)
    J_pi    = E [ alpha log pi(a | s) - min_c Q_c(s, a) ],   a = tanh(mean + std noise)               (their eq. 7 to 9)
    J_alpha = E [ -log_alpha (log pi(a | s) + target_entropy) ]                                (eq. 18, in log alpha)

With discrete actions the expectations over a are exact (Christodoulou 2019, arXiv:1910.07207):

    V(s)    = min_c sum_a pi(a | s) (Qbar_c(s, a) - alpha log pi(a | s))        J_pi = E [ -V(s), with Q for Qbar ]

(there with the least inside the sum). Of more than two critics, J_pi takes the mean instead of the least, as REDQ and
STEVE do.

`through_model` lets the model take part in the actor's gradient (Amos et al. 2021, arXiv:2008.12775, eq. 5):

    J_pi    = -E [ sum_{i < H} gamma^i (r_i - alpha log pi(a_i | s_i)) + gamma^H V(s_H) ],   differentiated through it
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from branchax import nn
from branchax.agents.base import Agent, Outcome, Sources, Valuation
from branchax.agents.critic import (
    Backup,
    Critic,
    in_one_elite,
    make_critic,
    make_discrete_critic,
    make_targets,
    regress,
)
from branchax.agents.learner import Learner, adam, fill_knobs, skipped
from branchax.config import SACConfig
from branchax.distributions import Distribution, categorical, tanh_normal
from branchax.returns import bootstrapped
from branchax.types import Key, Params, Row
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


Valued = tuple[jax.Array, jax.Array]  # V_c [C, ...], entropy [...]


class Actions(NamedTuple):
    """What continuous and discrete actions do differently."""

    distribution: Distribution
    policy: nn.Network
    critic: Critic
    value: Callable[..., Valued]  # (key, actor, critics, obs [..., D], alpha); differentiable
    target_entropy: float  # unless the config has one


def continuous(spec: WorldSpec, config: SACConfig) -> Actions:
    """Actions in [-1, 1]^A by a squashed Gaussian; V is one sample's."""
    policy = nn.mlp(spec.obs_size, config.hidden, tanh_normal.size(spec.action_size))
    critic = make_critic(spec.obs_size + spec.action_size, config.hidden, config.critic)

    def value(key: Key, actor: Params, critics: Params, obs: jax.Array, alpha: jax.Array) -> Valued:
        action, log_prob = tanh_normal.sample(key, policy.apply(actor, obs))
        return critic.values(critics, obs, action) - alpha * log_prob, -log_prob

    return Actions(tanh_normal, policy, critic, value, -0.5 * spec.action_size)


def discrete(spec: WorldSpec, config: SACConfig) -> Actions:
    """One of A actions; V is exact. The least is that of the critics' expectations, not of each action's values."""
    policy = nn.mlp(spec.obs_size, config.hidden, spec.action_size)
    critic = make_discrete_critic(spec, config.hidden, config.critic)

    def value(key: Key, actor: Params, critics: Params, obs: jax.Array, alpha: jax.Array) -> Valued:
        del key
        log_p = jax.nn.log_softmax(policy.apply(actor, obs))
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        return critic.values(critics, obs, jnp.exp(log_p)) + alpha * entropy, entropy

    return Actions(categorical, policy, critic, value, 0.5 * math.log(spec.action_size))


def make_sac(spec: WorldSpec, config: SACConfig) -> Agent:
    """SAC for a world with observations [D] and actions [A], continuous in [-1, 1] or discrete."""
    distribution, policy, critic, value, default_entropy = (discrete if spec.discrete else continuous)(spec, config)
    optimizer = adam()

    def init(key: Key) -> SAC:
        key_actor, key_critics = jax.random.split(key)
        actor, critics = policy.init(key_actor), critic.init(key_critics)
        log_alpha = optimizer.init(jnp.log(jnp.float32(config.init_temperature)))
        entropy = default_entropy if config.target_entropy is None else config.target_entropy
        knobs = fill_knobs(Knobs, config, target_entropy=entropy)
        # A copy, because the epoch's buffers are donated and no array may be donated twice.
        targets = jax.tree.map(jnp.copy, critics)
        return SAC(optimizer.init(actor), optimizer.init(critics), targets, log_alpha, knobs)

    def act(key: Key, agent: SAC, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return distribution.sample(key, policy.apply(agent.actor.params, obs))[0], ()

    def mode(agent: SAC, obs: jax.Array) -> jax.Array:
        return distribution.mode(policy.apply(agent.actor.params, obs))

    def soft_act(actor: Params, alpha: jax.Array) -> Callable[[Key, jax.Array], tuple[jax.Array, jax.Array]]:
        def act(key: Key, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
            action, log_prob = distribution.sample(key, policy.apply(actor, obs))
            return action, -alpha * log_prob

        return act

    def objective(
        key: Key, actor: Params, critics: Params, row: Row, alpha: jax.Array, discount: jax.Array, sources: Sources
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-J_pi, the entropy at the rows' states, and the model steps that were taken, []."""
        key_here, key_ahead, key_last = jax.random.split(key, 3)
        here, entropy = value(key_here, actor, critics, row.transition.obs, alpha)
        settle = (lambda v: v.min(0)) if config.critic.members <= 2 else (lambda v: v.mean(0))
        if not config.through_model:
            return settle(here).mean(), entropy.mean(), jnp.zeros(())
        assert sources.ahead is not None, "a gradient through the model needs one"
        trajectory = in_one_elite(key_ahead, row, sources.ahead, soft_act(actor, alpha), after=False)
        last, _ = value(key_last, actor, critics, trajectory.transition.next_obs, alpha)
        q = bootstrapped(trajectory, settle(last), trajectory.extras, discount)
        return (trajectory.extras[0] + q[0]).mean(), entropy.mean(), trajectory.valid.sum().astype(jnp.float32)

    def update(key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Outcome]:
        key_batch, key_targets, key_actor = jax.random.split(key, 3)
        row = sources.replay(key_batch)
        alpha, knobs = jnp.exp(agent.log_alpha.params), agent.knobs
        backup = Backup(
            soft_act(agent.actor.params, alpha),
            lambda key, obs: value(key, agent.actor.params, agent.targets, obs, alpha)[0],
        )
        goal = make_targets(key_targets, row, sources, backup, config.critic, knobs.discount)
        critics, fitted = regress(critic.values, agent.critics, goal, optimizer, knobs.learning_rate)

        def actor_loss(actor: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            total, entropy, steps = objective(key_actor, actor, critics.params, row, alpha, knobs.discount, sources)
            return -total, (entropy, steps)

        (j_pi, (entropy, steps)), gradient = jax.value_and_grad(actor_loss, has_aux=True)(agent.actor.params)
        actor = optimizer.step(agent.actor, gradient, knobs.learning_rate)

        log_alpha = agent.log_alpha
        if config.learn_temperature:
            gradient = entropy - knobs.target_entropy  # d J_alpha / d log_alpha
            log_alpha = optimizer.step(log_alpha, gradient, knobs.learning_rate)

        targets = optax.incremental_update(critics.params, agent.targets, knobs.tau)
        metrics = {"policy/entropy": entropy, "policy/alpha": alpha, "policy/skipped_steps": skipped(actor)}
        outcome = Outcome(fitted.losses | {"policy/loss": j_pi}, fitted.metrics | metrics, fitted.model_steps + steps)
        return SAC(actor, critics, targets, log_alpha, knobs), outcome

    def bonus(agent: SAC, obs: jax.Array, action: jax.Array) -> jax.Array:
        assert distribution.log_prob is not None
        return -jnp.exp(agent.log_alpha.params) * distribution.log_prob(policy.apply(agent.actor.params, obs), action)

    valuation = Valuation(lambda agent, obs, action: critic.values(agent.critics.params, obs, action), False, bonus)
    return Agent(init, act, mode, update, valuation=valuation)
