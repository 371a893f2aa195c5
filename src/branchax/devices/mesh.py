"""The mesh of devices of a run, and the layout of its state.

    axis     spread over it                                                  cost
    seed     the seeds, each with its complete state                         none: seeds are independent
    batch    of each seed: imagined rollouts, the model buffer's rows, the   a reduction per gradient, and one to draw
             rows of gradient batches                                        a batch from the model buffer

Every device along `batch` has all networks and the whole real replay buffer, because every part reads them at random
places. One device is a mesh of size one; JAX is not told about that mesh (`entered`).
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from branchax.config import Config
from branchax.epoch.state import TrainState
from branchax.errors import ConfigError
from branchax.replay import Ring
from branchax.sharding import BATCH, SEED


def make(config: Config) -> Mesh:
    """The mesh of `config`, over the devices of all processes.

    By default it spreads only the seeds, over the largest number of devices that divides them: that is free. The axis
    `batch` must be requested, because for small batches the reductions cost more than they gain.

    Raises:
      ConfigError: when there are too few devices, or a process would have no device in the mesh.
    """
    there = jax.devices()
    shape = config.mesh_shape or (max(n for n in range(1, len(there) + 1) if config.seeds % n == 0), 1)
    size, knob = math.prod(shape), "devices" if config.mesh is None else "mesh"
    if size > len(there):
        value = getattr(config, knob)
        raise ConfigError(f"{knob}: {value} needs {size} devices; allowed: up to {len(there)}, the available ones")
    idle = {d.process_index for d in there} - {d.process_index for d in there[:size]}
    if idle:
        raise ConfigError(
            f"{knob}: {size} of {len(there)} devices leave processes {sorted(idle)} without work; allowed: all of them,"
            f" --devices {len(there)}"
        )
    return Mesh(np.asarray(there[:size]).reshape(shape), (SEED, BATCH), axis_types=(AxisType.Auto,) * 2)


def describe(mesh: Mesh) -> str:
    """Describes the mesh, such as `4 of 8 x H100 (seed 2, batch 2)`."""
    count, there = mesh.devices.size, jax.device_count()
    kind = mesh.devices.flat[0].device_kind
    if there == 1:
        return kind
    some = "" if count == there else f"{count} of "
    return f"{some}{there} x {kind} (seed {mesh.shape[SEED]}, batch {mesh.shape[BATCH]})"


def everywhere(mesh: Mesh) -> Sharding:
    """The sharding of arrays that are whole on every device, so that the host can read them in every process."""
    return _over(mesh)


def by_seed(mesh: Mesh) -> Sharding:
    """The sharding of arrays with a leading seed axis [K]."""
    return _over(mesh, SEED)


def _over(mesh: Mesh, *axes: str) -> Sharding:
    """Spreads leading axes over these axes of the mesh. For one device, the sharding is the same as without a mesh: JAX
    treats the two as different, and would trace a world again that was built without one."""
    if mesh.devices.size == 1:
        return SingleDeviceSharding(mesh.devices.flat[0])
    return NamedSharding(mesh, PartitionSpec(*axes))


def entered(mesh: Mesh) -> contextlib.AbstractContextManager[Any]:
    """The context in which a program for `mesh` is traced; empty for one device, as in `_over`."""
    return jax.set_mesh(mesh) if mesh.devices.size > 1 else contextlib.nullcontext()


def placed(template: TrainState, mesh: Mesh) -> TrainState:
    """The template [K, ...] as `ShapeDtypeStruct`s with the sharding of each leaf."""

    def put(tree: Any, sharding: Sharding) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = put(template, by_seed(mesh))
    if isinstance(template.imagined, Ring):
        rows = put(template.imagined.data, _over(mesh, SEED, BATCH))
        state = state._replace(imagined=state.imagined._replace(data=rows))
    whole = everywhere(mesh)
    return state._replace(counts=put(template.counts, whole), fault=put(template.fault, whole))


def shardings(tree: Any) -> Any:
    """The sharding of each leaf, of arrays or of the result of `placed`."""
    return jax.tree.map(lambda x: x.sharding, tree)
