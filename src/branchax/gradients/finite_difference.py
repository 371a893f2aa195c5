"""Gradients from returns alone: differences coordinate by coordinate, and along random directions.

    finite differences     dJ/dtheta_i ~ (J(theta + h e_i) - J(theta - h e_i)) / (2 h)
    evolution strategies   d/dtheta E[J(theta + std e)] = E[ e (J(theta + std e) - J(theta - std e)) / (2 std) ]

(Spall 1992; Salimans et al. 2017, arXiv:1703.03864.) The second is the likelihood ratio of a Gaussian over parameters,
as the likelihood ratio of a Gaussian over actions is the second in action space: with H = 1 and a = theta + std e they
are the same numbers. Both smooth J over h or std, which is a bias on a curved J and a blessing on a jagged one. The two
returns of a difference share their starts and noise. Per sample, finite differences need 2 P rollouts and evolution
strategies need 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from branchax.gradients.base import Estimator, Problem, returns, sample
from branchax.types import Key, Params


def finite_differences(problem: Problem, samples: int, step: float = 1e-2) -> Estimator:
    """Central differences with the same starts and noise on both sides, for each of the P parameters."""

    def estimate(key: Key, params: Params) -> Params:
        flat, unravel = ravel_pytree(params)

        def slope(direction: jax.Array) -> jax.Array:
            ahead, behind = (_mean_return(problem, key, unravel(flat + s * step * direction), samples) for s in (1, -1))
            return (ahead - behind) / (2 * step)

        return unravel(jax.lax.map(slope, jnp.eye(flat.size, dtype=flat.dtype)))

    return estimate


def evolution_strategies(problem: Problem, samples: int, std: float = 0.05) -> Estimator:
    """Antithetic evolution strategies: each sample is a pair of rollouts, on either side of theta."""

    def estimate(key: Key, params: Params) -> Params:
        flat, unravel = ravel_pytree(params)

        def one(pair: tuple[Key, jax.Array]) -> jax.Array:
            key_run, noise = pair
            ahead, behind = (_mean_return(problem, key_run, unravel(flat + s * std * noise), 1) for s in (1, -1))
            return (ahead - behind) / (2 * std) * noise

        key_noise, key_run = jax.random.split(key)
        noise = jax.random.normal(key_noise, (samples, flat.size), flat.dtype)
        return unravel(jax.vmap(one)((jax.random.split(key_run, samples), noise)).mean(0))

    return estimate


def _mean_return(problem: Problem, key: Key, params: Params, samples: int) -> jax.Array:
    return returns(sample(problem, key, params, samples), problem.discount).mean()
