"""Mean, deviation and range of data, and the maps to and from standardised units."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Stats(NamedTuple):
    """What is known of a batch of vectors. All [F]."""

    mean: jax.Array
    std: jax.Array
    low: jax.Array
    high: jax.Array


def unit(size: int) -> Stats:
    """The stats under which `apply` is the identity and nothing is out of range."""
    zero, one = jnp.zeros(size), jnp.ones(size)
    far = jnp.full(size, jnp.finfo(zero.dtype).max / 4)  # not infinite: a margin times an infinite width is NaN
    return Stats(zero, one, -far, far)


def measure(x: jax.Array, mask: jax.Array) -> Stats:
    """Stats of the rows of x [N, F] where mask [N] holds.

    Entries that hardly vary keep a deviation of one, so that standardising never divides by (nearly) zero. The variance
    is taken in a second pass around the mean: in float32, E[x^2] - E[x]^2 loses all digits for data far from zero.
    """
    keep = mask[:, None]
    count = jnp.maximum(mask.sum(), 1).astype(x.dtype)
    mean = _sum_rows(jnp.where(keep, x, 0)) / count
    variance = _sum_rows(jnp.where(keep, (x - mean) ** 2, 0)) / count
    std = jnp.sqrt(variance)
    flat = std <= 1e-6 * jnp.maximum(jnp.abs(mean), 1.0)
    low = jnp.where(keep, x, jnp.inf).min(0)
    high = jnp.where(keep, x, -jnp.inf).max(0)
    return Stats(mean, jnp.where(flat, 1.0, std), low, high)


def _sum_rows(x: jax.Array, chunk: int = 512) -> jax.Array:
    """The sum of x [N, F] over N, to the same bits however many rows of zeros follow.

    A plain sum's rounding depends on N, so a run resumed with a larger buffer would not be the one it continues.
    """
    padded = jnp.pad(x, ((0, -x.shape[0] % chunk), (0, 0))).reshape(-1, chunk, x.shape[1])
    return jax.lax.scan(lambda total, part: (total + part.sum(0), None), jnp.zeros(x.shape[1]), padded)[0]


def apply(stats: Stats, x: jax.Array) -> jax.Array:
    """x [..., F] in standard units."""
    return (x - stats.mean) / stats.std


def invert(stats: Stats, z: jax.Array) -> jax.Array:
    """The inverse of `apply`."""
    return z * stats.std + stats.mean


def clip(stats: Stats, x: jax.Array, margin: float) -> jax.Array:
    """x [..., F] clipped to the range of the data, widened at both ends by `margin` times its width.

    Its derivative is that of x itself: a bound on values must not end a gradient that goes through them in silence.
    """
    width = margin * (stats.high - stats.low)
    return _bound(x, stats.low - width, stats.high + width)


@jax.custom_jvp
def _bound(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.clip(x, low, high)


@_bound.defjvp
def _bound_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    return _bound(*primals), tangents[0]
