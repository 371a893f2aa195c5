"""Reads what a run has saved: the state to continue from, and the transitions that it has collected."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build, replay
from branchax.config import Config, from_dict
from branchax.devices import mesh as meshes
from branchax.epoch.state import TrainState
from branchax.errors import ConfigError
from branchax.replay import Ring
from branchax.runs import checkpoint, dataset, rundir
from branchax.runs.compiling import seed_keys
from branchax.sharding import of_seed, over_seeds
from branchax.types import Row, Transition


def load(directory: Path, step: int, config: Config, template: TrainState) -> TrainState:
    """The state saved after `step` env steps, with a replay buffer of the size that `config` asks for.

    Args:
      directory: the run's directory.
      step: one of `checkpoint.steps(directory / "checkpoints")`.
      config: the settings to continue with; the replay buffer may have become larger since the state was saved.
      template: the shapes of the state under `config`, leading axis K, with shardings if it has a given layout.
    """
    saved = from_dict(Config, checkpoint.note(directory / rundir.CHECKPOINTS, step)["config"])
    if saved.replay_capacity != config.replay_capacity:
        before, after = saved.replay_capacity, config.replay_capacity
        raise ConfigError(f"replay_capacity: {before} -> {after} is not possible for a resumed run")
    folder = directory / rundir.CHECKPOINTS
    capacity = next(
        x.shape[1] for name, x in checkpoint.shapes_of(folder, step).items() if name.startswith("real.data")
    )
    if config.real_capacity < capacity:
        raise ConfigError(
            f"env_steps: {config.env_steps} makes the replay buffer smaller; allowed: >= {saved.env_steps}, as it was"
        )
    shapes = jax.tree.map(lambda x: x.update(shape=(x.shape[0], capacity, *x.shape[2:])), template.real.data)
    state = checkpoint.restore(folder, step, template._replace(real=template.real._replace(data=shapes)))
    if capacity == config.real_capacity:
        return state
    grow = jax.vmap(lambda ring: _grow(ring, config.real_capacity))
    return state._replace(real=jax.jit(grow, out_shardings=meshes.shardings(template.real))(state.real))


def load_all(runs: Sequence[tuple[Path, Config]], step: int, template: TrainState) -> TrainState:
    """The states of several runs (directory, settings), lane after lane, with the shardings of `template`."""
    if len(runs) == 1:
        return load(runs[0][0], step, runs[0][1], template)
    seeds = runs[0][1].seeds
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape[1:]), x.dtype), template)
    states = [load(directory, step, config, one) for directory, config in runs]
    return jax.device_put(jax.tree.map(lambda *x: jnp.concatenate(x), *states), meshes.shardings(template))


def restore(
    directory: Path, say: Callable[[str], Any] = warnings.warn, step: int | None = None
) -> tuple[Config, TrainState]:
    """The config and the state of a run's last good checkpoint, or of the one after `step` env steps.

    `say` is told of checkpoints that are skipped. Raises the same errors as `collected`.
    """
    rundir.load_config(directory)
    rundir.find_modules(directory)
    folder = directory / rundir.CHECKPOINTS
    if step is None:
        step = checkpoint.newest(folder, say)
    elif step not in checkpoint.steps(folder):
        known = ", ".join(map(str, checkpoint.steps(folder))) or "none"
        raise ConfigError(f"step: {step} is not saved in {directory}; allowed: {known}")
    elif wrong := checkpoint.problem(folder, step):
        raise checkpoint.CheckpointError(f"cannot read {folder / str(step)}: {wrong}")
    if step is None:
        raise ConfigError(f"run: {directory} holds no checkpoint yet")
    config = from_dict(Config, checkpoint.note(folder, step)["config"])
    template = jax.eval_shape(over_seeds(build.build(config).init), seed_keys(config))
    return config, load(directory, step, config, template)


def collected(directory: str | os.PathLike[str], say: Callable[[str], Any] = warnings.warn) -> Transition:
    """The real transitions in a run's last checkpoint: NumPy arrays [N, ...], seed after seed and world after world,
    oldest first. A transition is marked as truncated if the next row does not continue its episode.

    Raises:
      ConfigError: when the directory holds no run, or no checkpoint yet.
      CheckpointError: when the checkpoint cannot be read.
    """
    config, state = restore(Path(directory), say)
    parts = []
    for seed in range(config.seeds):
        ring = of_seed(state.real, seed)
        oldest = (ring.cursor - ring.size + jnp.arange(int(ring.size))) % replay.capacity(ring)
        rows = jax.tree.map(np.asarray, replay.take(ring, oldest).transition)
        parts.append(rows if config.dataset is not None else dataset.by_episode(rows, config.parallel_worlds))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def fill(state: TrainState, data: Transition) -> TrainState:
    """Fills the replay buffer of each seed with a dataset [N, ...]; only its last rows if there is no room for all."""
    room = jax.tree.leaves(state.real.data)[0].shape[1]
    rows = Row(jax.tree.map(lambda x: jnp.asarray(x[-room:]), data))
    add = jax.vmap(lambda ring: replay.add(ring, rows))
    return state._replace(real=jax.jit(add, donate_argnums=0, out_shardings=meshes.shardings(state.real))(state.real))


def _grow(ring: Ring, capacity: int) -> Ring:
    """Enlarges a ring to `capacity` rows. It must not have overwritten its oldest row yet."""
    room = capacity - jax.tree.leaves(ring.data)[0].shape[0]
    data = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros((room, *x.shape[1:]), x.dtype)]), ring.data)
    return Ring(data, jnp.copy(ring.size), ring.size)  # a copy, because each array is donated to the epoch
