"""A table of counts: the maximum-likelihood model of a world with few states (Sutton and Barto 2018, section 8.2).

    p(s' | s, a) = n(s, a, s') / n(s, a)         r(s, a, s') = the mean reward seen          terminated likewise

In a deterministic world this is the last transition seen, as in the book's Dyna-Q. For a pair never seen, the model
predicts the same state again, without reward (the book's convention for Dyna-Q+), and its uncertainty is 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.distributions import one_hot
from branchax.dynamics.base import Dynamics, FitReport, Member
from branchax.dynamics.ensemble import branch
from branchax.replay import Ring
from branchax.types import Key, Transition
from branchax.worlds.base import World, WorldState


class Table(NamedTuple):
    """Counts and sums over the stored transitions, [S, A, S]."""

    visits: jax.Array
    reward: jax.Array
    ended: jax.Array


def make_table(world: World) -> Dynamics:
    """The model of a tabular `world`; each fit counts the replay buffer again."""
    states, actions = world.spec.obs_size, world.spec.action_size

    def init(key: Key) -> Table:
        del key
        return Table(*(jnp.zeros((states, actions, states)) for _ in Table._fields))

    def fit(key: Key, model: Table, ring: Ring) -> tuple[Table, FitReport]:
        del key, model
        t: Transition = ring.data.transition
        age = (ring.cursor - 1 - jnp.arange(replay.capacity(ring))) % replay.capacity(ring)
        stored = (age < ring.size).astype(jnp.float32)
        at = t.obs.argmax(-1), t.action.argmax(-1), t.next_obs.argmax(-1)
        add = lambda x: jnp.zeros((states, actions, states)).at[at].add(stored * x)  # noqa: E731
        table = Table(add(1.0), add(t.reward), add(t.terminated))
        return table, FitReport({"model/pairs": (table.visits.sum(-1) > 0).sum().astype(jnp.float32)})

    def in_table(model: Table, member: Member) -> World:
        del member

        def step(key: Key, state: WorldState, action: jax.Array) -> tuple[WorldState, Transition]:
            s, a = state.obs.argmax(), action.argmax()
            visits = model.visits[s, a]
            seen = visits.sum() > 0
            after = jnp.where(seen, jax.random.categorical(key, jnp.log(visits)), s)
            count = jnp.maximum(visits[after], 1)
            reward, ended = model.reward[s, a, after] / count, model.ended[s, a, after] / count > 0.5
            obs = one_hot(after, states)
            t = Transition(state.obs, action, reward, obs, ended & seen, jnp.zeros((), bool))
            return WorldState((), obs, state.time + 1), t

        return World(world.spec, lambda key: branch(world.reset(key).obs), step)

    def doubt(model: Table, obs: jax.Array, action: jax.Array) -> jax.Array:
        return (model.visits[obs.argmax(), action.argmax()].sum() == 0).astype(jnp.float32)

    return Dynamics(
        init=init,
        fit=fit,
        elites=lambda model: jnp.zeros(1, jnp.int32),
        world=in_table,
        branch=lambda row: branch(row.transition.obs),
        after=lambda key, row: branch(row.transition.next_obs),
        doubt=doubt,
        needs_state=False,
    )
