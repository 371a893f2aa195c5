"""The agent's updates after a round of collecting."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.agents.base import Outcome
from branchax.epoch.parts import Parts
from branchax.epoch.sources import make_sources
from branchax.epoch.state import TrainState
from branchax.epoch.stopping import stop_early, while_models_agree, within_budget
from branchax.rollout import rollout
from branchax.sharding import over_batch
from branchax.types import Key, Stream, Trajectory, stream


def improve(
    parts: Parts, state: TrainState, recent: Trajectory | None, horizon: jax.Array
) -> tuple[TrainState, Outcome]:
    """The `updates_per_round` updates that follow a round of collecting, as a scan; their outcomes, [N]."""
    agent, sizes = parts.agent, parts.sizes
    key = stream(state.key, Stream.IMPROVE, state.counts.env_steps)
    draws = make_sources(parts, state, recent, horizon)
    count = sizes.updates_per_round // agent.counts
    update = jax.named_scope("update")(lambda params, k: agent.update(k, params, draws))
    improve_all = lambda params, keys: (*jax.lax.scan(update, params, keys), None)  # noqa: E731
    if parts.dynamics is not None and sizes.rollout.validate_every is not None:
        key, key_look = jax.random.split(key)
        returns_of = functools.partial(member_returns, parts, key_look, state, horizon)
        look = while_models_agree(returns_of, sizes.rollout.validate_share)
        improve_all = stop_early(update, look, returns_of(state.agent), sizes.rollout.validate_every, undo=False)
    elif agent.divergence is not None and agent.budget is not None:
        key, key_look = jax.random.split(key)
        obs = replay.sample(key_look, state.real, sizes.batch_size).transition.obs
        moved = agent.divergence
        look = within_budget(lambda old, new: moved(old, new, obs), agent.budget)
        improve_all = stop_early(update, look, state.agent, every=1, undo=True)
    params, outcome, done = improve_all(state.agent, jax.random.split(key, count))
    if done is None:
        done = jnp.ones(count)
    else:
        outcome = outcome._replace(metrics=outcome.metrics | {"improve/done": done})
    counts = state.counts._replace(updates=state.counts.updates + agent.counts * done.sum().astype(jnp.int32))
    if parts.dynamics is not None:
        steps = (done * outcome.model_steps).astype(jnp.uint32).sum()
        counts = counts._replace(model_steps=counts.model_steps + steps)
    return state._replace(agent=params, counts=counts), outcome


def member_returns(parts: Parts, key: Key, state: TrainState, horizon: jax.Array, params: Any) -> jax.Array:
    """The mean return of the policy's mode in each elite's model, from the same starts with the same noise: [n]."""
    sizes, dynamics = parts.sizes, parts.model
    act = lambda k, obs: (parts.agent.mode(params, obs), ())  # noqa: E731
    key_start, key_run = jax.random.split(key)

    def in_member(member: jax.Array) -> jax.Array:
        model_world = dynamics.world(state.model, member)
        start = jax.vmap(model_world.reset)(jax.random.split(key_start, sizes.rollouts))
        t = rollout(key_run, model_world, act, over_batch(start), sizes.rollout.longest(), horizon=horizon)[1]
        return jnp.where(t.valid, t.transition.reward, 0.0).sum(0).mean()

    return jax.lax.map(in_member, dynamics.elites(state.model))
