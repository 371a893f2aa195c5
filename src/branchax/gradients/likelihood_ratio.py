"""The likelihood-ratio (score-function, policy) gradient: no derivative of the world, but samples.

    dJ/dtheta = E[ sum_t discount^t  d log pi(a_t | s_t) / dtheta  Psi_t ]

with Psi_t any of (Schulman et al. 2016, arXiv:1506.02438, eq. 1)

    total     discount^-t sum_k discount^k r_k           REINFORCE (Williams 1992)
    to_go     R_t = sum_{k >= t} discount^(k - t) r_k     what came before a_t cannot depend on it
    baseline  R_t - b_t                                  b_t = V(s_t), or the mean of R_t over the other samples
    gae       sum_k (discount lambda)^k delta_{t + k}     biased where V is wrong, unless lambda is 1

The first three are unbiased. So is `gae` with lambda 1, whatever V says on the way, for the return that V(s_H) is part
of: it bootstraps where the horizon or the clock cut the trajectory, which the others do not.

Without a baseline, the variance of one term grows as 1 / std^2 as the policy's noise goes to zero. With
b_t = Q(s_t, mean(s_t)) it tends to a constant, and the gradient to the deterministic one, if the world has no noise of
its own or that goes to zero as well: noise that no baseline foresees is still divided by std^2 (docs/gradients.md). For
Gaussian noise, a = mean + std e, the score of the mean is e / std, and

    E[ e / std  Q(s, mean + std e) ] = E[ e (Q(s, mean + std e) - Q(s, mean - std e)) / (2 std) ]

is a finite difference of Q along a random direction in action space, with the step std (`finite_difference` has the
same in the space of the parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from branchax.gradients.base import Estimator, EstimatorError, Problem, Value, discounts, over_time, sample
from branchax.returns import gae, rewards_to_go
from branchax.types import Key, Params, Trajectory

Weight = Literal["total", "to_go", "baseline", "gae"]


def likelihood_ratio(
    problem: Problem,
    samples: int,
    weight: Weight = "baseline",
    value: Value | None = None,
    gae_lambda: jax.Array | float = 0.95,
) -> Estimator:
    """The estimator with one of the weights above.

    Raises:
      EstimatorError: for a policy without a density, a batch too small for its own mean as a baseline, `gae` without a
        value, or a weight that does not exist.
    """
    check_density(problem)
    name, known = problem.world.spec.name, get_args(Weight)
    if weight not in known:
        raise EstimatorError(f"likelihood ratio on {name}: there is no weight {weight!r}; there are {', '.join(known)}")
    if weight == "gae" and value is None:
        raise EstimatorError(
            f"likelihood ratio on {name}: weight 'gae' is made of a value function's errors, and none is given;"
            " possible without one: total, to_go, baseline"
        )
    if weight == "baseline" and value is None and samples < 2:
        raise EstimatorError(
            f"likelihood ratio on {name}: the baseline is the mean over the other samples, and {samples} sample has"
            " none; possible: 2 samples or more, a value function, or the weights total and to_go"
        )

    def estimate(key: Key, params: Params) -> Params:
        trajectory = jax.lax.stop_gradient(sample(problem, key, params, samples))
        if weight == "total":  # in which discount^t cancels; divided by, it would underflow
            psi = jnp.broadcast_to(rewards_to_go(trajectory, problem.discount)[0], trajectory.valid.shape)
        else:
            psi = discounts(problem) * weights(trajectory, problem.discount, weight, value, gae_lambda)
        return jax.grad(lambda theta: surrogate(problem.policy.log_prob, theta, trajectory, psi))(params)

    return estimate


def per_sample(problem: Problem, key: Key, params: Params, samples: int) -> Params:
    """Per-sample gradients, a pytree of [B, ...]. Their mean is `likelihood_ratio` with the others' mean as baseline.

    The terms share their baselines, but the covariance of two of them is only g g' / (B - 1)^2, with g the gradient: so
    the estimate's variance is that of the terms over B, as good as exactly.
    """
    trajectory = jax.lax.stop_gradient(sample(problem, key, params, samples))
    psi = discounts(problem) * weights(trajectory, problem.discount, "baseline")

    def one(column: Trajectory, psi: jax.Array) -> Params:
        alone = jax.tree.map(lambda x: x[:, None], column)
        return jax.grad(lambda theta: surrogate(problem.policy.log_prob, theta, alone, psi[:, None]))(params)

    return jax.vmap(one, in_axes=1)(trajectory._replace(state=None, extras=None), psi)


def check_density(problem: Problem) -> None:
    """Raises `EstimatorError` unless the policy has a likelihood to differentiate."""
    if problem.policy.distribution.log_prob is None:
        spec = problem.world.spec
        can = ["pathwise"] * spec.differentiable + ["finite differences", "evolution strategies"]
        raise EstimatorError(
            f"likelihood ratio on {spec.name}: the policy is deterministic, so its actions have no density to"
            f" differentiate; possible here: {', '.join(can)}; or a policy with noise"
        )


def surrogate(
    log_prob: Callable[[Params, jax.Array, jax.Array], jax.Array],
    params: Params,
    trajectory: Trajectory,
    psi: jax.Array,
) -> jax.Array:
    """mean_b sum_t psi_t log pi(a_t | s_t), whose gradient in theta is the estimate; psi [H, B] -> []."""
    t = trajectory.transition
    scored = log_prob(params, t.obs, t.action) * jax.lax.stop_gradient(psi)
    return jnp.where(trajectory.valid, scored, 0.0).sum(0).mean()


def weights(
    trajectory: Trajectory,
    discount: jax.Array | float,
    weight: Weight,
    value: Value | None = None,
    gae_lambda: jax.Array | float = 0.95,
) -> jax.Array:
    """Psi_t [H, B], for all weights but `total`, whose discount^-t would overflow on its own."""
    t = trajectory.transition
    to_go = rewards_to_go(trajectory, discount)
    if weight == "to_go":
        return to_go
    if value is None:
        return to_go - others_mean(to_go)
    if weight == "gae":
        return gae(trajectory, over_time(value, t.obs), over_time(value, t.next_obs, first=1), discount, gae_lambda)
    return to_go - over_time(value, t.obs)


def others_mean(x: jax.Array) -> jax.Array:
    """The mean over the other samples, so that a sample's baseline does not depend on it: [..., B] -> [..., B]."""
    count = x.shape[-1]
    return (x.sum(-1, keepdims=True) - x) / (count - 1)
