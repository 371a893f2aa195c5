"""MuJoCo Playground's tasks as worlds (Zakka et al. 2025, arXiv:2502.08844). It is imported when one is built."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp

from branchax.errors import ConfigError, nearest
from branchax.types import Key
from branchax.worlds.base import World, WorldSpec, make_world, never
from branchax.worlds.catalog import PLAYGROUND


def playground_world(name: str, episode_length: int | None = None) -> World:
    """One of MuJoCo Playground's versions of the DeepMind control suite, with none of its wrappers.

    They run on MJX in JAX (Playground's default is Warp, even on a CPU). `next_obs` is the true one and every reset
    draws a fresh state. Episodes end only by the time limit: Playground's `done` means that the physics has become NaN,
    which stops a run. The world's `inner` is Playground's own `State`, without its metrics.

    Playground's robots (locomotion and manipulation) are left out, because their models are downloaded at first use.

    Args:
      name: the name in Playground's registry, such as `"CartpoleBalance"`.
      episode_length: steps until an episode is truncated; the default is Playground's own.

    Raises:
      ConfigError: the name is unknown, or Playground is not installed.
    """
    if name not in PLAYGROUND:
        raise ConfigError(f"world: playground/{name} is unknown{nearest(name, PLAYGROUND)}; `branchax list` shows all")
    try:
        # Here, because the import takes seconds and most of the library does not need it.
        playground: Any = importlib.import_module("mujoco_playground")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"world: playground/{name} needs {error.name}, which is not installed: pip install 'branchax[playground]'"
        ) from error

    env = playground.registry.load(name, config_overrides={"impl": "jax"})

    # Jitted, so that it is traced only once and not by every program that steps the world. This also prevents
    # Playground from writing into the caller's dictionaries.
    @jax.jit
    def reset(key: Key) -> tuple[Any, jax.Array]:
        state = env.reset(jax.random.key_data(key)).replace(metrics={})  # it keeps the key, as plain numbers
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)  # no weak types: see below
        return state, state.obs

    metrics = jax.eval_shape(env.reset, jax.random.key_data(jax.random.key(0))).metrics
    like, obs = jax.eval_shape(reset, jax.random.key(0))

    @jax.jit
    def step(key: Key, state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        del key  # the physics is deterministic
        blank = {name: jnp.zeros(x.shape, x.dtype) for name, x in metrics.items()}  # Playground writes into these
        after = env.step(state.replace(metrics=blank), jnp.clip(action, -1.0, 1.0)).replace(metrics={})
        # Some leaves come back weakly typed; a scan's carry must look as it did after the reset.
        after = jax.tree.map(lambda leaf, first: jnp.asarray(leaf, first.dtype), after, like)
        return after, after.obs, after.reward, jnp.zeros((), bool)

    spec = WorldSpec(
        name=f"playground/{name}",
        obs_size=obs.shape[-1],
        action_size=env.action_size,
        episode_length=int(env._config.episode_length) if episode_length is None else episode_length,
        differentiable=False,  # MJX's solver is a loop without a reverse-mode derivative
        termination=never,
    )
    return make_world(spec, reset, step)
