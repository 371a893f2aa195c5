"""The range of possible returns, in whose units critics learn."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ValueRange(NamedTuple):
    """The range of discounted returns, estimated from the rewards seen; values are learned in units of it."""

    low: jax.Array  # []
    high: jax.Array  # []
    seen: jax.Array  # [] bool, whether there were any rewards yet


def init_range() -> ValueRange:
    """The range before any reward is seen: values are not scaled."""
    return ValueRange(-jnp.ones(()), jnp.ones(()), jnp.zeros((), bool))


def track_range(
    now: ValueRange,
    rewards: jax.Array,
    discount: jax.Array,
    rate: float,
    ends: bool = False,
    mask: jax.Array | bool = True,
) -> ValueRange:
    """Moves the range towards the 1 % and 99 % quantiles of rewards [...] / (1 - discount); the first call sets it.

    low <- low + rate (q_0.01(r) / (1 - gamma) - low),   high likewise with q_0.99        (Kubo et al. 2025, code)

    With `ends` 0 counts as a return, because nothing follows a termination. Rewards where `mask` is false do not count.
    """
    good = (jnp.isfinite(rewards) | ~jnp.asarray(mask)).all() & jnp.any(mask)
    counted = jnp.where(mask, jnp.where(good, rewards, 0.0), jnp.nan)
    low, high = jnp.nanquantile(counted, jnp.array([0.01, 0.99])) / (1 - discount)
    low, high = (jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)) if ends else (low, high)
    step = jnp.where(good, jnp.where(now.seen, rate, 1.0), 0.0)
    low, high = (1 - step) * now.low + step * low, (1 - step) * now.high + step * high
    return ValueRange(low, high, now.seen | good)


def units(now: ValueRange | None) -> tuple[jax.Array | float, jax.Array | float]:
    """The middle and half of the width of the range; 0 and 1 without one."""
    return (0.0, 1.0) if now is None else (0.5 * (now.high + now.low), 0.5 * (now.high - now.low))


def halt(left: jax.Array, value: jax.Array, now: ValueRange | None) -> jax.Array:
    """Values [...] of the states that follow; where a rollout has `left` [...] the data, the lowest return instead.

    What the data do not cover is the worst of all: the HALT state of MOReL's pessimistic MDP (Kidambi et al. 2020,
    arXiv:2005.05951). Without a range of returns, the values are as they were.
    """
    return value if now is None else jnp.where(left, now.low, value)


def clip_to_range(value: jax.Array, now: ValueRange | None) -> jax.Array:
    """Values [...] clipped to the range of returns."""
    return value if now is None else jnp.clip(value, now.low, now.high)
