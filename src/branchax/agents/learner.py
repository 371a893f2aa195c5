"""Tools shared by the agents: parameters with their optimizer, and a value function scaled to its targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from branchax import nn, normalize
from branchax.types import Key, Largest, Params

K = TypeVar("K")


class Learner(NamedTuple):
    """Parameters and the state of their optimizer."""

    params: Params
    optimizer: Any  # optax.ApplyIfFiniteState


class Optimizer(NamedTuple):
    """Adam with the step size as an argument, so that `vmap` can sweep it.

    `step` takes the gradient of a loss and decreases that loss. Gradients whose norm is not finite are skipped and
    counted.
    """

    transform: optax.GradientTransformation

    def init(self, params: Params) -> Learner:
        """A learner with these parameters."""
        return Learner(params, self.transform.init(params))

    def step(self, learner: Learner, gradient: Params, learning_rate: jax.Array) -> Learner:
        """One step against the gradient."""
        updates, state = self.transform.update(nn.spoil_overflow(gradient), learner.optimizer)
        return Learner(jax.tree.map(lambda p, u: p - learning_rate * u, learner.params, updates), state)


def count_skipped(tree: Any) -> jax.Array:
    """Counts the non-finite gradients that the optimizers in a pytree have skipped so far, [] int32.

    Optimizers are found by their state, `optax.ApplyIfFiniteState`.
    """
    states = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, optax.ApplyIfFiniteState))
    counts = [x.total_notfinite.sum() for x in states if isinstance(x, optax.ApplyIfFiniteState)]
    return jnp.asarray(sum(counts, 0), jnp.int32)


def skipped(learner: Learner) -> Largest:
    """`count_skipped`, as a metric."""
    return Largest(jnp.float32(count_skipped(learner.optimizer)))


def adam(max_gradient_norm: float | None = None) -> Optimizer:
    """Adam; gradients longer than `max_gradient_norm` are scaled down to it."""
    clip = optax.identity() if max_gradient_norm is None else optax.clip_by_global_norm(max_gradient_norm)
    return Optimizer(optax.apply_if_finite(optax.chain(clip, optax.scale_by_adam()), max_consecutive_errors=2**31 - 1))


def fill_knobs(kind: Callable[..., K], config: Any, **others: Any) -> K:
    """Fills `kind`, a NamedTuple of floats, by name: from `others`, else from `config`. All [] float32."""
    names = kind._fields  # type: ignore[attr-defined]
    return kind(**{name: jnp.float32(others[name] if name in others else getattr(config, name)) for name in names})


def reset_optimizers(tree: Any) -> Any:
    """Resets the moments of all `Learner`s' optimizers in a pytree; their counts of skipped gradients stay."""

    def reset(x: Any) -> Any:
        if not isinstance(x, Learner):
            return x
        blank = jax.tree.map(jnp.zeros_like, x.optimizer.inner_state)
        return x._replace(optimizer=x.optimizer._replace(inner_state=blank))

    return jax.tree.map(reset, tree, is_leaf=lambda x: isinstance(x, Learner))


def renew_statistics(tree: Any, stats: normalize.Stats) -> Any:
    """Sets the statistics [D] in all standardised parameters of a pytree; inputs after the first D are not scaled.

    The optimizers, whose moments have the same structure as the parameters, are not changed.
    """

    def renew(x: Any) -> Any:
        if isinstance(x, Learner):
            return x._replace(params=renew_statistics(x.params, stats))
        if not isinstance(x, nn.Standardised):
            return x
        size = stats.mean.shape[0]
        return x._replace(mean=x.mean.at[..., :size].set(stats.mean), std=x.std.at[..., :size].set(stats.std))

    return jax.tree.map(renew, tree, is_leaf=lambda x: isinstance(x, (Learner, nn.Standardised)))


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
