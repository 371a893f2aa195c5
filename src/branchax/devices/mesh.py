"""The mesh of devices that a run is laid out on, and where each part of its state lies.

    axis     what is spread over it                                          what it costs
    seed     the seeds, each with all that is its own                        nothing: seeds never meet
    batch    of each seed: imagined rollouts, the model buffer's rows, the   a reduction per gradient, and one to draw
             rows of gradient batches                                        a batch from the model buffer

Networks and the real replay buffer are whole on every device along `batch`: every part reads them at random places.
One device is the mesh of size one; only what JAX has to know of a mesh is left out there (`entered`).
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
    """The mesh that `config` asks for, over the devices of all processes.

    By itself it spreads only the seeds, over as many devices as they divide over: that is free. The axis `batch` has to
    be asked for, because small batches lose more to the reductions than they gain.

    Raises:
      ConfigError: when there are fewer devices, or a process would be left without one in the mesh.
    """
    there = jax.devices()
    shape = config.mesh_shape or (max(n for n in range(1, len(there) + 1) if config.seeds % n == 0), 1)
    size, knob = math.prod(shape), "devices" if config.mesh is None else "mesh"
    if size > len(there):
        value = getattr(config, knob)
        raise ConfigError(f"{knob}: {value} needs {size} devices; allowed: up to {len(there)}, those that are there")
    idle = {d.process_index for d in there} - {d.process_index for d in there[:size]}
    if idle:
        raise ConfigError(
            f"{knob}: {size} of {len(there)} devices leave processes {sorted(idle)} without work; allowed: all, such as"
            f" --devices {len(there)}"
        )
    return Mesh(np.asarray(there[:size]).reshape(shape), (SEED, BATCH), axis_types=(AxisType.Auto,) * 2)


def says(mesh: Mesh) -> str:
    """The mesh in words, such as `4 of 8 x H100 (seed 2, batch 2)`."""
    count, there = mesh.devices.size, jax.device_count()
    kind = mesh.devices.flat[0].device_kind
    if there == 1:
        return kind
    some = "" if count == there else f"{count} of "
    return f"{some}{there} x {kind} (seed {mesh.shape[SEED]}, batch {mesh.shape[BATCH]})"


def everywhere(mesh: Mesh) -> Sharding:
    """Of what is whole on every device, as the host must be able to read it in every process."""
    return _over(mesh)


def by_seed(mesh: Mesh) -> Sharding:
    """Of arrays whose leading axis [K] is the seeds'."""
    return _over(mesh, SEED)


def _over(mesh: Mesh, *axes: str) -> Sharding:
    """Leading axes spread over those of the mesh. One device is itself, as for arrays that never saw a mesh: JAX tells
    the two apart, and what was traced for the one (a world, as it was built) would be traced again for the other."""
    if mesh.devices.size == 1:
        return SingleDeviceSharding(mesh.devices.flat[0])
    return NamedSharding(mesh, PartitionSpec(*axes))


def entered(mesh: Mesh) -> contextlib.AbstractContextManager[Any]:
    """The context in which a program for `mesh` is traced; for one device none, as in `_over`."""
    return jax.set_mesh(mesh) if mesh.devices.size > 1 else contextlib.nullcontext()


def placed(template: TrainState, mesh: Mesh) -> TrainState:
    """The template [K, ...] as `ShapeDtypeStruct`s that say where each leaf lies."""

    def put(tree: Any, sharding: Sharding) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = put(template, by_seed(mesh))
    if isinstance(template.imagined, Ring):
        rows = put(template.imagined.data, _over(mesh, SEED, BATCH))
        state = state._replace(imagined=state.imagined._replace(data=rows))
    whole = everywhere(mesh)
    return state._replace(counts=put(template.counts, whole), fault=put(template.fault, whole))


def shardings(tree: Any) -> Any:
    """Where each leaf lies: of arrays, or of what `placed` returns."""
    return jax.tree.map(lambda x: x.sharding, tree)
