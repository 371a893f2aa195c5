"""The world protocol. Simulators, analytic systems and learned models all answer the same `step`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax.types import Key, Transition

Predicate = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (obs [D], action [A], next_obs [D]) -> [] bool


class WorldSpec(NamedTuple):
    """The facts about a world that are known before anything is compiled.

    `differentiable` says whether reverse-mode derivatives of `step` exist, are finite and are correct, that is, the
    limit of finite differences almost everywhere. They may still be zero (a constant reward), jump (at a contact) or
    explode over many steps (`gradients.jacobians` measures that). For each world of the library, this is tested in
    `tests/test_worlds_classic.py` and `tests/test_worlds_brax.py`. Forward mode works for all of them. No discrete
    world is called differentiable: the choice of an action has no derivative.
    """

    name: str
    obs_size: int  # D
    action_size: int  # A: size of a continuous action, scaled to the actuators' range [-1, 1]; number of discrete ones
    episode_length: int  # steps after which an episode is truncated
    discrete: bool = False  # an action is its one-hot vector [A]; `step` takes the argmax of whatever it is given
    differentiable: bool = True  # backwards through `step`
    termination: Predicate | None = None  # None: no predicate is known, so a model has to learn when episodes end
    tabular: bool = False  # obs is the one-hot vector of one of D states
    clips: bool = True  # a continuous action outside [-1, 1] acts as the nearest one inside


class WorldState(NamedTuple):
    """The state of a world between two steps."""

    inner: Any  # the state of the physics: any pytree
    obs: jax.Array  # [D]
    time: jax.Array  # [] int32, steps since the reset


class HostWorld(NamedTuple):
    """A world with simulators on the host, as functions over a fleet of N simulators. They take and return NumPy
    arrays. If a simulator fails or breaks a rule, a function closes all of them and raises `RunError`.

    When an episode ends, the next one begins within the same step, with the simulator's own random numbers.
    """

    make: Callable[
        [int, int, bool], Any
    ]  # (N, processes or 0 for this one, stop where the first episode ends) -> fleet
    reset: Callable[[Any, np.ndarray], np.ndarray]  # (fleet, seeds [N]) -> obs [N, D]
    # (fleet, actions [N, A]) -> next_obs [N, D], obs to continue from [N, D], reward [N], terminated [N], truncated [N]
    step: Callable[[Any, np.ndarray], tuple[np.ndarray, ...]]
    save_state: Callable[[Any], list[str]]  # fleet -> what each simulator holds, as far as it can be read
    set_state: Callable[[Any, Sequence[str]], None]
    close: Callable[[Any], None]
    comes_back: Callable[[], bool]  # whether what `save_state` reads is the whole state: tried on an episode
    spaces: dict[str, Any]  # JSON-ready: what "observation" and "action" are in the simulator's own terms


class World(NamedTuple):
    """Two pure, unbatched functions; `jax.vmap` gives parallel worlds.

    `step` never resets: `rollout` does that, with a fresh key each time, after it has recorded the true `next_obs`.

    With a `host`, the simulators live on the host, and `reset` and `step` raise `ConfigError`: the host loop takes the
    real steps between compiled stages.
    """

    spec: WorldSpec
    reset: Callable[[Key], WorldState]
    step: Callable[[Key, WorldState, jax.Array], tuple[WorldState, Transition]]
    host: HostWorld | None = None


def blank_state(spec: WorldSpec) -> WorldState:
    """A state of zeros with the right shapes, for a world that is stepped on the host."""
    return WorldState((), jnp.zeros(spec.obs_size), jnp.zeros((), jnp.int32))


def never(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """The termination predicate of a world whose episodes end only by the time limit. Returns [] bool."""
    del obs, action, next_obs
    return jnp.zeros((), bool)


def endless(world: World) -> World:
    """The same world without its time limit: it never truncates. Imagined rollouts end only by their horizon."""

    def step(key: Key, state: WorldState, action: jax.Array) -> tuple[WorldState, Transition]:
        after, transition = world.step(key, state, action)
        return after, transition._replace(truncated=jnp.zeros_like(transition.truncated))

    return world._replace(step=step)


def make_world(
    spec: WorldSpec,
    reset: Callable[[Key], tuple[Any, jax.Array]],
    step: Callable[[Key, Any, jax.Array], tuple[Any, jax.Array, jax.Array, jax.Array]],
) -> World:
    """Builds a world from its physics; adds the step counter, the time limit and the bookkeeping.

    Numbers may be those of Python or NumPy (`False`, `0`, a list of entries): observations and rewards become floats,
    `terminated` becomes bool, and the leaves of the state become arrays.

    Args:
      spec: sizes, time limit and (where one is known) the termination predicate.
      reset: `key -> (inner, obs [D])`, a fresh draw from the initial distribution. `inner` is any pytree.
      step: `(key, inner, action [A]) -> (inner, obs [D], reward [], terminated [] bool)`.
    """

    def reset_world(key: Key) -> WorldState:
        inner, obs = reset(key)
        return WorldState(jax.tree.map(_array, inner), _floats(obs), jnp.zeros((), jnp.int32))

    def step_world(key: Key, state: WorldState, action: jax.Array) -> tuple[WorldState, Transition]:
        inner, obs, reward, terminated = step(key, state.inner, action)
        obs, reward, terminated = _floats(obs), _floats(reward), jnp.asarray(terminated).astype(bool)
        time = state.time + 1
        truncated = (time >= spec.episode_length) & ~terminated
        transition = Transition(state.obs, action, reward, obs, terminated, truncated)
        return WorldState(jax.tree.map(_array, inner), obs, time), transition

    return World(spec, reset_world, step_world)


def _array(x: Any) -> jax.Array:
    """A leaf of a state as an array with a fixed dtype: a Python number would be weakly typed."""
    if isinstance(x, jax.Array) and not x.weak_type:
        return x
    return jnp.asarray(x, jnp.result_type(x))


def _floats(x: Any) -> Any:
    """Real numbers as floats. Anything else, such as a dict of observations, is unchanged; later checks refuse it."""
    if isinstance(x, dict):
        return x
    x = jnp.asarray(x)
    real = jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool
    return x.astype(jnp.result_type(float)) if real else x
