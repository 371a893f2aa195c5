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

With `critic.expand` "fresh" one rollout, from a fresh action a_0 at the states of the batch, serves both: its gradient
the actor, and its detached sum without a_0's entropy the critics, which learn on (s_0, a_0) alone. With states spread
by long rollouts (`rollout.every`) that is the double-horizon method (DHMBPO, Kubo et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from branchax import nn
from branchax.agents.base import Agent, Layers, Outcome, Sources, Valuation
from branchax.agents.critic import (
    Backup,
    Critic,
    Targets,
    ValueRange,
    clip_to_range,
    in_mixed_elites,
    in_one_elite,
    in_range,
    init_range,
    least,
    lowest,
    make_critic,
    make_discrete_critic,
    make_targets,
    regress,
    track_range,
)
from branchax.agents.learner import Learner, adam, fill_knobs, renew_statistics, reset_optimizers, skipped
from branchax.config import SACConfig
from branchax.distributions import Distribution, categorical, tanh_normal
from branchax.normalize import Stats
from branchax.returns import bootstrapped
from branchax.types import Key, Params, Row, Trajectory
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
    range: ValueRange | tuple[()] = ()  # of values, where they are scaled by it


Values = Callable[[jax.Array, jax.Array], jax.Array]  # (obs [..., D], action [..., A]) -> [C, ...]
Valued = tuple[jax.Array, jax.Array]  # V_c [C, ...], entropy [...]


class Actions(NamedTuple):
    """What continuous and discrete actions do differently."""

    distribution: Distribution
    policy: nn.Network
    critic: Critic
    value: Callable[..., Valued]  # (key, actor, values, obs [..., D], alpha); differentiable
    target_entropy: float  # unless the config has one


class Fresh(NamedTuple):
    """What a rollout from the states of a batch depends on the actor by; differentiable."""

    reward: jax.Array  # [H, B]
    log_prob: jax.Array  # [H, B]
    last_obs: jax.Array  # [B, D], the state after the last step
    last_action: jax.Array  # [B, A]
    last_log_prob: jax.Array  # [B]


def continuous(spec: WorldSpec, config: SACConfig, network: nn.MakeNetwork) -> Actions:
    """Actions in [-1, 1]^A by a squashed Gaussian; V is one sample's."""
    activation = nn.ACTIVATIONS[config.activation]
    policy = network(spec.obs_size, config.hidden, tanh_normal.size(spec.action_size), activation=activation)
    policy = nn.standardise(policy, spec.obs_size) if config.normalise_obs else policy
    size = spec.obs_size + spec.action_size
    critic = make_critic(size, config.hidden, config.critic, activation, config.normalise_obs, network)

    def value(key: Key, actor: Params, values: Values, obs: jax.Array, alpha: jax.Array) -> Valued:
        action, log_prob = tanh_normal.sample(key, policy.apply(actor, obs))
        return values(obs, action) - alpha * log_prob, -log_prob

    return Actions(tanh_normal, policy, critic, value, config.entropy_per_action * spec.action_size)


def discrete(spec: WorldSpec, config: SACConfig, network: nn.MakeNetwork) -> Actions:
    """One of A actions; V is exact. The least is that of the critics' expectations, not of each action's values."""
    activation = nn.ACTIVATIONS[config.activation]
    policy = network(spec.obs_size, config.hidden, spec.action_size, activation=activation)
    policy = nn.standardise(policy, spec.obs_size) if config.normalise_obs else policy
    critic = make_discrete_critic(
        spec,
        config.hidden,
        config.critic,
        activation=activation,
        standardised=config.normalise_obs,
        network=network,
    )

    def value(key: Key, actor: Params, values: Values, obs: jax.Array, alpha: jax.Array) -> Valued:
        del key
        log_p = jax.nn.log_softmax(policy.apply(actor, obs))
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        return values(obs, jnp.exp(log_p)) + alpha * entropy, entropy

    return Actions(categorical, policy, critic, value, 0.5 * math.log(spec.action_size))


def make_sac(spec: WorldSpec, config: SACConfig, network: nn.MakeNetwork = nn.mlp) -> Agent:  # noqa: C901, PLR0915 (closures)
    """SAC for a world with observations [D] and actions [A], continuous in [-1, 1] or discrete."""
    actions = (discrete if spec.discrete else continuous)(spec, config, network)
    distribution, policy, critic, value, default_entropy = actions
    optimizer, fresh, scaled = adam(), config.critic.expand == "fresh", config.critic.scale == "quantile"
    settle = lowest if config.critic.members <= 2 else (lambda v: v.mean(0))

    def init(key: Key) -> SAC:
        key_actor, key_critics = jax.random.split(key)
        actor, critics = policy.init(key_actor), critic.init(key_critics)
        log_alpha = optimizer.init(jnp.log(jnp.float32(config.init_temperature)))
        entropy = default_entropy if config.target_entropy is None else config.target_entropy
        knobs = fill_knobs(Knobs, config, target_entropy=entropy)
        # A copy, because the epoch's buffers are donated and no array may be donated twice.
        targets = jax.tree.map(jnp.copy, critics)
        range_ = init_range() if scaled else ()
        return SAC(optimizer.init(actor), optimizer.init(critics), targets, log_alpha, knobs, range_)

    def act(key: Key, agent: SAC, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return distribution.sample(key, policy.apply(agent.actor.params, obs))[0], ()

    def mode(agent: SAC, obs: jax.Array) -> jax.Array:
        return distribution.mode(policy.apply(agent.actor.params, obs))

    def soft_act(actor: Params, weight: jax.Array | float) -> Callable[[Key, jax.Array], tuple[jax.Array, jax.Array]]:
        def act(key: Key, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
            action, log_prob = distribution.sample(key, policy.apply(actor, obs))
            return action, -weight * log_prob

        return act

    def values_of(agent: SAC, critics: Params) -> Values:
        """The critics of these parameters, in the agent's units."""
        mine = in_range(critic, agent.range)
        return lambda obs, action: mine.values(critics, obs, action)

    def objective(
        key: Key, actor: Params, values: Values, row: Row, alpha: jax.Array, discount: jax.Array, sources: Sources
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-J_pi, the entropy at the rows' states, and the model steps that were taken, []."""
        key_here, key_ahead, key_last = jax.random.split(key, 3)
        here, entropy = value(key_here, actor, values, row.transition.obs, alpha)
        if not config.through_model:
            return settle(here).mean(), entropy.mean(), jnp.zeros(())
        assert sources.ahead is not None, "a gradient through the model needs one"
        trajectory = in_one_elite(key_ahead, row, sources.ahead, soft_act(actor, alpha), after=False)
        last, _ = value(key_last, actor, values, trajectory.transition.next_obs, alpha)
        q = bootstrapped(trajectory, settle(last), trajectory.extras, discount)
        return (trajectory.extras[0] + q[0]).mean(), entropy.mean(), trajectory.valid.sum().astype(jnp.float32)

    def track(key: Key, agent: SAC, row: Row, alpha: jax.Array) -> SAC:
        """The agent with its range of values moved towards the rewards of a batch."""
        if not isinstance(agent.range, ValueRange):
            return agent
        bonus = jax.vmap(soft_act(agent.actor.params, alpha))(
            jax.random.split(key, row.transition.reward.shape[0]), row.transition.obs
        )[1]
        soft = row.transition.reward + bonus
        return agent._replace(range=track_range(agent.range, soft, agent.knobs.discount, config.critic.scale_rate))

    def replayed_targets(key: Key, agent: SAC, row: Row, sources: Sources, alpha: jax.Array) -> Targets:
        """What the critics learn of replayed actions."""
        values = values_of(agent, agent.targets)
        backup = Backup(
            soft_act(agent.actor.params, alpha),
            lambda key, obs: clip_to_range(value(key, agent.actor.params, values, obs, alpha)[0], agent.range),
        )
        return make_targets(key, row, sources, backup, config.critic, agent.knobs.discount)

    def roll_out(key: Key, actor: Params, row: Row, sources: Sources) -> tuple[Fresh, Trajectory]:
        """A rollout of the policy from the states of a batch, and the action that would follow it."""
        assert sources.ahead is not None, "a look-ahead needs a model"
        key_ahead, key_last = jax.random.split(key)
        trajectory = in_mixed_elites(key_ahead, row, sources.ahead, soft_act(actor, -1.0))
        last = trajectory.transition.next_obs[-1]
        action, log_prob = distribution.sample(key_last, policy.apply(actor, last))
        return Fresh(trajectory.transition.reward, trajectory.extras, last, action, log_prob), trajectory

    def follow(
        found: Fresh, trajectory: Trajectory, last: jax.Array, alpha: jax.Array, discount: jax.Array
    ) -> jax.Array:
        """The soft return [B] of a rollout without its first entropy; `last` [B] is the value of the last action."""
        t = trajectory._replace(transition=trajectory.transition._replace(reward=found.reward))
        tail = jnp.broadcast_to(last - alpha * found.last_log_prob, found.reward.shape)
        return bootstrapped(t, tail, -alpha * found.log_prob, discount)[0]

    def fresh_targets(
        key: Key, agent: SAC, found: Fresh, trajectory: Trajectory, alpha: jax.Array
    ) -> tuple[SAC, Targets]:
        """What the critics learn of the rollout's first actions; the agent with its range moved towards the rewards."""
        found, discount = jax.lax.stop_gradient(found), agent.knobs.discount
        if isinstance(agent.range, ValueRange):
            soft = found.reward - alpha * found.log_prob
            agent = agent._replace(range=track_range(agent.range, soft, discount, config.critic.scale_rate))
        each = values_of(agent, agent.targets)(found.last_obs, found.last_action)
        last = clip_to_range(least(key, each, config.critic.subset), agent.range)
        y = follow(found, trajectory, last, alpha, discount)
        t, steps = trajectory.transition, trajectory.valid.sum().astype(y.dtype)
        return agent, Targets(*jax.lax.stop_gradient((t.obs[0], t.action[0])), y, jnp.ones_like(y), steps)

    def critic_step(key: Key, agent: SAC, goal: Targets) -> tuple[SAC, Outcome]:
        """One step of the critics, and the targets after them."""
        values = in_range(critic, agent.range).values
        dropped = key if config.critic.dropout else None
        critics, told = regress(values, agent.critics, goal, optimizer, agent.knobs.learning_rate, dropped)
        targets = optax.incremental_update(critics.params, agent.targets, agent.knobs.tau)
        return agent._replace(critics=critics, targets=targets), told

    def improve_actor(
        agent: SAC, gradient: Params, j_pi: jax.Array, entropy: jax.Array, told: Outcome, steps: jax.Array | float
    ) -> tuple[SAC, Outcome]:
        """One step of the actor and of the temperature; `told` is the critics' outcome."""
        knobs, alpha = agent.knobs, jnp.exp(agent.log_alpha.params)
        actor, log_alpha = optimizer.step(agent.actor, gradient, knobs.learning_rate), agent.log_alpha
        if config.learn_temperature:  # d J_alpha / d log_alpha
            log_alpha = optimizer.step(log_alpha, entropy - knobs.target_entropy, knobs.learning_rate)
        metrics = {"policy/entropy": entropy, "policy/alpha": alpha, "policy/skipped_steps": skipped(actor)}
        outcome = Outcome(told.losses | {"policy/loss": j_pi}, told.metrics | metrics, told.model_steps + steps)
        return agent._replace(actor=actor, log_alpha=log_alpha), outcome

    def update(key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Outcome]:
        key_batch, key_targets, key_actor = jax.random.split(key, 3)
        row = sources.replay(key_batch)
        alpha, discount = jnp.exp(agent.log_alpha.params), agent.knobs.discount
        if fresh:
            return update_fresh(key_targets, agent, row, sources)
        agent = track(key_targets, agent, row, alpha)
        goal = replayed_targets(key_targets, agent, row, sources, alpha)
        agent, told = critic_step(key_actor, agent, goal)
        values = values_of(agent, agent.critics.params)

        def actor_loss(actor: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            total, entropy, steps = objective(key_actor, actor, values, row, alpha, discount, sources)
            return -total, (entropy, steps)

        (j_pi, (entropy, steps)), gradient = jax.value_and_grad(actor_loss, has_aux=True)(agent.actor.params)
        return improve_actor(agent, gradient, j_pi, entropy, told, steps)

    def update_fresh(key: Key, agent: SAC, row: Row, sources: Sources) -> tuple[SAC, Outcome]:
        """One rollout for critics and actor: forward, a step of the critics, and back through it with the new ones."""
        key_rollout, key_subset, key_critics = jax.random.split(key, 3)
        alpha, discount = jnp.exp(agent.log_alpha.params), agent.knobs.discount
        found, pull_back, trajectory = jax.vjp(
            lambda actor: roll_out(key_rollout, actor, row, sources), agent.actor.params, has_aux=True
        )
        agent, goal = fresh_targets(key_subset, agent, found, trajectory, alpha)
        agent, told = critic_step(key_critics, agent, goal)
        values = values_of(agent, agent.critics.params)

        def actor_loss(found: Fresh) -> jax.Array:
            last = settle(values(found.last_obs, found.last_action))
            return -(follow(found, trajectory, last, alpha, discount) - alpha * found.log_prob[0]).mean()

        j_pi, slope = jax.value_and_grad(actor_loss)(found)
        (gradient,) = pull_back(slope)
        return improve_actor(agent, gradient, j_pi, -found.log_prob[0].mean(), told, 0.0)

    def warm_up(key: Key, agent: SAC, sources: Sources) -> tuple[SAC, Outcome]:
        key_batch, key_targets, key_subset, key_critics = jax.random.split(key, 4)
        row, alpha = sources.replay(key_batch), jnp.exp(agent.log_alpha.params)
        if fresh:
            found, trajectory = roll_out(key_targets, agent.actor.params, row, sources)
            agent, goal = fresh_targets(key_subset, agent, found, trajectory, alpha)
        else:
            agent = track(key_targets, agent, row, alpha)
            goal = replayed_targets(key_targets, agent, row, sources, alpha)
        return critic_step(key_critics, agent, goal)

    def renew(agent: SAC, stats: Stats) -> SAC:
        agent = renew_statistics(agent, stats) if config.normalise_obs else agent
        return reset_optimizers(agent) if config.reset_optimizer else agent

    def bonus(agent: SAC, obs: jax.Array, action: jax.Array) -> jax.Array:
        assert distribution.log_prob is not None
        return -jnp.exp(agent.log_alpha.params) * distribution.log_prob(policy.apply(agent.actor.params, obs), action)

    def layers(agent: SAC) -> Layers:
        assert policy.layers is not None
        stack = policy.layers(agent.actor.params)
        if spec.discrete:
            return Layers(stack, config.activation, "argmax")
        return Layers(stack, config.activation, "tanh", slice(spec.action_size))  # what follows are deviations

    valuation = Valuation(lambda agent, obs, action: values_of(agent, agent.critics.params)(obs, action), False, bonus)
    return Agent(
        init,
        act,
        mode,
        update,
        valuation=valuation,
        renew=renew if config.normalise_obs or config.reset_optimizer else None,
        warm_up=warm_up if config.critic_warmup else None,
        warm_ups=config.critic_warmup,
        layers=None if policy.layers is None else layers,
    )
