"""Networks as pairs of pure functions. Only this file imports the network library."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import optax

from branchax.types import Key, Params

Activation = Callable[[jax.Array], jax.Array]
tanh: Activation = jnp.tanh
ACTIVATIONS: dict[str, Activation] = {"relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": tanh}


class Layer(NamedTuple):
    """x -> act(norm(pre_norm(x) kernel + bias)); all arrays may share leading axes."""

    kernel: jax.Array  # [in, out]
    bias: jax.Array  # [out]
    scale: jax.Array | None = None  # [out], of a LayerNorm after the layer; None: no LayerNorm
    shift: jax.Array | None = None  # [out], of the same LayerNorm
    pre_norm: bool = False  # whether there is a LayerNorm without parameters before the layer


class Network(NamedTuple):
    """A function with parameters. `jax.vmap(init)` and `jax.vmap(apply)` make ensembles of it."""

    init: Callable[[Key], Params]
    # (params, x [..., in_size], key=None) -> [..., out_size]; dropout is active only with a key
    apply: Callable[..., jax.Array]
    layers: Callable[[Params], list[Layer]] | None = None  # first to last; None: not a stack of dense layers
    drops: bool = False  # whether `apply` uses its key
    # (params, x [N, in_size]) -> params whose BatchNorms have the statistics of x, differentiable; None: has none
    measure: Callable[[Params, jax.Array], Params] | None = None

    def kernels(self, params: Params) -> list[jax.Array]:
        """The weights without biases and norms: from `layers`, first to last, or else all arrays of rank >= 2."""
        if self.layers is not None:
            return [layer.kernel for layer in self.layers(params)]
        return [x for x in jax.tree.leaves(params) if x.ndim >= 2]


MakeNetwork = Callable[..., Network]  # (in_size, hidden, out_size, **options of `mlp`), such as `mlp`


class _MLP(linen.Module):
    sizes: Sequence[int]
    activation: Activation
    layer_norm: bool
    pre_norm: bool
    batch_norm: bool
    dropout: float
    kernel_init: linen.initializers.Initializer
    last_init: linen.initializers.Initializer

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False, measure: bool = False) -> jax.Array:
        # Measured statistics replace the running ones (momentum 0); `follow` moves the running ones.
        normal = functools.partial(linen.BatchNorm, not measure, momentum=0.0, epsilon=1e-3, use_fast_variance=False)
        # No bias before a BatchNorm: its gradient is only rounding error, which Adam would scale to full steps.
        x = normal(name="batch_norm_in", use_bias=False)(x) if self.batch_norm else x
        for i, size in enumerate(self.sizes):
            is_last = i + 1 == len(self.sizes)
            if self.pre_norm and i:
                x = linen.LayerNorm(use_bias=False, use_scale=False, name=f"pre_norm_{i}")(x)
            kernel_init, biased = self.last_init if is_last else self.kernel_init, is_last or not self.batch_norm
            x = linen.Dense(size, biased, kernel_init=kernel_init, name=f"layer_{i}")(x)
            if not is_last:
                x = linen.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
                x = normal(name=f"batch_norm_{i}")(x) if self.batch_norm else x
                x = drop(self.make_rng("dropout"), x, self.dropout) if self.dropout and train else x
                x = self.activation(x)
        return x


def drop(key: Key, x: jax.Array, rate: float) -> jax.Array:
    """x [...] with entries set to 0 with probability `rate`, and the others divided by 1 - rate (inverted dropout).

    One key gives two words, and MurmurHash3's finaliser mixes them with each entry's index. JAX's own generator
    would take as long as the rest of a small network's step.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    h = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape) * jnp.uint32(0x9E3779B9) ^ first
    h = (h ^ h >> 16) * jnp.uint32(0x85EBCA6B) + second
    h = (h ^ h >> 13) * jnp.uint32(0xC2B2AE35)
    kept = (h ^ h >> 16) >= jnp.uint32(rate * 2**32)
    return jnp.where(kept, x / (1 - rate), 0.0)


def mlp(  # noqa: PLR0913 (keyword-only choices of a network)
    in_size: int,
    hidden: Sequence[int],
    out_size: int,
    *,
    activation: Activation = jax.nn.relu,
    layer_norm: bool = False,
    pre_norm: bool = False,
    batch_norm: bool = False,
    dropout: float = 0.0,
    kernel_init: linen.initializers.Initializer | None = None,
    last_scale: float | None = None,
) -> Network:
    """A multilayer perceptron `[..., in_size] -> [..., out_size]` with a linear output.

    `layer_norm` normalises each hidden layer before its activation. `pre_norm` normalises the input of each layer but
    the first, without parameters. `batch_norm` normalises the input, and each hidden layer before its activation, by
    statistics that are part of the parameters (`BatchNormed`). `dropout` is the dropout rate of hidden layers, before
    the activation; it is active when `apply` gets a key. Weights start by LeCun's uniform rule, unless `kernel_init` is
    given. With `last_scale`, those of the last layer start normal with standard deviation `last_scale / sqrt(fan_in)`.
    Biases start at zero.
    """
    init = kernel_init or linen.initializers.lecun_uniform()
    last = init
    if last_scale is not None:
        scaled = linen.initializers.variance_scaling(last_scale**2, "fan_in", "normal") if last_scale else None
        last = scaled or linen.initializers.zeros_init()
    module = _MLP((*hidden, out_size), activation, layer_norm, pre_norm, batch_norm, dropout, init, last)

    def variables(params: Params) -> dict[str, Params]:
        return {"params": params.net, "batch_stats": params.stats} if batch_norm else {"params": params}

    def start(key: Key) -> Params:
        begun = module.init(key, jnp.zeros((in_size,)))
        return BatchNormed(begun["params"], begun["batch_stats"]) if batch_norm else begun["params"]

    def apply(params: Params, x: jax.Array, key: Key | None = None) -> jax.Array:
        if key is None or not dropout:
            return jnp.asarray(module.apply(variables(params), x))
        return jnp.asarray(module.apply(variables(params), x, train=True, rngs={"dropout": key}))

    def measure(params: Params, x: jax.Array) -> Params:
        return params._replace(
            stats=module.apply(variables(params), x, measure=True, mutable="batch_stats")[1]["batch_stats"]
        )

    def layer(params: Params, i: int) -> Layer:
        dense, norm = params[f"layer_{i}"], params.get(f"norm_{i}", {})
        return Layer(dense["kernel"], dense["bias"], norm.get("scale"), norm.get("bias"), bool(pre_norm and i))

    return Network(
        init=start,
        apply=apply,
        layers=None if batch_norm else lambda params: [layer(params, i) for i in range(len(hidden) + 1)],
        drops=dropout > 0,
        measure=measure if batch_norm else None,
    )


class BatchNormed(NamedTuple):
    """Parameters of a network with BatchNorm (Ioffe and Szegedy 2015, arXiv:1502.03167).

        x_hat = (x - mean) / sqrt(variance + 0.001),   y = scale x_hat + bias

    `apply` takes mean and variance from `stats`. With those that `measure` finds in a batch it is the usual training
    mode, and gradients go through them; but `measure` drops nothing, where there is dropout.
    """

    net: Params
    stats: Params  # mean and variance [in_size] or [width] of each BatchNorm


def follow(params: Params, measured: Params, rate: float = 0.01) -> Params:
    """`params` with running statistics moved towards those `measured` in a batch: s <- (1 - rate) s + rate s_batch.

    Entries that are not finite in the batch stay as they are.
    """

    def move(now: jax.Array, seen: jax.Array) -> jax.Array:
        return jnp.where(jnp.isfinite(seen), (1 - rate) * now + rate * seen, now)

    def each(now: Any, seen: Any) -> Any:
        return now._replace(stats=jax.tree.map(move, now.stats, seen.stats)) if isinstance(now, BatchNormed) else now

    return jax.tree.map(each, params, measured, is_leaf=lambda x: isinstance(x, BatchNormed))


def spoil_overflow(gradient: Params) -> Params:
    """`gradient`, or NaN in all of it if its norm is not finite, so that `optax.apply_if_finite` skips and counts it.

    Entries may be finite and their squares overflow: in the clipping of a norm, and in Adam's second moment, which
    would stay infinite, so that nothing is learned from then on.
    """
    sound = jnp.isfinite(optax.tree.norm(gradient))
    return jax.tree.map(lambda g: jnp.where(sound, g, jnp.nan), gradient)


class Standardised(NamedTuple):
    """Parameters of a network with standardised inputs. `optimizer.renew_statistics` sets the statistics;
    gradients do not change them."""

    net: Params
    mean: jax.Array  # [in_size]
    std: jax.Array  # [in_size]


def standardise(network: Network, in_size: int) -> Network:
    """`network` with inputs standardised by `Standardised.mean` and `std`, which start at 0 and 1."""

    def init(key: Key) -> Standardised:
        return Standardised(network.init(key), jnp.zeros(in_size), jnp.ones(in_size))

    def apply(params: Standardised, x: jax.Array, key: Key | None = None) -> jax.Array:
        mean, std = jax.lax.stop_gradient((params.mean, params.std))
        return network.apply(params.net, (x - mean) / std, key)

    def layers(params: Standardised) -> list[Layer]:
        assert network.layers is not None
        first, *rest = network.layers(params.net)  # (x - mean) / std becomes part of the first layer
        kernel = first.kernel / params.std[..., :, None]
        return [
            first._replace(kernel=kernel, bias=first.bias - jnp.einsum("...i,...io->...o", params.mean, kernel)),
            *rest,
        ]

    def measure(params: Standardised, x: jax.Array) -> Standardised:
        assert network.measure is not None
        mean, std = jax.lax.stop_gradient((params.mean, params.std))
        return params._replace(net=network.measure(params.net, (x - mean) / std))

    return Network(
        init,
        apply,
        None if network.layers is None else layers,
        network.drops,
        None if network.measure is None else measure,
    )


def truncated_normal() -> linen.initializers.Initializer:
    """Truncated normal with standard deviation 1 / (2 sqrt(fan_in)), as in PETS and MBPO."""
    return linen.initializers.variance_scaling(0.25, "fan_in", "truncated_normal")
