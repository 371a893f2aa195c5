"""Early stopping of a round's updates: when models disagree, or when the policy has moved too far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from branchax.agents.base import Outcome
from branchax.types import Key

# (parameters, reference) -> whether to go on [] bool, the reference for the next time, the steps in models it took []
StopRule = Callable[[Any, Any], tuple[jax.Array, Any, Any]]


def stop_early(
    update: Callable[[Any, Key], tuple[Any, Outcome]], rule: StopRule, reference: Any, every: int, undo: bool
) -> Callable[[Any, Key], tuple[Any, Outcome]]:
    """A scan of `update` over keys [N], N a multiple of `every`, that asks a `rule` after each `every` of them.

    Once it says stop, the rest of the keys do nothing; with `undo`, the updates since the last time are taken back too.
    Returns the parameters and the outcomes of [N]: `Outcome.made` is false of those left out, `Outcome.kept` of those
    taken back as well. Their `model_steps` are those that were taken, with the rule's.
    """

    def run(params: Any, keys: Key) -> tuple[Any, Outcome]:
        def advance(carry: tuple[Any, ...], keys: Key) -> tuple[Any, ...]:
            before, reference, _, _ = carry
            params, outcome = jax.lax.scan(update, before, keys)
            going, reference, looked = rule(params, reference)
            steps = jnp.broadcast_to(jnp.float32(outcome.model_steps), (every,)).at[-1].add(looked)
            outcome = outcome._replace(model_steps=steps)
            if undo:
                params = jax.tree.map(lambda new, old: jnp.where(going, new, old), params, before)
            return params, reference, going, outcome

        def body(carry: tuple[Any, ...], keys: Key) -> tuple[Any, Outcome]:
            going = carry[2]
            carry = jax.lax.cond(going, advance, lambda carry, keys: carry, carry, keys)
            kept, outcome = going & carry[2] if undo else going, carry[3]
            steps = jnp.where(going, outcome.model_steps, 0.0)  # those left out repeat the last ones
            made, kept = jnp.broadcast_to(going, (every,)), jnp.broadcast_to(kept, (every,))
            return carry, outcome._replace(model_steps=steps, made=made, kept=kept)

        chunks = keys.reshape(-1, every)
        blank = jax.eval_shape(lambda: jax.lax.scan(update, params, chunks[0])[1])
        outcome = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)._replace(model_steps=jnp.zeros(every))
        carry, told = jax.lax.scan(body, (params, reference, jnp.ones((), bool), outcome), chunks)
        return carry[0], jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), told)

    return run


def while_models_agree(returns_of: Callable[[Any], tuple[jax.Array, jax.Array]], share: float) -> StopRule:
    """Goes on while the returns [n] that n models promise rise in at least `share` of them, from one time to the next.

    (ME-TRPO: Kurutach et al. 2018, arXiv:1802.10592.) The reference is the returns the last time. `returns_of` also
    returns the steps that it took, [].
    """

    def rule(params: Any, before: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        after, steps = returns_of(params)
        return (after > before).mean() >= share, after, steps

    return rule


def within_budget(distance: Callable[[Any, Any], jax.Array], budget: float) -> StopRule:
    """Goes on while `distance(reference, params)` is at most the budget; the reference stays where it was."""
    return lambda params, reference: (distance(reference, params) <= budget, reference, 0.0)
