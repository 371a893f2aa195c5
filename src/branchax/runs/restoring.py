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
    shapes = checkpoint.shapes_of(folder, step)
    real = _capacity_of("real", shapes)
    if config.real_capacity < real:
        raise ConfigError(
            f"env_steps: {config.env_steps} makes the replay buffer smaller; allowed: >= {saved.env_steps}, as it was"
        )
    of_file = {"real": _with_capacity(template.real, real)}
    if isinstance(template.imagined, Ring):  # grows with the horizon that the run reaches
        of_file["imagined"] = _with_capacity(template.imagined, _capacity_of("imagined", shapes))
    state = checkpoint.restore(folder, step, template._replace(**of_file))
    wanted = {name: getattr(template, name) for name in of_file}
    changed = (name for name in wanted if _rows(of_file[name]) != _rows(wanted[name]))
    return state._replace(**{name: _resize(getattr(state, name), wanted[name]) for name in changed})


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


def _capacity_of(name: str, shapes: dict[str, Any]) -> int:
    """The capacity of a saved ring buffer, [K, C, ...], by the shapes of a checkpoint's arrays."""
    return next(x.shape[1] for path, x in shapes.items() if path.startswith(f"{name}.data"))


def _rows(ring: Ring) -> int:
    """The capacity of a ring of seeds."""
    return jax.tree.leaves(ring.data)[0].shape[1]


def _with_capacity(ring: Ring, capacity: int) -> Ring:
    """The shapes of a ring of seeds, with another capacity."""
    data = jax.tree.map(lambda x: x.update(shape=(x.shape[0], capacity, *x.shape[2:])), ring.data)
    return ring._replace(data=data)


def _resize(ring: Ring, template: Ring) -> Ring:
    """The latest rows of a ring of seeds, oldest first, in a ring like `template`."""
    capacity = _rows(template)

    def of_seed(ring: Ring) -> Ring:
        size, place = jnp.minimum(ring.size, capacity), jnp.arange(capacity)
        rows = replay.take(ring, (ring.cursor - size + place) % replay.capacity(ring))
        blank = lambda x: jnp.where((place < size).reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))  # noqa: E731
        return Ring(jax.tree.map(blank, rows), size % capacity, size)

    return jax.jit(jax.vmap(of_seed), out_shardings=meshes.shardings(template))(ring)
