"""Action distributions as values: a few pure functions of a parameter vector.

`Distribution.sample` returns the log-probability with the sample, because for squashed distributions it is only
accurate when computed from the value before the squashing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax.types import Key

LOG_STD_BOUNDS = (-10.0, 2.0)


class Distribution(NamedTuple):
    """A family of distributions over actions [..., A] with parameters [..., P]."""

    size: Callable[[int], int]  # A -> P
    sample: Callable[[Key, jax.Array], tuple[jax.Array, jax.Array]]  # -> action [..., A], log_prob [...]
    log_prob: Callable[[jax.Array, jax.Array], jax.Array] | None  # (params, action) -> [...]; None: it has no density
    mode: Callable[[jax.Array], jax.Array]  # -> [..., A]


def normal_log_density(x: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """log N(x; mean, exp(log_std)^2), elementwise; shapes broadcast."""
    return -0.5 * ((x - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * jnp.log(2 * jnp.pi)


def mean_and_log_std(params: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits [..., 2A] into a mean [..., A] and a log standard deviation [..., A] inside `LOG_STD_BOUNDS`."""
    mean, raw = jnp.split(params, 2, axis=-1)
    low, high = LOG_STD_BOUNDS
    return mean, low + 0.5 * (high - low) * (jnp.tanh(raw) + 1)


def raw_log_std(log_std: float) -> float:
    """The parameter that `mean_and_log_std` turns into `log_std`, which must lie inside `LOG_STD_BOUNDS`."""
    low, high = LOG_STD_BOUNDS
    return math.atanh(2 * (log_std - low) / (high - low) - 1)


def log_tanh_slope(u: jax.Array) -> jax.Array:
    """log(d tanh(u) / du) = log(1 - tanh(u)^2), elementwise: 2 (log 2 - u - softplus(-2u)) cancels no digits."""
    return 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))


def _tanh_normal_sample(key: Key, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_std = mean_and_log_std(params)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    u = mean + jnp.exp(log_std) * noise
    # log N(u; mean, std) with (u - mean) / std = noise, so that its gradient has no term that cancels.
    log_density = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.tanh(u), jnp.sum(log_density - log_tanh_slope(u), -1)


def _tanh_normal_log_prob(params: jax.Array, action: jax.Array) -> jax.Array:
    mean, log_std = mean_and_log_std(params)
    edge = 1 - jnp.finfo(action.dtype).eps
    u = jnp.arctanh(jnp.clip(action, -edge, edge))
    return jnp.sum(normal_log_density(u, mean, log_std) - log_tanh_slope(u), -1)


# a = tanh(u), u ~ N(mean, std): log pi(a) = sum_i log N(u_i) - log(1 - tanh(u_i)^2)  (Haarnoja et al. 2018, app. C).
# The mode is that of u, squashed.
tanh_normal = Distribution(
    size=lambda action_size: 2 * action_size,
    sample=_tanh_normal_sample,
    log_prob=_tanh_normal_log_prob,
    mode=lambda params: jnp.tanh(mean_and_log_std(params)[0]),
)


def _normal_sample(key: Key, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_std = jnp.split(params, 2, axis=-1)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    # As above: in terms of the noise, so that its gradient has no term that cancels.
    return mean + jnp.exp(log_std) * noise, jnp.sum(-0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi), -1)


def _normal_log_prob(params: jax.Array, action: jax.Array) -> jax.Array:
    mean, log_std = jnp.split(params, 2, axis=-1)
    return jnp.sum(normal_log_density(action, mean, log_std), -1)


# a ~ N(mean, std^2), unbounded: worlds clip what their actuators cannot do. Parameters: mean [A], log std [A].
normal = Distribution(
    size=lambda action_size: 2 * action_size,
    sample=_normal_sample,
    log_prob=_normal_log_prob,
    mode=lambda params: jnp.split(params, 2, axis=-1)[0],
)

# a = params: a deterministic policy. It has no density, so no likelihood ratio either.
deterministic = Distribution(
    size=lambda action_size: action_size,
    sample=lambda key, params: (params, jnp.zeros(params.shape[:-1], params.dtype)),
    log_prob=None,
    mode=lambda params: params,
)
