"""Policy gradients through the model, with or without a critic.

    J(theta) = E[ sum_{t < H} discount^t r_t + discount^H V(s_H) ],   differentiated through model and policy

    SVG(infinity)  a stochastic policy, H the task's length, no critic         (Heess et al. 2015, arXiv:1510.09142)
    SVG(k)         H = k, from replayed states, with a critic
    APG            the simulator itself as the model, no critic                 (Freeman et al. 2021, arXiv:2106.13281)
    SHAC           the simulator, short H, a critic with a slow target          (Xu et al. 2022, arXiv:2204.07137)

The critic V is fitted to lambda-returns of the same rollouts, G_t = A_t + V(s_t) with `returns.gae` and V's slow copy.
Non-finite gradients are counted and skipped. The metric `policy/nonfinite_horizon_max` is then the first step whose
reward is not finite, or its derivative along a random direction of theta (0: none).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from branchax import nn
from branchax.agents.base import Agent, Layers, Outcome, Sources, Valuation, fill_knobs
from branchax.agents.policy_gradient import rows_mean
from branchax.agents.value import Value, fit_value, init_value, rescale, value_of
from branchax.config import PathwiseConfig
from branchax.gradients.base import returns
from branchax.optimizer import Learner, adam, skipped
from branchax.policies import gaussian_policy
from branchax.returns import gae
from branchax.types import Key, Largest, Params, Trajectory
from branchax.worlds.base import WorldSpec


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    learning_rate: jax.Array
    value_learning_rate: jax.Array
    discount: jax.Array
    gae_lambda: jax.Array
    tau: jax.Array


class Pathwise(NamedTuple):
    """The state of the agent."""

    policy: Learner
    value: Value
    target: Params  # the slow copy of the value's network
    knobs: Knobs


def make_pathwise(spec: WorldSpec, config: PathwiseConfig, network: nn.MakeNetwork = nn.mlp) -> Agent:
    """The agent for a world with observations [D] and continuous actions [A] in [-1, 1]."""
    std = 0.0 if config.deterministic else config.init_std
    policy = gaussian_policy(spec, config.hidden, std, config.squash, network=network)
    net = network(spec.obs_size, config.value_hidden, 1, activation=nn.tanh)
    optimizer, value_optimizer = adam(config.max_gradient_norm), adam(config.max_gradient_norm)

    def init(key: Key) -> Pathwise:
        key_policy, key_value = jax.random.split(key)
        value = init_value(key_value, net, value_optimizer)
        return Pathwise(
            optimizer.init(policy.init(key_policy)),
            value,
            jax.tree.map(jnp.copy, value.learner.params),  # a copy: donated buffers must not be shared
            fill_knobs(Knobs, config),
        )

    def act(key: Key, agent: Pathwise, obs: jax.Array) -> tuple[jax.Array, Any]:
        return policy.act(agent.policy.params)(key, obs)

    def mode(agent: Pathwise, obs: jax.Array) -> jax.Array:
        return policy.mode(agent.policy.params, obs)

    def slow(agent: Pathwise, obs: jax.Array) -> jax.Array:
        return value_of(net, agent.value._replace(learner=agent.value.learner._replace(params=agent.target)), obs)

    def update(key: Key, agent: Pathwise, sources: Sources) -> tuple[Pathwise, Outcome]:
        key_rollout, key_direction = jax.random.split(key)
        knobs = agent.knobs
        bootstrap = (lambda obs, time: slow(agent, obs)) if config.critic else None

        def run(theta: Params) -> Trajectory:
            return sources.rollout(key_rollout, policy.act(theta), config.window)

        def rewards(theta: Params) -> jax.Array:
            trajectory = run(theta)
            return jnp.where(trajectory.valid, trajectory.transition.reward, 0.0)

        def loss(theta: Params) -> tuple[jax.Array, Trajectory]:
            trajectory = run(theta)
            total = returns(trajectory, knobs.discount, bootstrap, config.window).mean()
            return -total, trajectory

        (total, trajectory), gradient = jax.value_and_grad(loss, has_aux=True)(agent.policy.params)
        theta, norm = agent.policy.params, optax.tree.norm(gradient)
        began = jax.lax.cond(
            jnp.isfinite(norm),
            lambda: jnp.zeros((), jnp.int32),
            lambda: first_nonfinite(rewards, theta, key_direction),
        )
        agent = agent._replace(policy=optimizer.step(agent.policy, gradient, knobs.learning_rate))
        steps = trajectory.valid.sum().astype(jnp.float32)
        metrics = {
            "policy/gradient_norm": norm,
            "policy/nonfinite_horizon_max": Largest(began.astype(jnp.float32)),
            "policy/skipped_steps": skipped(agent.policy),
            "improve/steps": steps,
            "improve/reward_mean": rows_mean(trajectory.transition.reward, trajectory.valid),
        }
        if not config.critic:
            return agent, Outcome({"policy/loss": total}, metrics, steps)
        t = trajectory.transition
        now, ahead = slow(agent, t.obs), slow(agent, t.next_obs)
        target = gae(trajectory, now, ahead, knobs.discount, knobs.gae_lambda) + now
        keep = (trajectory.valid & jnp.isfinite(target)).reshape(-1)
        obs, target = t.obs.reshape(-1, t.obs.shape[-1]), target.reshape(-1)
        obs, target = jnp.where(keep[:, None], obs, 0.0), jnp.where(keep, target, 0.0)
        weight = keep.astype(target.dtype)
        value = rescale(agent.value, target, weight)

        step = value_optimizer, knobs.value_learning_rate
        value, value_loss = fit_value(net, value, obs, target, weight, *step, config.value_passes)
        followed = optax.incremental_update(value.learner.params, agent.target, knobs.tau)
        metrics |= {"value/mean": value.mean, "value/skipped_steps": skipped(value.learner)}
        outcome = Outcome({"policy/loss": total, "value/loss": value_loss}, metrics, steps)
        return agent._replace(value=value, target=followed), outcome

    valuation = Valuation(lambda agent, obs, action: value_of(net, agent.value, obs)[None], False)
    stack = policy.layers
    return Agent(
        init,
        act,
        mode,
        update,
        learns_from="rollouts",
        valuation=valuation if config.critic else None,
        layers=None if stack is None else lambda agent: Layers(stack(agent.policy.params), "tanh", policy.head),
    )


def first_nonfinite(rewards: Any, theta: Params, key: Key) -> jax.Array:
    """The first step, counted from 1, with a non-finite reward or derivative along a random direction.

    `rewards(theta)` is [H, B]. Forward mode gives the derivatives of all steps at once. [] int32; 0 if all are finite.
    """
    flat, unravel = ravel_pytree(theta)
    direction = unravel(jax.random.normal(key, flat.shape, flat.dtype))
    value, slope = jax.jvp(rewards, (theta,), (direction,))
    bad = ~(jnp.isfinite(value) & jnp.isfinite(slope)).all(1)
    return jnp.where(bad.any(), bad.argmax() + 1, 0).astype(jnp.int32)
