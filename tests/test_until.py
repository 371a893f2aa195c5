"""Updates that stop: after a look that says so, and within a budget."""

import jax
import jax.numpy as jnp
import numpy as np

from branchax.agents.until import until, while_agreed, within

KEYS = jax.random.split(jax.random.key(0), 12)


def count(params, key):
    return params + 1.0, {"at": params + 1.0}


def test_a_budget_holds_because_the_update_that_breaks_it_is_undone():
    run = until(count, within(lambda old, new: new - old, 4.5), jnp.float32(10.0), every=1, undo=True)
    params, metrics = jax.jit(run)(jnp.float32(10.0), KEYS)
    assert float(params) == 14.0
    np.testing.assert_array_equal(metrics["improve/agreed"], [1.0] * 4 + [0.0] * 8)


def test_a_budget_that_is_never_reached_changes_nothing():
    run = until(count, within(lambda old, new: new - old, 99.0), jnp.float32(0.0), every=1, undo=True)
    params, metrics = jax.jit(run)(jnp.float32(0.0), KEYS)
    assert float(params) == 12.0 and bool((metrics["improve/agreed"] == 1.0).all())
    np.testing.assert_array_equal(metrics["at"], np.arange(1.0, 13.0))


def test_models_that_no_longer_agree_end_it_after_the_look():
    """Three models promise rising returns until 4, 7 and 100: after 6 updates one in three has stopped, after 9 two."""
    returns = lambda params: jnp.minimum(params, jnp.array([4.0, 7.0, 100.0]))  # noqa: E731
    run = until(count, while_agreed(returns, 0.6), returns(jnp.float32(0.0)), every=3, undo=False)
    params, metrics = jax.jit(run)(jnp.float32(0.0), KEYS)
    assert float(params) == 12.0
    np.testing.assert_array_equal(metrics["improve/agreed"], [1.0] * 12)
    run = until(count, while_agreed(returns, 0.7), returns(jnp.float32(0.0)), every=3, undo=False)
    params, metrics = jax.jit(run)(jnp.float32(0.0), KEYS)
    assert float(params) == 9.0
    np.testing.assert_array_equal(metrics["improve/agreed"], [1.0] * 9 + [0.0] * 3)
