"""Returns and advantages against plain loops, on trajectories with every kind of end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax.returns import discounted_sum, gae, goes_on, rewards_to_go
from branchax.rollout import rollout
from branchax.types import Trajectory, Transition
from branchax.worlds.base import WorldSpec, make_world

KINDS = ["collected", "imagined", "shortened"]
pytestmark = pytest.mark.usefixtures("strict")


def trajectory_of(kind, seed=0, length=12, batch=40):
    """Random ends, values [H, B] before each step and after it, and NaN wherever nothing may be read."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, length, batch)).astype(np.float32)
    terminated = rng.random((length, batch)) < 0.12
    truncated = (rng.random((length, batch)) < 0.12) & ~terminated
    valid = np.ones((length, batch), bool)
    if kind != "collected":  # no resets: what follows a termination is not valid
        valid = np.cumsum(terminated, 0) - terminated == 0
    if kind == "shortened":
        valid[7:] = False
    next_value[terminated] = np.nan
    for x in (reward, value, next_value):
        x[~valid] = np.nan
    blank = np.zeros((length, batch, 1), np.float32)
    transition = Transition(blank, blank, reward, blank, terminated, truncated)
    trajectory = jax.tree.map(jnp.asarray, Trajectory(transition, valid, None, None))
    return trajectory, jnp.asarray(value), jnp.asarray(next_value)


def pieces(trajectory):
    """(b, steps): for each valid step t of each column, the steps from t to the end of its episode."""
    t, valid = jax.tree.map(np.asarray, (trajectory.transition, trajectory.valid))
    for b in range(valid.shape[1]):
        for first in range(valid.shape[0]):
            steps = []
            for now in range(first, valid.shape[0]):
                if not valid[now, b]:
                    break
                steps.append(now)
                if t.terminated[now, b] or t.truncated[now, b]:
                    break
            if steps:
                yield b, steps


def expected(trajectory, of):
    """[H, B] of `of(b, steps)`; zero on the rows that are not valid."""
    out = np.zeros(trajectory.valid.shape)
    for b, steps in pieces(trajectory):
        out[steps[0], b] = of(b, steps)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_to_go_equal_a_loop(kind):
    trajectory, _, _ = trajectory_of(kind)
    reward = np.asarray(trajectory.transition.reward, np.float64)
    loop = expected(trajectory, lambda b, steps: sum(0.9 ** (k - steps[0]) * reward[k, b] for k in steps))
    np.testing.assert_allclose(rewards_to_go(trajectory, 0.9), loop, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        goes_on(trajectory), expected(trajectory, lambda b, steps: len(steps) > 1).astype(bool)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gae_equals_a_loop(kind):
    trajectory, value, next_value = trajectory_of(kind)
    reward, now, then = (np.asarray(x, np.float64) for x in (trajectory.transition.reward, value, next_value))
    terminated = np.asarray(trajectory.transition.terminated)
    rates = jnp.array([0.0, 0.7, 1.0], jnp.float32)
    advantages = jax.vmap(lambda rate: gae(trajectory, value, next_value, jnp.float32(0.9), rate))(rates)

    def delta(b, k):
        return reward[k, b] + (0 if terminated[k, b] else 0.9 * then[k, b]) - now[k, b]

    for rate, advantage in zip((0.0, 0.7, 1.0), advantages, strict=True):
        loop = expected(trajectory, lambda b, t, decay=0.9 * rate: sum(decay ** (k - t[0]) * delta(b, k) for k in t))
        np.testing.assert_allclose(advantage, loop, rtol=1e-5, atol=1e-5)


def test_with_lambda_1_gae_is_the_bootstrapped_return_less_the_value():
    """Where V(s'_t) and V(s_{t+1}) are the same number, as in every rollout, the values on the way cancel."""
    world = ends(episode_length=5)
    start = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 30))
    act = lambda key, obs: (jax.random.normal(key, (1,)), ())  # noqa: E731
    _, trajectory = rollout(jax.random.key(1), world, act, start, 14, horizon=jnp.int32(11), restart=True)
    t = jax.tree.map(np.asarray, trajectory.transition)
    value = lambda obs: jnp.sin(obs[..., 0])  # noqa: E731
    advantage = gae(trajectory, value(t.obs), value(t.next_obs), 0.9, 1.0)
    assert t.terminated.any() and t.truncated.any() and trajectory.valid.sum() == 11 * 30

    def of(b, steps):
        total = sum(0.9 ** (k - steps[0]) * float(t.reward[k, b]) for k in steps)
        bootstrap = 0.0 if t.terminated[steps[-1], b] else np.sin(float(t.next_obs[steps[-1], b, 0]))
        return total + 0.9 ** len(steps) * bootstrap - np.sin(float(t.obs[steps[0], b, 0]))

    np.testing.assert_allclose(advantage, expected(trajectory, of), rtol=1e-4, atol=1e-5)


def ends(episode_length):
    """A random walk that terminates beyond 2; reward is the square of the position."""

    def step(key, inner, action):
        del key
        after = inner + action
        return after, after, after[0] ** 2, jnp.abs(after[0]) > 2

    spec = WorldSpec("walk", 1, 1, episode_length)
    return make_world(spec, lambda key: (jnp.zeros(1), jnp.zeros(1)), step)


def test_discounted_sum_keeps_trailing_axes_and_takes_a_rate_per_column():
    rng = np.random.default_rng(0)
    x, carries = rng.normal(size=(6, 3, 2)).astype(np.float32), rng.random((6, 3, 2)) < 0.7
    rate = np.array([[0.5, 0.9]] * 3, np.float32)
    loop, later = np.zeros_like(x), np.zeros((3, 2), np.float32)
    for t in reversed(range(6)):
        later = loop[t] = x[t] + rate * np.where(carries[t], later, 0)
    np.testing.assert_allclose(discounted_sum(jnp.asarray(x), jnp.asarray(carries), jnp.asarray(rate)), loop, rtol=1e-5)
