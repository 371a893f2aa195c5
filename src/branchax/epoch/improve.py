"""The agent's updates after a round of collecting."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.agents.base import Outcome
from branchax.epoch.imagine import first_states
from branchax.epoch.parts import Parts
from branchax.epoch.sources import make_sources
from branchax.epoch.state import TrainState
from branchax.epoch.stopping import stop_early, while_models_agree, within_budget
from branchax.rollout import rollout
from branchax.sharding import over_batch
from branchax.types import Key, Largest, Stream, Total, Trajectory, stream


def improve(
    parts: Parts, state: TrainState, recent: Trajectory | None, horizon: jax.Array
) -> tuple[TrainState, Outcome]:
    """The updates that follow a round of collecting, as a scan; their outcomes, [N].

    With `rollout.every` they come in blocks of so many, [N / every, every], each after rollouts of the latest policy.
    In the first epoch the round's updates are made `first_repeats` times. The outcomes are those of the last time, but
    sums, maxima and losses that are not finite are those of all times.
    """
    sizes, key = parts.sizes, stream(state.key, Stream.IMPROVE, state.counts.env_steps)

    def once(key: Key, state: TrainState) -> tuple[TrainState, Outcome]:
        if sizes.rollout.every is None:
            return take_updates(parts, key, state, recent, horizon, sizes.updates_per_round)
        return take_blocks(parts, key, state, recent, horizon, sizes.rollout.every)

    if sizes.first_repeats == 1:
        return once(key, state)
    times = jnp.where(state.counts.epochs == 0, sizes.first_repeats, 1)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(once, key, state)[1])

    def again(i: jax.Array, carry: tuple[TrainState, Outcome]) -> tuple[TrainState, Outcome]:
        state, outcome = once(jax.random.fold_in(key, i), carry[0])
        before = carry[1]
        keep = lambda old, new: jnp.where(jnp.isfinite(old), new, old)  # noqa: E731
        losses = jax.tree.map(keep, before.losses, outcome.losses)
        metrics = {name: _add_up(before.metrics[name], x, i == 0) for name, x in outcome.metrics.items()}
        return state, outcome._replace(losses=losses, metrics=metrics)

    return jax.lax.fori_loop(0, times, again, (state, blank))


def take_blocks(
    parts: Parts, key: Key, state: TrainState, recent: Trajectory | None, horizon: jax.Array, every: int
) -> tuple[TrainState, Outcome]:
    """The updates of a round in blocks of `every`, each after rollouts of the policy as it is then."""

    def block(state: TrainState, key: Key) -> tuple[TrainState, Outcome]:
        key_imagine, key_updates = jax.random.split(key)
        state, imagined = parts.stages.imagine(parts, state, horizon, key_imagine)
        state, outcome = take_updates(parts, key_updates, state, recent, horizon, every)
        told = {name: _spread(x, every // parts.agent.counts) for name, x in imagined.items()}
        return state, outcome._replace(metrics=outcome.metrics | told)

    return jax.lax.scan(block, state, jax.random.split(key, parts.sizes.updates_per_round // every))


def _add_up(before: Any, metric: Any, first: jax.Array) -> Any:
    """A metric of updates [N] together with that of the `before` ones, unless they are the `first`: its sum, its
    maximum, or the later one."""
    if isinstance(metric, Total):
        return Total(before.value + metric.value)
    if isinstance(metric, Largest):
        return Largest(jnp.where(first, metric.value, jnp.maximum(before.value, metric.value)))
    return metric


def _spread(metric: Any, count: int) -> Any:
    """A metric [] of the rollouts before `count` updates as one of these updates, [count]."""
    if isinstance(metric, Total):
        return Total(jnp.zeros(count).at[0].set(metric.value))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count,)), metric)


def warm_up(parts: Parts, state: TrainState, horizon: jax.Array) -> TrainState:
    """The state after the agent's updates of its critics alone, which follow a fit."""
    update = parts.agent.warm_up
    if update is None:
        return state
    key = stream(state.key, Stream.WARM_UP, state.counts.env_steps)
    sources = make_sources(parts, state, None, horizon)

    def step(params: Any, key: Key) -> tuple[Any, jax.Array]:
        params, outcome = update(key, params, sources)
        return params, jnp.asarray(outcome.model_steps)

    params, steps = jax.lax.scan(step, state.agent, jax.random.split(key, parts.agent.warm_ups))
    counts = state.counts._replace(model_steps=state.counts.model_steps + steps.astype(jnp.uint32).sum())
    return state._replace(agent=params, counts=counts)


def take_updates(
    parts: Parts, key: Key, state: TrainState, recent: Trajectory | None, horizon: jax.Array, count: int
) -> tuple[TrainState, Outcome]:
    """`count` updates from `state` on, or fewer where a rule stops them; their outcomes, [N]."""
    agent, sizes = parts.agent, parts.sizes
    draws = make_sources(parts, state, recent, horizon)
    count = count // agent.counts
    update = jax.named_scope("update")(lambda params, k: agent.update(k, params, draws))
    improve_all, looked = lambda params, keys: jax.lax.scan(update, params, keys), jnp.zeros(())
    if parts.dynamics is not None and sizes.rollout.validate_every is not None:
        key, key_look = jax.random.split(key)
        returns_of = functools.partial(member_returns, parts, key_look, state, horizon)
        look = while_models_agree(returns_of, sizes.rollout.validate_share)
        first, looked = returns_of(state.agent)
        improve_all = stop_early(update, look, first, sizes.rollout.validate_every, undo=False)
    elif agent.divergence is not None and agent.budget is not None:
        key, key_look = jax.random.split(key)
        obs = replay.sample(key_look, state.real, sizes.batch_size).transition.obs
        moved = agent.divergence
        look = within_budget(lambda old, new: moved(old, new, obs), agent.budget)
        improve_all = stop_early(update, look, state.agent, every=1, undo=True)
    params, outcome = improve_all(state.agent, jax.random.split(key, count))
    kept = count if outcome.kept is None else outcome.kept.sum(dtype=jnp.int32)
    counts = state.counts._replace(updates=state.counts.updates + agent.counts * kept)
    if parts.dynamics is not None:
        steps = jnp.asarray(outcome.model_steps).astype(jnp.uint32).sum() + looked.astype(jnp.uint32)
        counts = counts._replace(model_steps=counts.model_steps + steps)
    return state._replace(agent=params, counts=counts), outcome


def member_returns(
    parts: Parts, key: Key, state: TrainState, horizon: jax.Array, params: Any
) -> tuple[jax.Array, jax.Array]:
    """The mean return of the policy's mode in each elite's model, from the same starts with the same noise, [n]; and
    the steps in the models that it took, []."""
    sizes, dynamics = parts.sizes, parts.model
    act = lambda k, obs: (parts.agent.mode(params, obs), ())  # noqa: E731
    key_start, key_run = jax.random.split(key)

    def in_member(member: jax.Array) -> tuple[jax.Array, jax.Array]:
        model_world = dynamics.world(state.model, member)
        if parts.world.host is None:
            start = jax.vmap(model_world.reset)(jax.random.split(key_start, sizes.rollouts))
        else:
            start = first_states(parts, key_start, state, sizes.rollouts)
        t = rollout(key_run, model_world, act, over_batch(start), sizes.rollout.longest(), horizon=horizon)[1]
        return jnp.where(t.valid, t.transition.reward, 0.0).sum(0).mean(), t.valid.sum()

    found, steps = jax.lax.map(in_member, dynamics.elites(state.model))
    return found, steps.sum()
