"""Mean, standard deviation and range of data, and the maps to and from standardised units."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

FLAT = 1e-6  # an entry is constant if its deviation is at most this times its largest magnitude
ROUNDING = 2.0**-22  # largest relative difference of two equal numbers, each rounded to float32


class Stats(NamedTuple):
    """Statistics of a batch of vectors. All [F]."""

    mean: jax.Array
    std: jax.Array
    low: jax.Array
    high: jax.Array


def unit(size: int) -> Stats:
    """Stats for which `apply` is the identity and nothing is out of range."""
    zero, one = jnp.zeros(size), jnp.ones(size)
    far = jnp.full(size, jnp.finfo(zero.dtype).max / 4)  # not infinite: a margin times an infinite width is NaN
    return Stats(zero, one, -far, far)


def measure(x: jax.Array, mask: jax.Array, of: Stats | None = None) -> Stats:
    """Stats of the rows of x [N, F] where mask [N] is true. Scaling x by a power of two scales the stats by the same.

    If an entry's standard deviation is at most 1e-6 of its largest magnitude, that magnitude is used instead (1 if it
    is 0), so that standardising never divides by (nearly) zero. The variance is computed in a second pass around the
    mean: in float32, E[x^2] - E[x]^2 loses all digits for data far from zero. Both passes scale x by a power of two
    near the largest entry, which is exact and prevents overflow and underflow of squares.

    Args:
      x: the data.
      mask: the rows to use.
      of: stats [F] of y, if x holds the changes of y. Where y is nearly constant, or the changes are too small for
        float32, x is rounding error, and its entry counts as constant.
    """
    keep = mask[:, None]
    count = jnp.maximum(mask.sum(), 1).astype(x.dtype)
    low = jnp.where(keep, x, jnp.inf).min(0)
    high = jnp.where(keep, x, -jnp.inf).max(0)
    size = _size(low, high)
    unit = _power_of_two(size)
    scaled = jnp.where(keep, x / unit, 0)
    mean = _sum_rows(scaled) / count
    std = jnp.sqrt(_sum_rows(jnp.where(keep, (scaled - mean) ** 2, 0)) / count) * unit
    flat = std <= FLAT * size
    if of is not None:
        whole = _size(of.low, of.high)
        still = (of.high - of.low <= FLAT * whole) | (std <= ROUNDING * whole)
        flat = flat | (still & (whole > 0))
        size = jnp.maximum(size, whole)
    return Stats(mean * unit, jnp.where(flat, jnp.where(size > 0, size, 1.0), std), low, high)


def _size(low: jax.Array, high: jax.Array) -> jax.Array:
    """The largest magnitude [F] of data in a range; 0 without data."""
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    return jnp.where(jnp.isfinite(size), size, 0.0)


def _power_of_two(size: jax.Array) -> jax.Array:
    """A power of two near `size` [F]; for 0, one near 1."""
    exponent = jnp.frexp(jnp.where(size > 0, size, 1.0))[1]
    return jnp.ldexp(jnp.ones_like(size), jnp.clip(exponent, -120, 120))


def _sum_rows(x: jax.Array, chunk: int = 512) -> jax.Array:
    """The sum of x [N, F] over N, bit-equal for any number of zero rows at the end.

    The rounding of a plain sum depends on N, so a run resumed with a larger buffer would give different results.
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

    Its derivative is 1 everywhere, so that clipping does not silently stop gradients through the model.
    """
    return _bound(x, *_limits(stats, margin))


def is_outside(stats: Stats, x: jax.Array, margin: float) -> jax.Array:
    """Whether an entry of x [..., F] is outside the range that `clip` keeps to, or NaN: [...] bool."""
    low, high = _limits(stats, margin)
    return ~((x >= low) & (x <= high)).all(-1)


def _limits(stats: Stats, margin: float) -> tuple[jax.Array, jax.Array]:
    width = margin * (stats.high - stats.low)
    return stats.low - width, stats.high + width


@jax.custom_jvp
def _bound(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.clip(x, low, high)


@_bound.defjvp
def _bound_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    return _bound(*primals), tangents[0]
