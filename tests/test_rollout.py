"""The one scan: true next observations, fresh resets, masks, and horizons that cost nothing past their end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax.epoch.evaluate import episode_returns
from branchax.rollout import finite, rollout
from branchax.worlds.base import WorldSpec, make_world


def counter(limit=7, ends_at=1e9, spread=1.0):
    """A deterministic world: obs counts up by 1 + action from a random start below `spread`; reward is the obs before
    the step."""
    spec = WorldSpec("counter", 1, 1, limit)

    def step(key, inner, action):
        value = inner + 1.0 + action[0]
        return value, value[None], inner, value >= ends_at

    def reset(key):
        value = spread * jax.random.uniform(key)
        return value, value[None]

    return make_world(spec, reset, step)


def still(key, obs):
    return jnp.zeros(1), ()


def starts(world, count, seed=0):
    return jax.vmap(world.reset)(jax.random.split(jax.random.key(seed), count))


def test_collecting_keeps_the_true_next_obs_on_every_row_and_resets_afresh():
    world = counter(limit=4)
    _, out = rollout(jax.random.key(1), world, still, starts(world, 3), 13, restart=True)
    t = out.transition
    np.testing.assert_allclose(t.next_obs, t.obs + 1.0)  # the last row of an episode too
    truncated = np.asarray(t.truncated)
    assert (truncated[3::4]).all() and truncated.sum() == 3 * 3 and out.valid.all()
    begins = np.asarray(t.obs[4::4, :, 0])
    assert begins.max() < 1.0 and len(np.unique(begins)) == begins.size  # every reset from a key of its own
    carried = ~truncated[:-1]
    np.testing.assert_allclose(np.asarray(t.obs)[1:][carried], np.asarray(t.next_obs)[:-1][carried])


def test_termination_and_truncation_exclude_each_other():
    world = counter(limit=4, ends_at=4.0)  # starts in [0, 1): terminated exactly when the clock runs out
    _, out = rollout(jax.random.key(1), world, still, starts(world, 3), 4)
    assert out.transition.terminated[-1].all() and not out.transition.truncated.any()


@pytest.mark.parametrize(("world", "way"), [(counter(ends_at=3.0), "terminated"), (counter(limit=3), "truncated")])
def test_imagining_is_not_valid_past_an_end(world, way):
    _, out = rollout(jax.random.key(1), world, still, starts(world, 5), 6)
    over, valid = np.asarray(getattr(out.transition, way)), np.asarray(out.valid)
    assert valid[0].all() and not valid[-1].any()
    for b in range(5):
        first = over[:, b].argmax()
        assert valid[: first + 1, b].all() and not valid[first + 1 :, b].any()


def test_beyond_a_termination_nothing_is_computed():
    """The world ends at 3; from there on its state grows without bound, and so does its derivative."""
    spec = WorldSpec("burst", 1, 1, 100)

    def step(key, inner, action):
        value = jnp.where(inner < 3, inner + 1 + action[0], 1e20 * inner**2)
        return value, value[None], inner, value >= 3

    world = make_world(spec, lambda key: (jnp.zeros(()), jnp.zeros(1)), step)

    def total(push):
        out = rollout(jax.random.key(0), world, lambda key, obs: (push[None], ()), starts(world, 2), 8)[1]
        return jnp.where(out.valid, out.transition.reward, 0.0).sum(0).mean()

    # With a push p the rewards are 0, 1 + p and 2 (1 + p).
    np.testing.assert_allclose(jax.value_and_grad(total)(jnp.float32(0.25)), (3.75, 3.0), rtol=1e-6)


def test_a_shortened_horizon_masks_the_rest_and_leaves_the_start_unchanged():
    world = counter(limit=100)
    run = jax.jit(lambda h: rollout(jax.random.key(3), world, still, starts(world, 4), 10, horizon=h))
    full, short = run(jnp.int32(10)), run(jnp.int32(3))
    assert short[1].valid[:3].all() and not short[1].valid[3:].any()
    np.testing.assert_array_equal(short[1].transition.obs[:3], full[1].transition.obs[:3])
    np.testing.assert_allclose(short[0].obs[:, 0], full[1].transition.obs[3, :, 0])
    assert run._cache_size() == 1  # no recompile as the schedule moves


def test_a_shortened_horizon_costs_nothing_even_under_vmap():
    """The skipped steps stay a real branch: no `select` between a computed and a blank step."""
    world = counter()
    run = jax.vmap(lambda k, h: rollout(k, world, still, starts(world, 2), 10, horizon=h)[1].valid, in_axes=(0, None))
    text = str(jax.make_jaxpr(run)(jax.random.split(jax.random.key(0), 3), jnp.int32(3)))
    assert " cond[" in text


def test_context_gives_each_step_its_own_world():
    def world_of(gain):
        base = counter()
        return base._replace(step=lambda k, s, a: base.step(k, s, jnp.full(1, gain)))

    gains = jnp.array([0.0, 10.0, 20.0])
    _, out = rollout(jax.random.key(0), world_of, still, starts(counter(), 2), 3, context=gains)
    np.testing.assert_allclose((out.transition.next_obs - out.transition.obs)[:, 0, 0], [1.0, 11.0, 21.0], rtol=1e-5)


def test_same_key_same_bits_other_key_other_bits():
    def noisy(key, obs):
        return jax.random.normal(key, (1,)), ()

    world = counter()
    runs = [rollout(jax.random.key(k), world, noisy, starts(world, 2), 5)[1].transition.obs for k in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])
    actions = rollout(jax.random.key(0), world, noisy, starts(world, 64), 5)[1].transition.action
    assert len(np.unique(actions)) == actions.size  # no two draws share a key


@pytest.mark.parametrize("given", [2, 5])
def test_given_actions_come_first_and_then_the_policy_as_ever(given):
    def noisy(key, obs):
        return jax.random.normal(key, (1,)), obs

    world, actions = counter(), jnp.arange(5.0 * 3).reshape(5, 3, 1)[:given]
    free = rollout(jax.random.key(2), world, noisy, starts(world, 3), 5)[1].transition
    act = noisy if given < 5 else None
    state, out = rollout(jax.random.key(2), world, act, starts(world, 3), 5, actions=actions)
    obs = np.asarray(starts(world, 3).obs)
    for t in range(5):
        action = np.asarray(actions[t] if t < given else free.action[t])
        np.testing.assert_array_equal(out.transition.obs[t], obs)
        np.testing.assert_array_equal(out.transition.action[t], action)
        obs = obs + np.float32(1.0) + action
    np.testing.assert_array_equal(state.obs, obs)


def test_actions_leave_nothing_open():
    world = counter()
    with pytest.raises(AssertionError, match="6 actions for 5 steps"):
        rollout(jax.random.key(0), world, still, starts(world, 1), 5, actions=jnp.zeros((6, 1, 1)))
    with pytest.raises(AssertionError, match="there is no policy"):
        rollout(jax.random.key(0), world, None, starts(world, 1), 5, actions=jnp.zeros((4, 1, 1)))


def counting(key, obs, memory):
    """Acts by how often it has acted, and says what it remembers."""
    return memory["count"][None], memory["count"], {"count": memory["count"] + 1.0}


def test_a_memory_is_carried_and_starts_again_with_each_episode():
    world, memory = counter(limit=3), {"count": jnp.array([0.0, 10.0])}
    run = lambda **more: rollout(jax.random.key(1), world, counting, starts(world, 2), 7, memory=memory, **more)[1]  # noqa: E731
    np.testing.assert_array_equal(run(restart=True).extras[:, 0], [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(run(restart=True).extras[:, 1], [10, 11, 12, 10, 11, 12, 10])
    np.testing.assert_array_equal(run().extras[:, 0], np.arange(7))
    np.testing.assert_array_equal(run().transition.action[..., 0], run().extras)
    short = run(horizon=jnp.int32(2))
    np.testing.assert_array_equal(short.extras[:2, 1], [10, 11])


def test_a_memory_changes_no_draw():
    def noisy(key, obs, *memory):
        return jax.random.normal(key, (1,)), (), *memory

    world = counter(limit=4)
    plain = rollout(jax.random.key(1), world, noisy, starts(world, 2), 9, restart=True)
    carrying = rollout(jax.random.key(1), world, noisy, starts(world, 2), 9, restart=True, memory=jnp.zeros(2))
    jax.tree.map(np.testing.assert_array_equal, plain, carrying)


def test_episode_returns_carry_a_memory_from_block_to_block():
    world, memory = counter(limit=11), {"count": jnp.zeros(())}
    returns, lengths = episode_returns(jax.random.key(5), world, counting, 2, block=4, memory=memory)
    begins = jax.vmap(world.reset)(jax.random.split(jax.random.split(jax.random.key(5))[0], 2)).obs[:, 0]
    grown = np.cumsum([0.0, *(1.0 + np.arange(10))])  # by 1 + action, and the action is the count
    np.testing.assert_allclose(returns, 11 * begins + grown.sum(), rtol=1e-6)
    np.testing.assert_array_equal(lengths, 11)


def test_episode_returns_equal_a_plain_loop():
    world = counter(limit=23, ends_at=12.0, spread=12.0)  # episodes end in several blocks
    returns, lengths = jax.jit(lambda k: episode_returns(k, world, still, 6, block=5))(jax.random.key(5))
    assert int(lengths.min()) < 5 < 6 <= int(lengths.max())
    begins = jax.vmap(world.reset)(jax.random.split(jax.random.split(jax.random.key(5))[0], 6)).obs[:, 0]
    for begin, total, length in zip(np.asarray(begins), returns, lengths, strict=True):
        value, expected, steps = float(begin), 0.0, 0
        while steps < 23:
            expected, steps, value = expected + value, steps + 1, value + 1
            if value >= 12.0:
                break
        assert float(total) == np.float32(expected) or abs(float(total) - expected) < 1e-3
        assert int(length) == steps


def test_finite_looks_at_every_leaf_of_a_row():
    rows = {"a": jnp.ones((3, 2)), "b": jnp.array([1.0, jnp.inf, 1.0]), "n": jnp.arange(3)}
    rows["a"] = rows["a"].at[2, 1].set(jnp.nan)
    np.testing.assert_array_equal(finite(rows), [True, False, False])


def test_keeping_products_only_changes_the_memory_and_no_value():
    kernels = jax.random.normal(jax.random.key(3), (3, 64, 64)) / 8
    spec = WorldSpec("layers", 64, 64, 100)

    def step(key, inner, action):
        hidden = inner
        for kernel in kernels:
            hidden = jax.nn.silu(jnp.tanh(hidden @ kernel) + jnp.sin(hidden))
        return hidden + action, hidden + action, hidden.sum(), False

    world = make_world(spec, lambda key: (jnp.ones(64), jnp.ones(64)), step)

    def pathwise(products_only):
        def value(gain):
            act = lambda key, obs: (gain * obs, ())  # noqa: E731
            out = rollout(jax.random.key(1), world, act, starts(world, 128), 20, products_only=products_only)[1]
            return out.transition.reward.mean(), out.transition.next_obs

        return jax.jit(jax.value_and_grad(value, has_aux=True)).lower(jnp.full(64, 0.1)).compile()

    kept, less = pathwise(False), pathwise(True)
    ((value, obs), gradient), ((same_value, same_obs), same_gradient) = kept(jnp.full(64, 0.1)), less(jnp.full(64, 0.1))
    np.testing.assert_allclose(value, same_value, rtol=1e-6)
    np.testing.assert_allclose(obs, same_obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, same_gradient, rtol=1e-4, atol=1e-4)
    assert less.as_text().count(" dot(") == kept.as_text().count(" dot(")  # none is computed twice
    assert less.memory_analysis().temp_size_in_bytes < 0.7 * kept.memory_analysis().temp_size_in_bytes
