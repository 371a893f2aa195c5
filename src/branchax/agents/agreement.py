"""Improving for as long as the models agree that it helps (ME-TRPO: Kurutach et al. 2018, arXiv:1802.10592)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from branchax.types import Key, Metrics


def while_agreed(
    update: Callable[[Any, Key], tuple[Any, Metrics]],
    returns_of: Callable[[Any], jax.Array],
    share: float,
    every: int,
) -> Callable[[Any, Key], tuple[Any, Metrics]]:
    """A scan of `update` over keys [N], N a multiple of `every`, that stops once the models no longer agree.

    After each `every` updates it looks at the returns [n] that the n models promise; when they have risen since the
    last look in less than `share` of them, the rest of the keys do nothing. `improve/agreed` is the share of updates
    done; the other metrics of those left out repeat the last ones.
    """

    def run(params: Any, keys: Key) -> tuple[Any, Metrics]:
        def advance(carry: tuple[Any, ...], keys: Key) -> tuple[Any, ...]:
            params, before, _, _ = carry
            params, metrics = jax.lax.scan(update, params, keys)
            after = returns_of(params)
            return params, after, (after > before).mean() >= share, metrics

        def body(carry: tuple[Any, ...], keys: Key) -> tuple[Any, Metrics]:
            going = carry[2]
            carry = jax.lax.cond(going, advance, lambda carry, keys: carry, carry, keys)
            return carry, carry[3] | {"improve/agreed": jnp.broadcast_to(going.astype(jnp.float32), (every,))}

        chunks = keys.reshape(-1, every)
        blank = jax.eval_shape(lambda: jax.lax.scan(update, params, chunks[0])[1])
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)
        carry, metrics = jax.lax.scan(body, (params, returns_of(params), jnp.ones((), bool), metrics), chunks)
        return carry[0], jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), metrics)

    return run
