"""One rollout for critics and actor: the update of the double-horizon method (DHMBPO, Kubo et al. 2025).

From the states s_0 of a batch, the policy is rolled out for H steps in the model. All actions are fresh:

    y(s_0, a_0) = r_0 + sum_{0 < t < H} gamma^t (r_t - alpha log pi_t) + gamma^H (Qbar(s_H, a_H) - alpha log pi_H)
    J_pi        = -E [ y(s_0, a_0) - alpha log pi_0 ],   with Q for Qbar, differentiated through the rollout

y is the critics' target; steps after a termination count nothing. Qbar is the minimum of a random subset of the target
critics, clipped to the range of values before the entropy is added; Q is the mean of all critics. In J_pi this has a
flaw: a termination is a step function and has no derivative. Rollouts that end have no part in the gradient but for
their rewards and entropies, so that the critics' values of the others decide, and those can lead the policy over an
edge that the gradient does not see. With `value_before_end` (not in the paper)

    J_pi = -E [ sum_{t < n} gamma^t (r_t - alpha log pi_t) + gamma^n (Q(s_n, a_n) - alpha log pi_n) ]

where n is the step that ends the rollout, or H: Q has learned of the end, and is smooth.

A model with `model.beyond` "end" truncates rollouts that leave the range of the data. In y the lowest value of the
critics' range follows (`value_range.halt`). In J_pi it does too, unless `value_before_end` puts Q(s_n, a_n) there.

The rollout is computed once: forward, then one step of the critics, then backward with the new critics. This needs
`critic.expand` "fresh". With `critic.batch_norm` the joined rows are (s_0, a_0) and, where the rollout goes on,
(s_H, a_H); the actor's Q takes running statistics.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax.agents.base import Outcome, Sources
from branchax.agents.critic import Targets, in_mixed_elites, least
from branchax.agents.soft import (
    SAC,
    Pieces,
    soft_act,
    step_actor,
    step_critics,
    update_range,
    values_for_actor,
    values_of,
)
from branchax.agents.value_range import clip_to_range, halt
from branchax.returns import bootstrapped
from branchax.types import Key, Params, Row, Trajectory, choose


class Ahead(NamedTuple):
    """The outputs of a rollout from the states of a batch that are differentiated with respect to the actor."""

    reward: jax.Array  # [H, B]
    log_prob: jax.Array  # [H, B]
    last_obs: jax.Array  # [B, D], the state after the last step; with `value_before_end` s_n
    last_action: jax.Array  # [B, A], the action there
    last_log_prob: jax.Array  # [B]


def roll_out(pieces: Pieces, key: Key, actor: Params, row: Row, sources: Sources) -> tuple[Ahead, Trajectory]:
    """Rolls out the policy from the states of a batch, and draws the action at its last state."""
    assert sources.ahead is not None, "a look-ahead needs a model"
    key_ahead, key_last = jax.random.split(key)
    trajectory = in_mixed_elites(key_ahead, row, sources.ahead, soft_act(pieces, actor, -1.0))
    t = trajectory.transition
    last = t.next_obs[find_taken(trajectory).sum() - 1]
    action, log_prob = pieces.distribution.sample(key_last, pieces.policy.apply(actor, last))
    end = last, action, log_prob
    if pieces.config.value_before_end:
        end = jax.tree.map(functools.partial(before_end, trajectory), (t.obs, t.action, trajectory.extras), end)
    return Ahead(t.reward, trajectory.extras, *end), trajectory


def before_end(trajectory: Trajectory, each: jax.Array, last: jax.Array) -> jax.Array:
    """The row of `each` [H, B, ...] at the step that ends the rollout, or `last` [B, ...] where none does."""
    ends = trajectory.valid & find_ends(trajectory)
    return choose(ends.any(0), each[ends.argmax(0), jnp.arange(last.shape[0])], last)


def find_ends(trajectory: Trajectory) -> jax.Array:
    """Which steps [H, B] end their rollout: by a termination, or by leaving the range of the data."""
    return trajectory.transition.terminated | trajectory.transition.truncated


def find_taken(trajectory: Trajectory) -> jax.Array:
    """Which steps [H] any rollout took: a scheduled horizon may end before H, and the rows after it are blank."""
    return trajectory.valid.any(1)


def sum_soft_return(agent: SAC, ahead: Ahead, trajectory: Trajectory, last: jax.Array) -> jax.Array:
    """The soft return [B] of a rollout, without the entropy of its first action; `last` [B] values the last action."""
    t = trajectory._replace(transition=trajectory.transition._replace(reward=ahead.reward))
    tail = jnp.broadcast_to(last - agent.alpha * ahead.last_log_prob, ahead.reward.shape)
    tail = halt(t.transition.truncated, tail, agent.range)
    return bootstrapped(t, tail, -agent.alpha * ahead.log_prob, agent.knobs.discount)[0]


def sum_before_end(agent: SAC, ahead: Ahead, trajectory: Trajectory, last: jax.Array) -> jax.Array:
    """The soft return [B] of the steps before a rollout's end, valued there by `last` [B]: -J_pi, row by row."""
    survived = trajectory.valid & ~find_ends(trajectory)
    powers = agent.knobs.discount ** jnp.arange(survived.shape[0])[:, None]
    soft = jnp.where(survived, ahead.reward - agent.alpha * ahead.log_prob, 0.0)
    return (powers * soft).sum(0) + agent.knobs.discount ** survived.sum(0) * (last - agent.alpha * ahead.last_log_prob)


def make_targets(pieces: Pieces, key: Key, agent: SAC, ahead: Ahead, trajectory: Trajectory) -> tuple[SAC, Targets]:
    """The critics' targets for the rollout's first actions, and the agent with an updated range of values."""
    ahead = jax.lax.stop_gradient(ahead)
    agent = update_range(pieces, agent, ahead.reward - agent.alpha * ahead.log_prob, trajectory.valid)
    t, joins = trajectory.transition, pieces.config.critic.batch_norm
    here, after = jax.lax.stop_gradient((t.obs[0], t.action[0])), (ahead.last_obs, ahead.last_action)
    if joins:  # what is computed after a termination is never reached, and has no part in the statistics
        last = find_taken(trajectory).sum() - 1
        reached = (trajectory.valid & ~find_ends(trajectory))[last][:, None]
        after = jax.tree.map(lambda x, first: jnp.where(reached, x, first), after, here)
    each = values_of(pieces, agent, agent.targets, here if joins else None)(*after)
    value = clip_to_range(least(key, each, pieces.config.critic.subset), agent.range)
    y = sum_soft_return(agent, ahead, trajectory, value)
    steps = trajectory.valid.sum().astype(y.dtype)
    return agent, Targets(*here, y, jnp.ones_like(y), steps, after if joins else None)


def update(pieces: Pieces, key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Outcome]:
    """One step of the critics and one of the actor, on one rollout from the states of a batch."""
    key_batch, key = jax.random.split(key)
    row = sources.replay(key_batch)
    key_rollout, key_subset, key_critics = jax.random.split(key, 3)
    ahead, pull_back, trajectory = jax.vjp(
        lambda actor: roll_out(pieces, key_rollout, actor, row, sources), agent.actor.params, has_aux=True
    )
    agent, goal = make_targets(pieces, key_subset, agent, ahead, trajectory)
    agent, told = step_critics(pieces, key_critics, agent, goal)
    values = values_for_actor(pieces, agent)

    def actor_loss(ahead: Ahead) -> jax.Array:
        last = pieces.combine(values(ahead.last_obs, ahead.last_action))
        if pieces.config.value_before_end:
            return -sum_before_end(agent, ahead, trajectory, last).mean()
        return -(sum_soft_return(agent, ahead, trajectory, last) - agent.alpha * ahead.log_prob[0]).mean()

    j_pi, slope = jax.value_and_grad(actor_loss)(ahead)
    (gradient,) = pull_back(slope)
    return step_actor(pieces, agent, gradient, j_pi, -ahead.log_prob[0].mean(), told)


def warm_up(pieces: Pieces, key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Outcome]:
    """One step of only the critics."""
    key_batch, key_rollout, key_subset, key_critics = jax.random.split(key, 4)
    row = sources.replay(key_batch)
    agent, goal = make_targets(
        pieces, key_subset, agent, *roll_out(pieces, key_rollout, agent.actor.params, row, sources)
    )
    return step_critics(pieces, key_critics, agent, goal)
