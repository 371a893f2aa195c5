"""Q-learning with a table (Watkins 1989), one transition at a time; with a model it is Dyna-Q (Sutton 1990).

    Q(s, a) <- Q(s, a) + alpha (r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a))

Dyna-Q (Sutton and Barto 2018, section 8.2): an update learns on the steps just collected, in order, then on a batch of
imagined transitions ("planning"). States and actions are one-hot vectors, so a product reads the table.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax import nn
from branchax.agents.base import Agent, Layers, Outcome, Sources, Valuation, fill_knobs
from branchax.agents.dqn import epsilon_greedy
from branchax.config import QLearningConfig
from branchax.distributions import one_hot
from branchax.types import Key, Largest, Transition
from branchax.worlds.base import WorldSpec


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    learning_rate: jax.Array
    discount: jax.Array
    epsilon: jax.Array


class QLearning(NamedTuple):
    """The state of the agent."""

    table: jax.Array  # [S, A]
    knobs: Knobs


def make_q_learning(spec: WorldSpec, config: QLearningConfig) -> Agent:
    """The agent for a tabular world with S states and A actions. The table starts at zero; ties are broken randomly."""

    def init(key: Key) -> QLearning:
        del key
        return QLearning(jnp.zeros((spec.obs_size, spec.action_size)), fill_knobs(Knobs, config))

    def act(key: Key, agent: QLearning, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        key_tie, key_explore = jax.random.split(key)
        q = obs @ agent.table
        tied = jnp.where(q == q.max(), jax.random.uniform(key_tie, q.shape), -1.0)
        return epsilon_greedy(key_explore, one_hot(tied.argmax(), spec.action_size), agent.knobs.epsilon), ()

    def mode(agent: QLearning, obs: jax.Array) -> jax.Array:
        return one_hot((obs @ agent.table).argmax(), spec.action_size)

    def learn(agent: QLearning, t: Transition) -> tuple[QLearning, jax.Array]:
        now = t.obs @ agent.table @ t.action
        later = jnp.where(t.terminated, 0.0, (t.next_obs @ agent.table).max())
        error = t.reward + agent.knobs.discount * later - now
        moved = agent.table + agent.knobs.learning_rate * error * jnp.outer(t.obs, t.action)
        return agent._replace(table=moved), error

    def update(key: Key, agent: QLearning, sources: Sources) -> tuple[QLearning, Outcome]:
        assert sources.recent is not None
        recent = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), sources.recent.transition)
        agent, errors = jax.lax.scan(learn, agent, recent)
        if sources.ahead is not None:
            agent, _ = jax.lax.scan(learn, agent, sources.replay(key).transition)
        return agent, Outcome({"critic/loss": 0.5 * (errors**2).mean()}, {"critic/q_max": Largest(agent.table.max())})

    valuation = Valuation(lambda agent, obs, action: (obs @ agent.table @ action)[None], True)

    def layers(agent: QLearning) -> Layers:  # obs is one-hot, so a linear layer reads the table
        return Layers([nn.Layer(agent.table, jnp.zeros(spec.action_size))], "relu", "argmax")

    return Agent(init, act, mode, update, valuation=valuation, layers=layers)
