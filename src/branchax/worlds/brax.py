"""Brax's environments as worlds (Freeman et al. 2021, arXiv:2106.13281). Brax is imported when one is built."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import types
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax.errors import ConfigError, nearest
from branchax.types import Key
from branchax.worlds import terminations
from branchax.worlds.base import World, WorldSpec, make_world
from branchax.worlds.catalog import BRAX_BACKENDS, WORLDS


def brax_world(name: str, backend: str = "generalized", episode_length: int | None = None) -> World:
    """One of Brax's environments, with none of Brax's wrappers.

    The wrappers overwrite the last observation of an episode with the next one's first, and restart every episode from
    one cached state. Here `next_obs` is the true one and every reset draws a fresh state. The world's `inner` is Brax's
    own `State`, without its metrics. Any environment registered with Brax can be built. Those that are not Brax's own
    have no known termination predicate, and a few of Brax's own have none on some backends (`terminations.UNSEEN`).

    Args:
      name: the name in Brax's registry, such as `"hopper"`.
      backend: the physics: `"generalized"`, `"positional"`, `"spring"` or `"mjx"`. `spring` gives a warning: its joints
        stretch, which the observation does not show, so a model keeps a one-step error even with unlimited data.
      episode_length: steps until an episode is truncated; the default is Brax's own, 1000 for every environment.

    Raises:
      ConfigError: the name is unknown, or the environment has no such backend.
    """
    env = environment(name, backend)

    # Both functions are jitted, so that Brax, which takes up to seconds to trace, is traced only once and not by every
    # program that steps the world. This also prevents Brax from writing into the caller's state.
    @jax.jit
    def reset(key: Key) -> tuple[Any, jax.Array]:
        state = dataclasses.replace(env.reset(key), metrics={})
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)  # no weak types: see below
        return state, state.obs

    like, obs = jax.eval_shape(reset, jax.random.key(0))

    @jax.jit
    def step(key: Key, state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        del key  # the physics is deterministic
        state = dataclasses.replace(env.step(state, action), metrics={})
        # Some leaves come back weakly typed or as Python floats; a scan's carry must look as it did after the reset.
        state = jax.tree.map(lambda leaf, first: jnp.asarray(leaf, first.dtype), state, like)
        return state, state.obs, state.reward, state.done > 0.5

    spec = WorldSpec(
        name=f"brax/{name}",
        obs_size=obs.shape[-1],
        action_size=env.action_size,
        episode_length=1000 if episode_length is None else episode_length,
        differentiable=_differentiable(env, backend),
        termination=terminations.known(name, backend),
    )
    return make_world(spec, reset, step)


def environment(name: str, backend: str) -> Any:
    """Brax's own environment. Raises as `brax_world` does."""
    entry = WORLDS.get(f"brax/{name}")
    backends = entry.backends if entry else BRAX_BACKENDS
    if backend not in backends:
        allowed = ", ".join(backends) + nearest(backend, backends)
        raise ConfigError(f"backend: {backend} is not possible for brax/{name}; allowed: {allowed}")

    with contextlib.redirect_stdout(
        io.StringIO()
    ):  # MuJoCo's MJX prints that Warp, which nothing here uses, is missing
        from brax import envs  # here, because the import takes seconds and most of the library does not need it

    if name not in envs._envs:
        raise ConfigError(f"world: brax/{name} is unknown{nearest(name, envs._envs)}; `branchax list` shows all")
    if name == "swimmer":
        _mend_fluid()
    if backend == "spring" and name != "fast":  # which has no physics
        _warn_of_spring()
    with warnings.catch_warnings():
        # Brax prints each time that only MJX is maintained now, which users of this library cannot change.
        warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
        with _arrays_not_compiled():
            return envs.get_environment(name, backend=backend)


def _differentiable(env: Any, backend: str) -> bool:
    """Whether reverse mode goes through the environment's step.

    MJX's solver is a `while_loop`, which has no reverse-mode derivative (only forward mode), unless it takes a single
    iteration; Brax sets that only for ant and humanoid. The other backends use scans.

    Measured in float64 on a standing hopper: the sum of rewards over 1, 3 and 5 steps, differentiated by a constant
    that is added to the actions. On all backends (`mjx` in forward mode), every gradient is finite and equals the
    central difference with step 1e-6 to within 1e-6. Gradients are only valid while contacts do not change. This share
    of 32 states has a central difference over 5 steps within 1 % of the gradient:

        change of the action    1e-4    1e-3    1e-2    1e-1
        generalized             84 %    41 %     0 %     0 %
        positional             100 %    88 %    31 %     3 %
        spring                  97 %   100 %    88 %    47 %
        mjx                    100 %    97 %    88 %    72 %

    `tests/test_worlds_brax.py` tests the first three backends.
    """
    sys = getattr(env, "sys", None)  # `fast` has no physics
    return backend != "mjx" or sys is None or int(sys.opt.iterations) == 1


@functools.cache
def _warn_of_spring() -> None:
    """Warns once per process, because a run builds its world more than once."""
    warnings.warn(
        "Brax's spring backend hides part of its state from the observation, so no model of it can be accurate; "
        "generalized hides nothing",
        stacklevel=3,
    )


@contextlib.contextmanager
def _arrays_not_compiled() -> Iterator[None]:
    """While Brax reads a model, its arrays are moved to the device as they are.

    Brax copies each with `jnp.array`, which compiles a program for every shape: 41 for the inverted pendulum.
    """
    from brax.io import mjcf

    def array(x: Any) -> Any:
        if isinstance(x, jax.Array):
            return x
        return jax.device_put(x.copy()) if isinstance(x, np.ndarray) else jnp.array(x)  # the device may share memory

    before, mjcf.jp = mjcf.jp, types.SimpleNamespace(array=array)  # the only name that the module takes from it
    try:
        yield
    finally:
        mjcf.jp = before


def _mend_fluid() -> None:
    """Gives `brax.fluid` (used only by the swimmer) a `clip` that still accepts `a_min`, which JAX 0.10 removed."""
    from brax import fluid

    def clip(x: jax.Array, min: Any = None, max: Any = None, a_min: Any = None) -> jax.Array:
        return jnp.clip(x, min if a_min is None else a_min, max)

    fluid.jp = types.SimpleNamespace(**{**vars(jnp), "clip": clip})
