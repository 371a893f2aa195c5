"""Model predictive control: the policy plans in the model at every step (PETS, Chua et al. 2018).

Plans a^n = (a^n_1 ... a^n_H), n = 1 ... N, are drawn and tried in the model; the next ones are drawn near the best K:

    a^n    = clip(mean + std eps^n, -1, 1)              R_n = return of a^n, mean over elite members and particles
    w_n    = exp(R_n / temperature) / (the sum of these over the best K)                     0 outside the best K
    mean  <- momentum mean + (1 - momentum) m                                                    m = sum_n w_n a^n
    std   <- std_momentum std + (1 - std_momentum) s                                   s^2 = sum_n w_n (a^n - m)^2

    random shooting  one iteration with uniform eps, take the best plan        (Nagabandi et al. 2018, arXiv:1708.02596)
    CEM              infinite temperature: the K elites have equal weights     (PETS, arXiv:1805.12114; Rubinstein 1999)
    iCEM             CEM with coloured eps, kept elites and shrinking N        (Pinneri et al. 2020, arXiv:2008.06389)
    MPPI             K = N, finite temperature, fixed std (std_momentum = 1)   (Williams et al. 2017, ICRA)

MPPI averages the clipped actions and omits the control cost term. iCEM's kept elites are among the N plans. Each elite
member predicts its own rollouts to their end (TS-infinity). Within an iteration all plans use the same noise, so that
only the actions make their returns differ (PEGASUS, Ng and Jordan 2000). Rewards after a termination do not count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax.agents.base import Agent, Outcome, Sources, fill_knobs
from branchax.config import PlannerConfig
from branchax.gradients.base import returns
from branchax.rollout import copies, rollout
from branchax.types import Key
from branchax.worlds.base import World, WorldSpec, WorldState

Score = Callable[[Key, jax.Array], jax.Array]  # (key, plans [N, H, A]) -> R [N]


class Knobs(NamedTuple):
    """The floats, as leaves: `vmap` can sweep them without compiling again. All []."""

    temperature: jax.Array  # infinite: equal weights for all elites
    momentum: jax.Array
    std_momentum: jax.Array
    init_std: jax.Array
    discount: jax.Array


class Planner(NamedTuple):
    """The state of the agent."""

    model: Any  # the latest state of the dynamics
    key: Key  # [] for `mode`, which takes no key
    knobs: Knobs


class Plan(NamedTuple):
    """The planner's memory between two steps of one environment, shifted to the next step."""

    mean: jax.Array  # [H, A]
    elites: jax.Array  # [keep K, H, A]
    time: jax.Array  # [] int32, steps since the episode began


def make_planner(
    spec: WorldSpec,
    config: PlannerConfig,
    init_model: Callable[[Key], Any],
    elites: Callable[[Any], jax.Array],
    world: Callable[[Any, jax.Array], World],
    branch: Callable[[jax.Array], WorldState],
) -> Agent:
    """The agent for a world with observations [D] and continuous actions [A] in [-1, 1].

    Args:
      spec: the world's spec.
      config: the planner's settings.
      init_model: `key -> M`, a model with the structure of `Sources.model`.
      elites: `M -> [n] int32`, the members to plan with.
      world: `(M, member []) -> World`, the imagined world of one member.
      branch: `obs [D] ->` the state of that world at an observation.
    """

    def init(key: Key) -> Planner:
        key_model, key_mode = jax.random.split(key)
        temperature = jnp.inf if config.temperature is None else config.temperature
        return Planner(init_model(key_model), key_mode, fill_knobs(Knobs, config, temperature=temperature))

    def memory(agent: Planner) -> Plan:
        del agent
        shape = config.horizon, spec.action_size
        kept = jnp.zeros((round(config.keep * config.elites), *shape))
        return Plan(jnp.zeros(shape), kept, jnp.zeros((), jnp.int32))

    def act(key: Key, agent: Planner, obs: jax.Array, plan: Plan) -> tuple[jax.Array, Outcome, Plan]:
        start = copies(branch(obs), config.particles)
        imagined = functools.partial(world, agent.model)
        members = elites(agent.model)
        score = functools.partial(worth, imagined, members, start, agent.knobs.discount)
        action, best, plan = search(key, score, plan, agent.knobs, config)
        steps = sum(populations(config)) * config.horizon * len(members) * config.particles
        return action, Outcome({}, {"plan/return": best}, jnp.float32(steps)), plan

    def mode(agent: Planner, obs: jax.Array, plan: Plan) -> tuple[jax.Array, Plan]:
        action, _, plan = act(jax.random.fold_in(agent.key, plan.time), agent, obs, plan)
        return action, plan

    def update(key: Key, agent: Planner, sources: Sources) -> tuple[Planner, Outcome]:
        del key
        return agent._replace(model=sources.model), Outcome({}, {})

    return Agent(init, act, mode, update, learns_from="plans", memory=memory)


def worth(
    world: Callable[[jax.Array], World],
    members: jax.Array,
    start: WorldState,
    discount: jax.Array | float,
    key: Key,
    plans: jax.Array,
) -> jax.Array:
    """The returns [N] of plans [N, H, A] from the starts [particles, ...], averaged over all members [n]."""

    def in_member(key: Key, member: jax.Array) -> jax.Array:
        def one(plan: jax.Array) -> jax.Array:
            actions = jnp.repeat(plan[:, None], len(start.obs), 1)  # [H, particles, A]
            return returns(rollout(key, world(member), None, start, len(plan), actions=actions)[1], discount).mean()

        return jax.vmap(one)(plans)  # the same key for all plans

    return jax.vmap(in_member)(jax.random.split(key, len(members)), members).mean(0)


def search(
    key: Key, score: Score, plan: Plan, knobs: Knobs, config: PlannerConfig
) -> tuple[jax.Array, jax.Array, Plan]:
    """Improves the last step's plan: returns the action [A], the best plan's score [] and the next memory."""
    kept, mixing = len(plan.elites), colour(config.horizon, config.noise_exponent)

    def iteration(
        size: int, carry: tuple[jax.Array, ...], x: tuple[Key, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], None]:
        mean, std, elites, _, _ = carry
        key, count = x
        key_noise, key_score = jax.random.split(key)
        if config.uniform:
            noise = jax.random.uniform(key_noise, (size, *mean.shape), minval=-1.0)
        else:
            noise = jnp.einsum("hg,nga->nha", mixing, jax.random.normal(key_noise, (size, *mean.shape)))
        plans = jnp.clip(mean + std * noise, -1.0, 1.0)
        if kept:
            known = (count > 0) | (plan.time > 0)
            plans = plans.at[:kept].set(jnp.where(known, elites, plans[:kept]))
            plans = plans.at[-1].set(jnp.where(count == config.iterations - 1, mean, plans[-1]))
        best, top, m, s = refit(plans, score(key_score, plans), config.elites, knobs.temperature)
        mean = knobs.momentum * mean + (1 - knobs.momentum) * m
        std = knobs.std_momentum * std + (1 - knobs.std_momentum) * s
        return (mean, std, best[:kept], best[0], top[0]), None

    mean = plan.mean if config.warm_start else jnp.zeros_like(plan.mean)
    carry = mean, jnp.full_like(mean, knobs.init_std), plan.elites, mean, jnp.zeros(())
    keys, counts, sizes = jax.random.split(key, config.iterations), jnp.arange(config.iterations), populations(config)
    if min(sizes) == max(sizes):
        carry, _ = jax.lax.scan(functools.partial(iteration, sizes[0]), carry, (keys, counts))
    else:  # sizes differ, so the few iterations are unrolled
        for i, size in enumerate(sizes):
            carry, _ = iteration(size, carry, (keys[i], counts[i]))
    mean, _, elites, best, top = carry
    action = (best if config.execute == "best" else mean)[0]
    return action, top, Plan(shift(mean), shift(elites), plan.time + 1)


def populations(config: PlannerConfig) -> list[int]:
    """Number of plans in each iteration, including kept ones: N_i = max(N decay^-i, 2 K), at most N."""
    least = min(2 * config.elites, config.candidates)
    return [max(round(config.candidates * config.decay**-i), least) for i in range(config.iterations)]


def refit(
    plans: jax.Array, scores: jax.Array, elites: int, temperature: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The best plans [K, H, A], best first, their scores [K], their weighted mean m and standard deviation s [H, A].

    Plans [N, H, A] with a non-finite score [N] come last and get no weight, unless all scores are non-finite.
    """
    top, order = jax.lax.top_k(jnp.where(jnp.isfinite(scores), scores, -jnp.inf), elites)
    best = plans[order]
    weights = jax.nn.softmax(jnp.where(jnp.isfinite(top), (top - top[0]) / temperature, -1e30))
    mean = jnp.einsum("n,nha->ha", weights, best)
    return best, top, mean, jnp.sqrt(jnp.einsum("n,nha->ha", weights, (best - mean) ** 2))


def shift(plans: jax.Array) -> jax.Array:
    """Plans [..., H, A] one step later; the new last action is zero, as in PETS."""
    return jnp.concatenate([plans[..., 1:, :], jnp.zeros_like(plans[..., :1, :])], -2)


def colour(horizon: int, exponent: float) -> np.ndarray:
    """C [H, H]: for eps ~ N(0, I), C eps is noise with unit variance and power proportional to 1 / f^exponent.

    Each frequency of white noise is scaled by f^(-exponent / 2) (Timmer and Koenig 1995, whose random Fourier
    coefficients are those of eps). Frequency 0 counts as the lowest other one. An exponent of 0 gives C = I.
    """
    frequencies = np.maximum(np.fft.rfftfreq(horizon), 1 / horizon)
    spectrum = np.fft.rfft(np.eye(horizon), axis=0) * frequencies[:, None] ** (-exponent / 2)
    mixing = np.fft.irfft(spectrum, horizon, axis=0)
    return (mixing / np.linalg.norm(mixing, axis=1, keepdims=True)).astype(np.float32)
