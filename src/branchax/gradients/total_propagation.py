"""The pathwise and the likelihood-ratio gradient, mixed by their measured variances.

Parmas et al. 2018 (PIPPS, arXiv:1902.01240): two unbiased estimates g_p and g_l of variance v_p and v_l make

    g = k g_p + (1 - k) g_l,     k = v_l / (v_p + v_l)

whose variance is at most the smaller one (if they are uncorrelated). `inverse_variance` mixes whole gradients so.
`total_propagation` mixes at every step of the way back, so that an early step, whose product of Jacobians has exploded,
leans on the likelihood ratio and a late one on the derivative, and hands the mixed derivative on to the step before:

    lambda_H = 0;   for t = H-1 .. 0, at the action's distribution zeta_t = zeta(s_t; theta):
        p_t = (da_t/dzeta_t)' (discount^t dr_t/da_t + (ds_{t+1}/da_t)' lambda_{t+1})
        l_t = discount^t (R_t - b_t) d log pi(a_t; zeta_t) / dzeta_t           b_t: mean of R_t over the other samples
        g_t = k_t p_t + (1 - k_t) l_t             k_t from the batch's variances of (dzeta_t/dtheta)' p_t and ' l_t
        lambda_t = discount^t dr_t/ds_t + (ds_{t+1}/ds_t)' lambda_{t+1} + (dzeta_t/ds_t)' g_t
    dJ/dtheta = mean_b sum_t (dzeta_t/dtheta)' g_t

Parmas et al. mix at the Gaussian over next states of a learned model, whose density they know; here the node is the
distribution of the action, which every world has, deterministic ones too. The weights come from the same samples, which
makes a bias of order 1 / samples. Where the two are correlated, the variance can exceed the smaller one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from branchax.gradients.base import Estimator, EstimatorError, Problem, discounts, sample
from branchax.gradients.likelihood_ratio import check_density, others_mean, per_sample
from branchax.gradients.pathwise import check_differentiable, pathwise
from branchax.returns import goes_on, rewards_to_go
from branchax.rollout import step_keys
from branchax.types import Key, Params, Trajectory, Transition, choose
from branchax.worlds.base import WorldState


def inverse_variance(problem: Problem, samples: int) -> Estimator:
    """One weight for the whole gradient, from the variances of single samples of each. Half of them pay for each.

    Raises:
      EstimatorError: when either of the two cannot be had, or for a batch too small to measure a variance.
    """
    check_density(problem)
    _check_samples(problem, "inverse variance", samples, 4)
    path, half = pathwise(problem, 1), samples // 2

    def estimate(key: Key, params: Params) -> Params:
        _, unravel = ravel_pytree(params)
        key_path, key_ratio = jax.random.split(key)
        rows = jax.vmap(lambda x: ravel_pytree(x)[0])
        each_path = rows(jax.vmap(lambda key: path(key, params))(jax.random.split(key_path, half)))
        each_ratio = rows(per_sample(problem, key_ratio, params, half))
        means = each_path.mean(0), each_ratio.mean(0)
        return unravel(mix(*means, total_variance(each_path), total_variance(each_ratio)))

    return estimate


def _check_samples(problem: Problem, name: str, samples: int, least: int) -> None:
    """Raises `EstimatorError` for fewer samples than the variances need."""
    if samples < least:
        raise EstimatorError(
            f"{name} on {problem.world.spec.name}: the weights come from variances over samples; possible with at least"
            f" {least}, not {samples}"
        )


def total_variance(x: jax.Array) -> jax.Array:
    """The sum over entries of the variance over samples: [B, P] -> [], infinite if any entry is not finite."""
    spread = x.var(0, ddof=1).sum()
    return jnp.where(jnp.isfinite(spread), spread, jnp.inf)


def mix(path: Any, ratio: Any, path_variance: jax.Array, ratio_variance: jax.Array) -> Any:
    """k path + (1 - k) ratio with k as above; a side of infinite variance is left out, whatever it holds."""
    share = ratio_variance / (path_variance + ratio_variance)
    share = jnp.where(jnp.isfinite(path_variance), jnp.where(jnp.isfinite(ratio_variance), share, 1.0), 0.0)
    share = jnp.where(path_variance + ratio_variance == 0, 1.0, share)
    kept = jax.tree.map(lambda x: jnp.where(share > 0, x, 0.0), path)
    return jax.tree.map(lambda p, r: share * p + (1 - share) * jnp.where(share < 1, r, 0.0), kept, ratio)


def total_propagation(problem: Problem, samples: int) -> Estimator:
    """The estimator that mixes at every step.

    Raises:
      EstimatorError: when either of the two cannot be had, or for a batch too small to measure a variance.
    """
    check_density(problem)
    check_differentiable(problem)
    _check_samples(problem, "total propagation", samples, 2)
    policy, world = problem.policy, problem.world
    log_prob = policy.distribution.log_prob
    assert log_prob is not None

    def estimate(key: Key, params: Params) -> Params:
        _, unravel = ravel_pytree(params)
        trajectory: Trajectory = jax.lax.stop_gradient(sample(problem, key, params, samples))
        key_run = jax.random.split(key)[1]
        to_go = rewards_to_go(trajectory, problem.discount)
        psi = discounts(problem) * jnp.where(trajectory.valid, to_go - others_mean(to_go), 0.0)
        score = jax.vmap(jax.vmap(jax.grad(log_prob)))(trajectory.extras, trajectory.transition.action)
        ratio = psi[..., None] * score  # l_t, [H, B, P_zeta]

        def to_theta(obs: jax.Array, cotangent: jax.Array) -> jax.Array:
            return ravel_pytree(jax.vjp(lambda theta: policy.apply(theta, obs), params)[1](cotangent)[0])[0]

        def back(later: tuple[Any, jax.Array], now: tuple[Any, ...]) -> tuple[Any, None]:
            adjoint, total = later
            state, zeta, from_ratio, power, valid, on, time = now
            keys_act, keys_step, _ = step_keys(key_run, time, samples)

            def act(zeta: jax.Array) -> jax.Array:
                return jax.vmap(lambda k, z: policy.distribution.sample(k, z)[0])(keys_act, zeta)

            def step(floats: Any, action: jax.Array) -> tuple[Any, jax.Array]:
                out: tuple[WorldState, Transition] = jax.vmap(world.step)(keys_step, _merge(floats, state), action)
                return _floats(out[0]), out[1].reward

            action, to_zeta = jax.vjp(act, zeta)
            _, to_state = jax.vjp(step, _floats(state), action)
            adjoint = choose(on, adjoint, jax.tree.map(jnp.zeros_like, adjoint))
            by_state, by_action = to_state((adjoint, jnp.where(valid, power, 0.0)))
            (from_path,) = to_zeta(by_action)
            in_theta = jax.vmap(to_theta)
            shares = total_variance(in_theta(state.obs, from_path)), total_variance(in_theta(state.obs, from_ratio))
            mixed = mix(from_path, from_ratio, *shares)
            (by_obs,) = jax.vjp(lambda obs: policy.apply(params, obs), state.obs)[1](mixed)
            by_state = by_state._replace(obs=by_state.obs + by_obs)
            return (by_state, total + in_theta(state.obs, mixed).mean(0)), None

        blank = jax.tree.map(jnp.zeros_like, _floats(jax.tree.map(lambda x: x[0], trajectory.state)))
        powers = jnp.broadcast_to(discounts(problem), to_go.shape).astype(to_go.dtype)
        times = jnp.arange(problem.horizon)
        steps = trajectory.state, trajectory.extras, ratio, powers, trajectory.valid, goes_on(trajectory), times
        flat = ravel_pytree(params)[0]
        (_, total), _ = jax.lax.scan(back, (blank, jnp.zeros_like(flat)), steps, reverse=True)
        return unravel(total)

    return estimate


def _floats(state: WorldState) -> WorldState:
    """The leaves that have derivatives; the others are None."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, state)


def _merge(floats: WorldState, state: WorldState) -> WorldState:
    """`state` with its floating leaves replaced."""
    return jax.tree.map(lambda f, x: x if f is None else f, floats, state, is_leaf=lambda x: x is None)
