"""The contract of worlds (environments), and a check of it: `branchax check-world NAME`.

docs/worlds.md has the same lines. Each line is checked on real steps with random actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax import outside
from branchax.distributions import one_hot
from branchax.types import Key, Transition, choose
from branchax.worlds.base import World, WorldState

CONTRACT = {
    1: "obs and next_obs are float32 [obs_size], reward is float32 [], terminated and truncated are bool []",
    2: "reset and step trace under jit and vmap, and step returns a state of the shapes and dtypes it was given",
    3: "reset and step follow from their arguments alone: the same again bit for bit, and at any place in a batch",
    4: "resets with different keys start in different states, where a world has more than one start",
    5: "the obs of a step is the observation of the state it starts from, and next_obs that of the state it leads to",
    6: "observations and rewards are finite",
    7: "terminated is what the predicate says of (obs, action, next_obs), where the spec has a predicate",
    8: "an episode is truncated at episode_length steps, not before and not instead of a termination",
    9: "actions outside [-1, 1] are clipped or tolerated, and a discrete action is the largest entry",
    10: "a tabular world's observations are one-hot",
}


# For worlds that are stepped on the host. Simulators check the other lines themselves: an error there ends the check.
HOST_CONTRACT = {line: CONTRACT[line] for line in (3, 4, 6, 7, 8)}


class Violation(NamedTuple):
    """A line of the contract that a world breaks, and the evidence."""

    line: int
    seen: str
    sure: bool = True  # False: it may be intended, which only the author of the world knows


def check_world(world: World, steps: int = 400, batch: int = 8, seed: int = 0) -> list[Violation]:
    """The violations found in `batch` parallel worlds, stepped `steps` times with random actions, by line.

    `steps` is raised to the length of an episode, up to 2,000, so that the time limit is checked, too. A finished
    episode is followed by a fresh reset.
    """
    misshapen = list(find_misshapen(world))
    if misshapen:
        return misshapen  # further checks would be meaningless
    steps = max(steps, min(world.spec.episode_length + 1, 2_000))
    key_run, key_reset = jax.random.split(jax.random.key(seed))
    walk = jax.jit(lambda k: _walk(k, world, steps, batch))
    try:
        before, after, t = jax.tree.map(np.asarray, walk(key_run))
    except Exception as error:  # a user's functions may raise any error
        return [Violation(2, outside.describe_error(error))]
    found = [*_rows(world, before, after, t), *_resets(world, key_reset), *_repeated(world, key_run, batch)]
    return sorted(found)


def check_host(world: World, steps: int = 400, batch: int = 4, seed: int = 0) -> list[Violation]:
    """`check_world` for a world that is stepped on the host, with the lines of `HOST_CONTRACT`.

    Raises `RunError` for errors that its simulators find themselves.
    """
    host, spec = world.host, world.spec
    assert host is not None
    steps = max(steps, min(spec.episode_length + 1, 2_000))
    draw, found, walks, starts = np.random.default_rng(seed), [], [], []
    size, seeds = (steps, batch, spec.action_size), np.arange(seed + 1, seed + 1 + batch)
    actions = draw.uniform(-1.0, 1.0, size).astype(np.float32)
    for _ in range(2):
        fleet = host.make(batch, 0, False)
        try:
            starts.append(host.reset(fleet, seeds))
            walks.append([host.step(fleet, action) for action in actions])
        finally:
            host.close(fleet)
    if not np.array_equal(*starts) or not all(_equal(x, y) for x, y in zip(*walks, strict=True)):
        found.append(Violation(3, "two episodes with the same seeds and actions differ"))
    if (starts[0] == starts[0][:1]).all():
        found.append(Violation(4, f"{batch} seeds give the same first observation: right if it is the only one", False))
    obs, time = starts[0], np.zeros(batch, int)
    for t, (after, later, reward, terminated, truncated) in enumerate(walks[0]):
        time += 1
        if not (np.isfinite(after).all() and np.isfinite(reward).all()):
            found.append(Violation(6, f"an observation or a reward is not finite at step {t}"))
            break
        if spec.termination is not None:
            says = np.asarray(jax.vmap(spec.termination)(obs, actions[t], after))
            if (says != terminated).any():
                found.append(Violation(7, f"terminated and the predicate disagree at step {t}"))
                break
        if ((time >= spec.episode_length) & ~terminated & ~truncated).any():
            found.append(Violation(8, f"not truncated after {spec.episode_length} steps"))
            break
        obs, time = later, np.where(terminated | truncated, 0, time)
    return found


def _equal(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(first, second, strict=True))


def find_misshapen(world: World) -> Iterator[Violation]:
    """Checks lines 1 and 2 by tracing, without taking a step."""
    spec, key = world.spec, jax.random.key(0)
    action = jax.ShapeDtypeStruct((spec.action_size,), jnp.float32)
    try:
        state = jax.eval_shape(world.reset, key)
        after, t = jax.eval_shape(world.step, key, state, action)
        keys = jax.eval_shape(lambda: jax.random.split(key, 3))
        states = jax.eval_shape(jax.vmap(world.reset), keys)
        actions = jax.ShapeDtypeStruct((3, *action.shape), action.dtype)
        jax.eval_shape(jax.vmap(world.step), keys, states, actions)
    except Exception as error:
        yield Violation(2, f"it cannot take a step: {outside.describe_error(error)}")
        return
    vector, scalar = (spec.obs_size,), ()
    wanted = {
        "obs of reset": (state.obs, vector, jnp.float32),
        "obs": (t.obs, vector, jnp.float32),
        "next_obs": (t.next_obs, vector, jnp.float32),
        "reward": (t.reward, scalar, jnp.float32),
        "terminated": (t.terminated, scalar, jnp.bool_),
        "truncated": (t.truncated, scalar, jnp.bool_),
    }
    for name, (x, shape, dtype) in wanted.items():
        allowed = f"{jnp.dtype(dtype)}{list(shape)}"
        if not hasattr(x, "shape"):
            parts = ", such as jnp.concatenate of its parts" if shape == vector else ""
            yield Violation(1, f"{name} is a {type(x).__name__}; allowed: {allowed}{parts}")
        elif x.shape != shape or x.dtype != dtype:
            yield Violation(1, f"{name} is {x.dtype}{list(x.shape)}; allowed: {allowed}")
    like = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    if jax.tree.structure(state) != jax.tree.structure(after) or like(state) != like(after):
        yield Violation(2, "the state after a step has other shapes or dtypes than the one after a reset")


def _walk(key: Key, world: World, steps: int, batch: int) -> tuple[WorldState, WorldState, Transition]:
    """States before and after each step, without their `inner`, and transitions: each [steps, batch, ...]."""

    def advance(state: WorldState, i: jax.Array) -> tuple[WorldState, Any]:
        key_action, key_step, key_reset = _keys_at(key, i)
        action = _actions(key_action, world, batch)
        after, t = jax.vmap(world.step)(jax.random.split(key_step, batch), state, action)
        fresh = jax.vmap(world.reset)(jax.random.split(key_reset, batch))
        over = t.terminated | t.truncated
        return choose(over, fresh, after), (state._replace(inner=()), after._replace(inner=()), t)

    start = jax.vmap(world.reset)(jax.random.split(jax.random.fold_in(key, steps), batch))
    return jax.lax.scan(advance, start, jnp.arange(steps))[1]


def _keys_at(key: Key, i: jax.Array | int) -> Key:
    return jax.random.split(jax.random.fold_in(key, i), 3)


def _actions(key: Key, world: World, batch: int) -> jax.Array:
    if world.spec.discrete:
        return one_hot(jax.random.randint(key, (batch,), 0, world.spec.action_size), world.spec.action_size)
    return jax.random.uniform(key, (batch, world.spec.action_size), minval=-1.0, maxval=1.0)


def _rows(world: World, before: Any, after: Any, t: Any) -> Iterator[Violation]:
    """Checks lines 5 to 8 and 10 on the results of `_walk`, as NumPy arrays."""
    spec = world.spec

    def first(bad: np.ndarray) -> str:
        step, place = np.argwhere(bad.reshape(*t.reward.shape, -1).any(-1))[0]
        return f"at step {step} of world {place} (in {bad.reshape(*t.reward.shape, -1).any(-1).sum():,} rows in all)"

    for name, got, want in (("obs", t.obs, before.obs), ("next_obs", t.next_obs, after.obs)):
        if (bad := _differs(got, want)).any():
            yield Violation(5, f"{name} is not the observation of the state {first(bad)}")
    for name in ("obs", "reward", "next_obs"):
        if (bad := ~np.isfinite(getattr(t, name))).any():
            yield Violation(6, f"{name} is not finite {first(bad)}")
    if spec.termination is not None:
        says = np.asarray(jax.jit(jax.vmap(jax.vmap(spec.termination)))(t.obs, t.action, t.next_obs))
        if (bad := says != t.terminated).any():
            yield Violation(7, f"terminated and the predicate disagree {first(bad)}")
    due = after.time >= spec.episode_length
    if (bad := t.truncated & t.terminated).any():
        yield Violation(8, f"both truncated and terminated {first(bad)}")
    if (bad := t.truncated & ~due).any():
        yield Violation(8, f"truncated after {after.time[bad][0]} of {spec.episode_length} steps, {first(bad)}")
    if (bad := due & ~t.truncated & ~t.terminated).any():
        yield Violation(8, f"not truncated after {after.time[bad][0]} of {spec.episode_length} steps, {first(bad)}")
    if spec.tabular:
        for name in ("obs", "next_obs"):
            x = getattr(t, name)
            if (bad := ~(((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1))).any():
                yield Violation(10, f"{name} is not one-hot {first(bad)}")


def _resets(world: World, key: Key) -> Iterator[Violation]:
    """Checks lines 3 and 4 for `reset`."""
    reset = jax.jit(jax.vmap(world.reset))
    keys = jax.random.split(key, 8)
    once, twice = reset(keys), reset(keys)
    if any(_differs(x, y).any() for x, y in _pairs(once, twice)):
        yield Violation(3, "reset gives another state when it is called with the same key again")
    alone = jax.jit(world.reset)(keys[5])
    sixth = jax.tree.map(lambda x: x[5], once)
    if not all(_close(x, y) for x, y in _pairs(alone, sixth)):
        yield Violation(3, "reset depends on the place in the batch")
    if all((np.asarray(x) == np.asarray(x)[:1]).all() for x in jax.tree.leaves(once.obs)):
        again = [x for x in jax.tree.leaves(once.inner) if jnp.issubdtype(x.dtype, jnp.number)]
        if not again or all((np.asarray(x) == np.asarray(x)[:1]).all() for x in again):
            yield Violation(
                4, "8 resets with 8 keys start in the same state: right if that is the only one", sure=False
            )


def _repeated(world: World, key: Key, batch: int) -> Iterator[Violation]:
    """Checks line 3 for `step`, and line 9."""
    key_action, key_step, key_reset = _keys_at(key, 0)
    keys, actions = jax.random.split(key_step, batch), _actions(key_action, world, batch)
    state = jax.jit(jax.vmap(world.reset))(jax.random.split(key_reset, batch))
    step: Callable[..., Any] = jax.jit(jax.vmap(world.step))
    once, twice = step(keys, state, actions), step(keys, state, actions)
    if any(_differs(x, y).any() for x, y in _pairs(once, twice)):
        yield Violation(3, "step gives another result when it is called with the same arguments again")
    turned = step(*jax.tree.map(lambda x: jnp.roll(x, 1, 0), (keys, state, actions)))
    back = jax.tree.map(lambda x: jnp.roll(x, -1, 0), turned)
    if not all(_close(x, y) for x, y in _pairs(once, back)):
        yield Violation(3, "step depends on the place in the batch")
    outside = step(keys, state, 3.0 * actions if world.spec.discrete else jnp.sign(actions + 1e-6) * 3.0)[1]
    if not all(np.isfinite(np.asarray(x)).all() for x in (outside.reward, outside.next_obs)):
        yield Violation(9, "an action outside [-1, 1] gives numbers that are not finite")
    if world.spec.discrete and not all(_close(x, y) for x, y in _pairs(once[1].next_obs, outside.next_obs)):
        yield Violation(9, "a discrete action is not taken as its largest entry")


def _pairs(first: Any, second: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of leaves of two trees with the same structure; random keys become numbers."""
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        yield tuple(np.asarray(jax.random.key_data(z) if is_key else z) for z in (x, y))  # type: ignore[misc]


def _differs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where two arrays differ; NaN equals NaN."""
    return ~((x == y) | ((x != x) & (y != y)))


def _close(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays are equal up to rounding differences of vectorised programs, relative to the largest entry."""
    x, y = x.astype(float), y.astype(float)
    size = np.max(np.abs(y), where=np.isfinite(y), initial=0.0)
    return bool(np.allclose(x, y, rtol=1e-4, atol=1e-4 * size, equal_nan=True))
