"""Twin delayed deterministic policy gradients (TD3: Fujimoto et al. 2018, arXiv:1802.09477).

    V(s') = min_c Qbar_c(s', clip(mubar(s') + clip(e, -c, c), -1, 1)),  e ~ N(0, target_noise^2)          (their eq. 14)
    J_mu  = -E [ Q_1(s, mu(s)) ],  one step of actor and targets per `policy_delay` steps of the critics

The policy adds noise with standard deviation `exploration` to its tanh-squashed mean, also in imagined rollouts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from branchax import nn
from branchax.agents.base import Agent, Layers, Outcome, Sources, Valuation, fill_knobs
from branchax.agents.critic import Backup, make_critic, make_targets, regress
from branchax.config import TD3Config
from branchax.optimizer import Learner, adam, skipped
from branchax.types import Key, Params
from branchax.worlds.base import WorldSpec


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    learning_rate: jax.Array
    discount: jax.Array
    tau: jax.Array
    exploration: jax.Array
    target_noise: jax.Array


class TD3(NamedTuple):
    """The state of the agent; the critics' leaves have a leading axis [C]."""

    actor: Learner
    critics: Learner
    target_actor: Params
    target_critics: Params
    knobs: Knobs


def make_td3(spec: WorldSpec, config: TD3Config, network: nn.MakeNetwork = nn.mlp) -> Agent:
    """TD3 for a world with observations [D] and continuous actions [A] in [-1, 1].

    An `update` is `policy_delay` steps of the critics, then one of the actor. A counter instead of this structure would
    compute the actor's gradient at every step, because `vmap` runs both branches of a condition.
    """
    net, optimizer = network(spec.obs_size, config.hidden, spec.action_size), adam()
    critic = make_critic(spec.obs_size + spec.action_size, config.hidden, config.critic, network=network)

    def init(key: Key) -> TD3:
        key_actor, key_critics = jax.random.split(key)
        actor, critics = net.init(key_actor), critic.init(key_critics)
        copied = jax.tree.map(jnp.copy, actor), jax.tree.map(jnp.copy, critics)  # donated buffers must not be shared
        return TD3(optimizer.init(actor), optimizer.init(critics), *copied, fill_knobs(Knobs, config))

    def mean(actor: Params, obs: jax.Array) -> jax.Array:
        return jnp.tanh(net.apply(actor, obs))

    def act(key: Key, agent: TD3, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        action = mean(agent.actor.params, obs)
        noise = agent.knobs.exploration * jax.random.normal(key, action.shape, action.dtype)
        return jnp.clip(action + noise, -1.0, 1.0), ()

    def mode(agent: TD3, obs: jax.Array) -> jax.Array:
        return mean(agent.actor.params, obs)

    def critic_step(agent: TD3, key: Key, sources: Sources) -> tuple[TD3, tuple[Outcome, jax.Array]]:
        key_batch, key_targets = jax.random.split(key)

        def smoothed(key: Key, obs: jax.Array) -> jax.Array:
            action = mean(agent.target_actor, obs)
            noise = agent.knobs.target_noise * jax.random.normal(key, action.shape, action.dtype)
            noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
            return jnp.clip(action + noise, -1.0, 1.0)

        backup = Backup(
            lambda key, obs: (smoothed(key, obs), jnp.zeros(())),
            lambda key, obs: critic.values(agent.target_critics, obs, smoothed(key, obs)),
        )
        row = sources.replay(key_batch)
        goal = make_targets(key_targets, row, sources, backup, config.critic, agent.knobs.discount)
        critics, fitted = regress(critic, agent.critics, goal, optimizer, agent.knobs.learning_rate)
        return agent._replace(critics=critics), (fitted, row.transition.obs)

    def update(key: Key, agent: TD3, sources: Sources) -> tuple[TD3, Outcome]:
        keys = jax.random.split(key, config.policy_delay)
        agent, (fitted, obs) = jax.lax.scan(lambda agent, key: critic_step(agent, key, sources), agent, keys)
        first = jax.tree.map(lambda x: x[:1], agent.critics.params)

        def actor_loss(actor: Params) -> jax.Array:
            return -critic.values(first, obs[-1], mean(actor, obs[-1])).mean()

        loss, gradient = jax.value_and_grad(actor_loss)(agent.actor.params)
        actor = optimizer.step(agent.actor, gradient, agent.knobs.learning_rate)
        online, targets = (actor.params, agent.critics.params), (agent.target_actor, agent.target_critics)
        target_actor, target_critics = optax.incremental_update(online, targets, agent.knobs.tau)  # type: ignore[misc]
        steps, last = jnp.asarray(fitted.model_steps).sum(), jax.tree.map(lambda x: x[-1], fitted)
        metrics = last.metrics | {"policy/skipped_steps": skipped(actor)}
        outcome = Outcome(last.losses | {"policy/loss": loss}, metrics, steps)
        return TD3(actor, agent.critics, target_actor, target_critics, agent.knobs), outcome

    valuation = Valuation(lambda agent, obs, action: critic.values(agent.critics.params, obs, action), True)
    stack = net.layers
    layers = None if stack is None else lambda agent: Layers(stack(agent.actor.params), "relu", "tanh")
    return Agent(init, act, mode, update, counts=config.policy_delay, valuation=valuation, layers=layers)
