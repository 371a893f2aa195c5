"""Improving until something says that it is enough: models that disagree, or a policy that has moved too far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from branchax.types import Key, Metrics

# (parameters, mark) -> whether to go on [] bool, the mark for the next look
Look = Callable[[Any, Any], tuple[jax.Array, Any]]


def until(
    update: Callable[[Any, Key], tuple[Any, Metrics]], look: Look, mark: Any, every: int, undo: bool
) -> Callable[[Any, Key], tuple[Any, Metrics]]:
    """A scan of `update` over keys [N], N a multiple of `every`, that takes a `look` after each `every` of them.

    Once it says stop, the rest of the keys do nothing; with `undo`, the updates since the last look are taken back too.
    `improve/done` is the share of updates done; the other metrics of those left out repeat the last ones.
    """

    def run(params: Any, keys: Key) -> tuple[Any, Metrics]:
        def advance(carry: tuple[Any, ...], keys: Key) -> tuple[Any, ...]:
            before, mark, _, _ = carry
            params, metrics = jax.lax.scan(update, before, keys)
            going, mark = look(params, mark)
            if undo:
                params = jax.tree.map(lambda new, old: jnp.where(going, new, old), params, before)
            return params, mark, going, metrics

        def body(carry: tuple[Any, ...], keys: Key) -> tuple[Any, Metrics]:
            going = carry[2]
            carry = jax.lax.cond(going, advance, lambda carry, keys: carry, carry, keys)
            done = going & carry[2] if undo else going
            return carry, carry[3] | {"improve/done": jnp.broadcast_to(done.astype(jnp.float32), (every,))}

        chunks = keys.reshape(-1, every)
        blank = jax.eval_shape(lambda: jax.lax.scan(update, params, chunks[0])[1])
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)
        carry, metrics = jax.lax.scan(body, (params, mark, jnp.ones((), bool), metrics), chunks)
        return carry[0], jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), metrics)

    return run


def while_agreed(returns_of: Callable[[Any], jax.Array], share: float) -> Look:
    """Goes on while the returns [n] that n models promise rise in at least `share` of them, from look to look.

    (ME-TRPO: Kurutach et al. 2018, arXiv:1802.10592.) The mark is the returns at the last look.
    """

    def look(params: Any, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        after = returns_of(params)
        return (after > before).mean() >= share, after

    return look


def within(distance: Callable[[Any, Any], jax.Array], budget: float) -> Look:
    """Goes on while `distance(mark, params)` is at most the budget; the mark, where it is measured from, stays."""
    return lambda params, mark: (distance(mark, params) <= budget, mark)
