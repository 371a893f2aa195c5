"""A state value V(s), scaled to the targets that it is fitted to."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax import nn, normalize
from branchax.optimizer import Learner, Optimizer
from branchax.types import Key, Params


class Value(NamedTuple):
    """A state value V(s) = mean + std net(s), scaled to the targets that it is fitted to."""

    learner: Learner
    mean: jax.Array  # []
    std: jax.Array  # []
    seen: jax.Array  # [] bool, whether there were any targets yet


def init_value(key: Key, net: nn.Network, optimizer: Optimizer) -> Value:
    """A value of zero mean and unit scale."""
    zero = jnp.zeros(())
    return Value(optimizer.init(net.init(key)), zero, zero + 1, jnp.zeros((), bool))


def value_of(net: nn.Network, value: Value, obs: jax.Array) -> jax.Array:
    """V at obs [..., D] -> [...]."""
    return value.mean + value.std * net.apply(value.learner.params, obs)[..., 0]


def rescale(value: Value, targets: jax.Array, weight: jax.Array, rate: float = 0.1) -> Value:
    """Moves mean and std towards those of targets [N] with weights [N] of 0 or 1; the first call sets them."""
    stats = normalize.measure(targets[:, None], weight > 0)
    mean, std = stats.mean[0], stats.std[0] + 1e-4 * jnp.abs(stats.mean[0])
    good = jnp.isfinite(mean) & jnp.isfinite(std) & (weight.sum() > 0)
    step = jnp.where(good, jnp.where(value.seen, rate, 1.0), 0.0)
    mean, std = (jnp.where(good, x, 0.0) for x in (mean, std))
    mean, std = (1 - step) * value.mean + step * mean, (1 - step) * value.std + step * std
    return value._replace(mean=mean, std=std, seen=value.seen | good)


def fit_value(
    net: nn.Network,
    value: Value,
    obs: jax.Array,
    targets: jax.Array,
    weight: jax.Array,
    optimizer: Optimizer,
    learning_rate: jax.Array,
    passes: int,
) -> tuple[Value, jax.Array]:
    """`passes` steps on 1/2 mean ((V(s) - target) / std)^2 over rows [N] with weights [N]; returns the value and the
    loss [] before the last step."""

    def loss(params: Params) -> jax.Array:
        error = net.apply(params, obs)[..., 0] - (targets - value.mean) / value.std
        return 0.5 * (weight * error**2).sum() / jnp.maximum(weight.sum(), 1.0)

    def step(learner: Learner, _: None) -> tuple[Learner, jax.Array]:
        now, gradient = jax.value_and_grad(loss)(learner.params)
        return optimizer.step(learner, gradient, learning_rate), now

    learner, losses = jax.lax.scan(step, value.learner, length=passes)
    return value._replace(learner=learner), losses[-1]
