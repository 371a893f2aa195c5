"""Deep Q-learning (Mnih et al. 2015), double (van Hasselt et al. 2016, arXiv:1509.06461): critics without an actor.

    V(s') = Qbar(s', argmax_a Q(s', a)),   or max_a Qbar(s', a) without `double`       bootstraps the critics (`critic`)

The policy is epsilon-greedy in the mean of the critics: the best action, or with probability epsilon a random one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from branchax import nn
from branchax.agents.base import Agent, Layers, Outcome, Sources, Valuation, fill_knobs
from branchax.agents.critic import Backup, action_values, make_discrete_critic, make_targets, regress
from branchax.config import DQNConfig
from branchax.distributions import one_hot
from branchax.optimizer import Learner, adam
from branchax.types import Key, Params
from branchax.worlds.base import WorldSpec


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    learning_rate: jax.Array
    discount: jax.Array
    tau: jax.Array
    epsilon: jax.Array


class DQN(NamedTuple):
    """The state of the agent; the critics' leaves have a leading axis [C]."""

    critics: Learner
    targets: Params
    knobs: Knobs


def make_dqn(spec: WorldSpec, config: DQNConfig, network: nn.MakeNetwork = nn.mlp) -> Agent:
    """The agent for a world with observations [D] and A discrete actions."""
    critic = make_discrete_critic(spec, config.hidden, config.critic, config.dueling, network=network)
    optimizer = adam()
    count = spec.action_size

    def init(key: Key) -> DQN:
        critics = critic.init(key)
        # A copy: donated buffers must not be shared.
        return DQN(optimizer.init(critics), jax.tree.map(jnp.copy, critics), fill_knobs(Knobs, config))

    def greedy(params: Params, obs: jax.Array) -> jax.Array:
        return one_hot(action_values(critic, params, obs, count).mean(0).argmax(-1), count)

    def act(key: Key, agent: DQN, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return epsilon_greedy(key, greedy(agent.critics.params, obs), agent.knobs.epsilon), ()

    def mode(agent: DQN, obs: jax.Array) -> jax.Array:
        return greedy(agent.critics.params, obs)

    def update(key: Key, agent: DQN, sources: Sources) -> tuple[DQN, Outcome]:
        key_batch, key_targets = jax.random.split(key)
        chooser = agent.critics.params if config.double else agent.targets
        backup = Backup(
            lambda key, obs: (greedy(chooser, obs), jnp.zeros(())),
            lambda key, obs: critic.values(agent.targets, obs, greedy(chooser, obs)),
        )
        row = sources.replay(key_batch)
        goal = make_targets(key_targets, row, sources, backup, config.critic, agent.knobs.discount)
        critics, outcome = regress(critic, agent.critics, goal, optimizer, agent.knobs.learning_rate)
        targets = optax.incremental_update(critics.params, agent.targets, agent.knobs.tau)
        return DQN(critics, targets, agent.knobs), outcome

    valuation = Valuation(lambda agent, obs, action: critic.values(agent.critics.params, obs, action), True)
    # Dueling: V(s) and the mean advantage are the same for all actions, so only the advantages matter.
    stack, decides = critic.layers, slice(1, None) if config.dueling else slice(None)
    layers = None if stack is None else lambda agent: Layers(stack(agent.critics.params), "relu", "argmax", decides)
    return Agent(init, act, mode, update, valuation=valuation, layers=layers)


def epsilon_greedy(key: Key, best: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The one-hot action `best` [A], or with probability `epsilon` [] a random one."""
    key_whether, key_which = jax.random.split(key)
    other = one_hot(jax.random.randint(key_which, (), 0, best.shape[-1]), best.shape[-1])
    return jnp.where(jax.random.bernoulli(key_whether, epsilon), other, best)
