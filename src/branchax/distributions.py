"""Action distributions as values: a few pure functions of a parameter vector.

`Distribution.sample` also returns the sample's log-probability: for squashed distributions it is accurate only when
computed from the value before squashing.
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
    log_prob: Callable[[jax.Array, jax.Array], jax.Array] | None  # (params, action) -> [...]; None: no density
    mode: Callable[[jax.Array], jax.Array]  # -> [..., A]
    # (key, params) -> [...] nats: in closed form if there is one, else an unbiased estimate from one sample
    entropy: Callable[[Key, jax.Array], jax.Array] | None = None
    kl: Callable[[jax.Array, jax.Array], jax.Array] | None = None  # (params, params) -> KL(first || second) [...]


def normal_log_density(x: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """log N(x; mean, exp(log_std)^2), elementwise; shapes broadcast."""
    return -0.5 * ((x - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * jnp.log(2 * jnp.pi)


def mean_and_log_std(params: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits [..., 2A] into a mean [..., A] and a log standard deviation [..., A] within `LOG_STD_BOUNDS`."""
    mean, raw = jnp.split(params, 2, axis=-1)
    low, high = LOG_STD_BOUNDS
    return mean, low + 0.5 * (high - low) * (jnp.tanh(raw) + 1)


def raw_log_std(log_std: float) -> float:
    """The parameter that `mean_and_log_std` maps to `log_std`, which must lie within `LOG_STD_BOUNDS`."""
    low, high = LOG_STD_BOUNDS
    return math.atanh(2 * (log_std - low) / (high - low) - 1)


def log_tanh_slope(u: jax.Array) -> jax.Array:
    """log(d tanh(u) / du) = log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), elementwise, without cancellation."""
    return 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))


def _tanh_normal_sample(key: Key, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_std = mean_and_log_std(params)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    u = mean + jnp.exp(log_std) * noise
    # log N(u; mean, std) with (u - mean) / std = noise, so that no terms cancel in its gradient.
    log_density = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.tanh(u), jnp.sum(log_density - log_tanh_slope(u), -1)


def _tanh_normal_log_prob(params: jax.Array, action: jax.Array) -> jax.Array:
    mean, log_std = mean_and_log_std(params)
    edge = 1 - jnp.finfo(action.dtype).eps
    u = jnp.arctanh(jnp.clip(action, -edge, edge))
    return jnp.sum(normal_log_density(u, mean, log_std) - log_tanh_slope(u), -1)


def normal_kl(mean: jax.Array, log_std: jax.Array, other_mean: jax.Array, other_log_std: jax.Array) -> jax.Array:
    """KL(N || N') = log(s' / s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2, elementwise; shapes broadcast."""
    square = jnp.exp(2 * (log_std - other_log_std)) + ((mean - other_mean) * jnp.exp(-other_log_std)) ** 2
    return other_log_std - log_std + 0.5 * square - 0.5


# a = tanh(u), u ~ N(mean, std): log pi(a) = sum_i log N(u_i) - log(1 - tanh(u_i)^2)  (Haarnoja et al. 2018, app. C).
# The mode is the squashed mode of u.
tanh_normal = Distribution(
    size=lambda action_size: 2 * action_size,
    sample=_tanh_normal_sample,
    log_prob=_tanh_normal_log_prob,
    mode=lambda params: jnp.tanh(mean_and_log_std(params)[0]),
    entropy=lambda key, params: -_tanh_normal_sample(key, params)[1],
    # KL does not change when the same bijection is applied to both.
    kl=lambda p, q: normal_kl(*mean_and_log_std(p), *mean_and_log_std(q)).sum(-1),
)


def _normal_sample(key: Key, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_std = jnp.split(params, 2, axis=-1)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    # As above, in terms of the noise, so that no terms cancel in its gradient.
    return mean + jnp.exp(log_std) * noise, jnp.sum(-0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi), -1)


def _normal_log_prob(params: jax.Array, action: jax.Array) -> jax.Array:
    mean, log_std = jnp.split(params, 2, axis=-1)
    return jnp.sum(normal_log_density(action, mean, log_std), -1)


# a ~ N(mean, std^2), unbounded; worlds clip actions to their actuators' range. Parameters: mean [A], log std [A].
normal = Distribution(
    size=lambda action_size: 2 * action_size,
    sample=_normal_sample,
    log_prob=_normal_log_prob,
    mode=lambda params: jnp.split(params, 2, axis=-1)[0],
    entropy=lambda key, params: (jnp.split(params, 2, axis=-1)[1] + 0.5 * (1 + jnp.log(2 * jnp.pi))).sum(-1),
    kl=lambda p, q: normal_kl(*jnp.split(p, 2, axis=-1), *jnp.split(q, 2, axis=-1)).sum(-1),
)


def one_hot(index: jax.Array, size: int) -> jax.Array:
    """Encodes a discrete action: int [...] -> float32 [..., size]."""
    return jax.nn.one_hot(index, size, dtype=jnp.float32)


def _categorical_sample(key: Key, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    action = one_hot(jax.random.categorical(key, params), params.shape[-1])
    return action, (jax.nn.log_softmax(params) * action).sum(-1)


def _categorical_entropy(key: Key, params: jax.Array) -> jax.Array:
    del key
    log_p = jax.nn.log_softmax(params)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def _categorical_kl(p: jax.Array, q: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(p)
    return (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(q))).sum(-1)


# One of A actions, as a one-hot vector; the parameters are logits. Sampling is not differentiable.
categorical = Distribution(
    size=lambda action_size: action_size,
    sample=_categorical_sample,
    log_prob=lambda params, action: (jax.nn.log_softmax(params) * action).sum(-1),
    mode=lambda params: one_hot(params.argmax(-1), params.shape[-1]),
    entropy=_categorical_entropy,
    kl=_categorical_kl,
)

# a = params: a deterministic policy. It has no density and therefore no likelihood ratio.
deterministic = Distribution(
    size=lambda action_size: action_size,
    sample=lambda key, params: (params, jnp.zeros(params.shape[:-1], params.dtype)),
    log_prob=None,
    mode=lambda params: params,
)
