"""Parameters with the state of their optimizer, and Adam, for whatever is trained: the model and the agents."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from branchax import nn, normalize
from branchax.types import Largest, Params


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

    def step(self, learner: Learner, gradient: Params, learning_rate: jax.Array | float) -> Learner:
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
