"""Networks as pairs of pure functions. The only file that knows which network library is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp

from branchax.types import Key, Params

Activation = Callable[[jax.Array], jax.Array]
tanh: Activation = jnp.tanh


class Network(NamedTuple):
    """A function with parameters. `jax.vmap(init)` and `jax.vmap(apply)` make ensembles of it."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, jax.Array], jax.Array]  # (params, [..., in_size]) -> [..., out_size]


class _MLP(linen.Module):
    sizes: Sequence[int]
    activation: Activation
    layer_norm: bool
    kernel_init: linen.initializers.Initializer
    last_init: linen.initializers.Initializer

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, size in enumerate(self.sizes):
            is_last = i + 1 == len(self.sizes)
            x = linen.Dense(size, kernel_init=self.last_init if is_last else self.kernel_init, name=f"layer_{i}")(x)
            if not is_last:
                x = linen.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
                x = self.activation(x)
        return x


def mlp(
    in_size: int,
    hidden: Sequence[int],
    out_size: int,
    *,
    activation: Activation = jax.nn.relu,
    layer_norm: bool = False,
    kernel_init: linen.initializers.Initializer | None = None,
    last_scale: float | None = None,
) -> Network:
    """A multilayer perceptron `[..., in_size] -> [..., out_size]`, linear at its output.

    With `layer_norm`, each hidden layer is normalised before its activation. Weights start by LeCun's uniform rule
    unless `kernel_init` says otherwise (the last layer's from a normal of deviation `last_scale / sqrt(fan_in)` where
    that is given); biases start at zero.
    """
    init = kernel_init or linen.initializers.lecun_uniform()
    last = init if last_scale is None else linen.initializers.variance_scaling(last_scale**2, "fan_in", "normal")
    module = _MLP((*hidden, out_size), activation, layer_norm, init, last)
    return Network(
        init=lambda key: module.init(key, jnp.zeros((in_size,)))["params"],
        apply=lambda params, x: jnp.asarray(module.apply({"params": params}, x)),
    )


def truncated_normal() -> linen.initializers.Initializer:
    """Truncated normal of deviation 1 / (2 sqrt(fan_in)), as PETS and MBPO start their ensembles."""
    return linen.initializers.variance_scaling(0.25, "fan_in", "truncated_normal")
