"""The pathwise (reparameterisation) gradient: back through the world and the policy, with the noise held fixed.

    s_{t+1} = f(s_t, a_t, w_t),   a_t = g(s_t, e_t; theta)                      noise w, e drawn beforehand

    dJ/dtheta = E[ sum_t discount^t  dr_t/dtheta ],        ds_{t+1}/dtheta = (f_s + f_a g_s) ds_t/dtheta + f_a g_theta

(Heess et al. 2015, SVG, arXiv:1510.09142). ds_t/dtheta is a sum of products of Jacobians f_s + f_a g_s: with t it
explodes or vanishes (`jacobians`). Two remedies, and what they cost:

    window   cut the products every so many steps; biased, unless a value function stands in for what is lost
    value    end after few steps and bootstrap: J = E[ sum_{t < H} discount^t r_t + discount^H V(s_H) ]

Where episodes terminate by entering a region, or rewards jump, the derivative knows nothing of the jump: biased.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from branchax.gradients.base import Estimator, EstimatorError, Problem, Value, discounts, returns, sample
from branchax.types import Key, Params


def pathwise(
    problem: Problem,
    samples: int,
    window: int | None = None,
    value: Value | None = None,
    remat: bool = False,
) -> Estimator:
    """The estimator. With `remat`, each step is computed again on the way back instead of being remembered.

    `value` is differentiated in the state but not in theta. Under a `window` nothing is lost by that: with the policy's
    own value V, the estimate is unbiased, as each action's later consequences are in V. At the end of a horizon h they
    are, too, but those of the later actions are missing: the gradient over H > h steps is

        dJ_H/dtheta = E[ estimate(h, V) ] + discount^h E[ dV(s_h; theta)/dtheta ]

    and the last term, V's own derivative at s_h held fixed, is the gradient of a return that starts there.

    Raises:
      EstimatorError: when the world is not differentiable.
    """
    check_differentiable(problem)
    run = rematerialised(problem) if remat else problem

    def estimate(key: Key, params: Params) -> Params:
        def objective(theta: Params) -> jax.Array:
            return returns(sample(run, key, theta, samples, window), problem.discount, value, window).mean()

        return jax.grad(objective)(params)

    return estimate


def deterministic(
    problem: Problem, samples: int, q: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
) -> Estimator:
    """The deterministic policy gradient (Silver et al. 2014, theorem 1): no product of Jacobians, but a Q-function.

        dJ/dtheta = E[ sum_t discount^t  d mean(s_t; theta)/dtheta  dQ_t(s_t, a)/da at a = mean(s_t) ]

    It is the limit of the likelihood-ratio gradient as the policy's variance goes to zero (theorem 2 there), and the
    pathwise one at horizon 1 with Q for what follows. `q` is (obs [D], action [A], time []) -> [].
    """

    def estimate(key: Key, params: Params) -> Params:
        trajectory = jax.lax.stop_gradient(sample(problem, key, params, samples))
        times = jnp.arange(problem.horizon)

        def objective(theta: Params) -> jax.Array:
            action = problem.policy.mode(theta, trajectory.transition.obs)
            each = jax.vmap(lambda s, a, t: jax.vmap(lambda x, y: q(x, y, t))(s, a))
            value = each(trajectory.transition.obs, action, times)
            return jnp.where(trajectory.valid, discounts(problem) * value, 0.0).sum(0).mean()

        return jax.grad(objective)(params)

    return estimate


def check_differentiable(problem: Problem) -> None:
    """Raises `EstimatorError` unless derivatives can be taken through the world."""
    spec = problem.world.spec
    if not spec.differentiable:
        has_density = problem.policy.distribution.log_prob is not None
        can = ["likelihood ratio"] * has_density + ["finite differences", "evolution strategies"]
        raise EstimatorError(
            f"pathwise on {spec.name}: derivatives of this world's step do not exist or mean nothing; possible here:"
            f" {', '.join(can)}; or a learned model of it"
        )


def rematerialised(problem: Problem) -> Problem:
    """The same problem, remembering only the states between steps: memory [H, state] instead of [H, activations]."""
    world, policy = problem.world, problem.policy
    return problem._replace(
        world=world._replace(step=jax.checkpoint(world.step)),
        policy=policy._replace(apply=jax.checkpoint(policy.apply)),
    )
