"""Soft actor-critic with a learned temperature (Haarnoja et al. 2018, arXiv:1812.05905).

    V(s)    = min_c Qbar_c(s, a) - alpha log pi(a | s),   a ~ pi(. | s)                bootstraps the critics (`critic`)
    J_pi    = E [ alpha log pi(a | s) - min_c Q_c(s, a) ],   a = tanh(mean + std noise)               (their eq. 7 to 9)
    J_alpha = E [ -log_alpha (log pi(a | s) + target_entropy) ]                                (eq. 18, in log alpha)

With discrete actions the expectations over a are exact (Christodoulou 2019, arXiv:1910.07207):

    V(s)    = min_c sum_a pi(a | s) (Qbar_c(s, a) - alpha log pi(a | s))        J_pi = E [ -V(s), with Q for Qbar ]

(Christodoulou has the minimum inside the sum). With more than two critics, J_pi uses their mean instead of the minimum,
as REDQ and STEVE do.

With `through_model`, the actor's gradient goes through the model (Amos et al. 2021, arXiv:2008.12775, eq. 5):

    J_pi    = -E [ sum_{i < H} gamma^i (r_i - alpha log pi(a_i | s_i)) + gamma^H V(s_H) ],   differentiated through it

A rollout that leaves the range of the data ends there, with the lowest possible value (`value_range.halt`).

With `critic.expand` "fresh", critics and actor share one rollout: `double_horizon`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from branchax import nn
from branchax.agents import double_horizon
from branchax.agents.base import Agent, Layers, Outcome, Sources, Valuation
from branchax.agents.critic import Backup, Targets, in_one_elite, make_targets
from branchax.agents.soft import (
    SAC,
    Pieces,
    Values,
    init,
    make_pieces,
    soft_act,
    step_actor,
    step_critics,
    update_range,
    values_for_actor,
    values_of,
)
from branchax.agents.value_range import clip_to_range, halt
from branchax.config import SACConfig
from branchax.normalize import Stats
from branchax.optimizer import renew_statistics, reset_optimizers
from branchax.returns import bootstrapped
from branchax.types import Key, Params, Row
from branchax.worlds.base import WorldSpec


def make_sac(spec: WorldSpec, config: SACConfig, network: nn.MakeNetwork = nn.mlp) -> Agent:
    """SAC for a world with observations [D] and actions [A], continuous in [-1, 1] or discrete."""
    pieces = make_pieces(spec, config, network)
    policy, distribution, renews = pieces.policy, pieces.distribution, config.normalise_obs or config.reset_optimizer
    learn, learn_values = update, warm_up
    if config.critic.expand == "fresh":
        learn, learn_values = double_horizon.update, double_horizon.warm_up

    def act(key: Key, agent: SAC, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return distribution.sample(key, policy.apply(agent.actor.params, obs))[0], ()

    def mode(agent: SAC, obs: jax.Array) -> jax.Array:
        return distribution.mode(policy.apply(agent.actor.params, obs))

    def renew(agent: SAC, stats: Stats) -> SAC:
        agent = renew_statistics(agent, stats) if config.normalise_obs else agent
        return reset_optimizers(agent) if config.reset_optimizer else agent

    def bonus(agent: SAC, obs: jax.Array, action: jax.Array) -> jax.Array:
        assert distribution.log_prob is not None
        return -agent.alpha * distribution.log_prob(policy.apply(agent.actor.params, obs), action)

    def layers(agent: SAC) -> Layers:
        assert policy.layers is not None
        stack = policy.layers(agent.actor.params)
        if spec.discrete:
            return Layers(stack, config.activation, "argmax")
        return Layers(stack, config.activation, "tanh", slice(spec.action_size))  # the other outputs are deviations

    def values(agent: SAC, obs: jax.Array, action: jax.Array) -> jax.Array:
        return values_of(pieces, agent, agent.critics.params)(obs, action)

    return Agent(
        functools.partial(init, pieces),
        act,
        mode,
        functools.partial(learn, pieces),
        valuation=Valuation(values, greedy=False, bonus=bonus),
        renew=renew if renews else None,
        warm_up=functools.partial(learn_values, pieces) if config.critic_warmup else None,
        warm_ups=config.critic_warmup,
        layers=None if policy.layers is None else layers,
    )


def update(pieces: Pieces, key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Outcome]:
    """One step of the critics and one of the actor, on a batch of replayed and imagined rows."""
    key_batch, key_targets, key_critics, key_actor = jax.random.split(key, 4)
    row = sources.replay(key_batch)
    agent, told = learn_critics(pieces, key_targets, key_critics, agent, row, sources)
    values = values_for_actor(pieces, agent)

    def actor_loss(actor: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        total, entropy, steps = estimate_objective(pieces, key_actor, agent, actor, values, row, sources)
        return -total, (entropy, steps)

    (j_pi, (entropy, steps)), gradient = jax.value_and_grad(actor_loss, has_aux=True)(agent.actor.params)
    return step_actor(pieces, agent, gradient, j_pi, entropy, told._replace(model_steps=told.model_steps + steps))


def warm_up(pieces: Pieces, key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Outcome]:
    """One step of only the critics."""
    key_batch, key_targets, key_critics = jax.random.split(key, 3)
    return learn_critics(pieces, key_targets, key_critics, agent, sources.replay(key_batch), sources)


def learn_critics(
    pieces: Pieces, key: Key, key_step: Key, agent: SAC, row: Row, sources: Sources
) -> tuple[SAC, Outcome]:
    """One step of the critics on a batch of rows [B]."""
    key, key_range = jax.random.split(key)
    if agent.range is not None:
        act = soft_act(pieces, agent.actor.params, agent.alpha)
        bonus = jax.vmap(act)(jax.random.split(key_range, row.transition.reward.shape[0]), row.transition.obs)[1]
        agent = update_range(pieces, agent, row.transition.reward + bonus)
    return step_critics(pieces, key_step, agent, replayed_targets(pieces, key, agent, row, sources))


def replayed_targets(pieces: Pieces, key: Key, agent: SAC, row: Row, sources: Sources) -> Targets:
    """The critics' targets for replayed actions."""
    actor, alpha, joins = agent.actor.params, agent.alpha, pieces.config.critic.batch_norm
    here = (row.transition.obs, row.transition.action) if joins else None
    targets = values_of(pieces, agent, agent.targets, here)

    def value(key: Key, obs: jax.Array) -> jax.Array:
        return clip_to_range(pieces.value(key, actor, targets, obs, alpha)[0], agent.range)

    def draw(key: Key, obs: jax.Array) -> jax.Array:
        return pieces.distribution.sample(key, pieces.policy.apply(actor, obs))[0]

    backup = Backup(soft_act(pieces, actor, alpha), value, draw if joins else None, agent.range)
    return make_targets(key, row, sources, backup, pieces.config.critic, agent.knobs.discount)


def estimate_objective(
    pieces: Pieces, key: Key, agent: SAC, actor: Params, values: Values, row: Row, sources: Sources
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-J_pi for these actor parameters, the entropy at the rows' states, and the number of model steps; all []."""
    key_here, key_ahead, key_last = jax.random.split(key, 3)
    here, entropy = pieces.value(key_here, actor, values, row.transition.obs, agent.alpha)
    if not pieces.config.through_model:
        return pieces.combine(here).mean(), entropy.mean(), jnp.zeros(())
    assert sources.ahead is not None, "a gradient through the model needs a model"
    act = soft_act(pieces, actor, agent.alpha)
    trajectory = in_one_elite(key_ahead, row, sources.ahead, act, after=False)
    t = trajectory.transition
    last = pieces.combine(pieces.value(key_last, actor, values, t.next_obs, agent.alpha)[0])
    last = halt(t.truncated, last, agent.range)
    q = bootstrapped(trajectory, last, trajectory.extras, agent.knobs.discount)
    return (trajectory.extras[0] + q[0]).mean(), entropy.mean(), trajectory.valid.sum().astype(jnp.float32)
