"""Layout of a program's arrays over devices, from inside the program; `devices/mesh.py` makes the mesh.

Seeds are independent: the host spreads them over the mesh axis `seed`, and programs need not know. The axis `batch`
splits the work of one seed: a program marks the arrays to spread, and the compiler does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from branchax.config import MESH_AXES, RolloutConfig

SEED, BATCH = MESH_AXES


def over_seeds(function: Callable[..., Any], in_axes: tuple[int | None, ...] | int = 0) -> Callable[..., Any]:
    """`function` applied to each seed, over the leading axis [K]: in a loop (`in_turn`) or with `jax.vmap`.

    `in_axes` is 0 or `None` (the same for all seeds) for each argument. For one seed, the axis is removed and added
    again instead: a `vmap` of size one would run both sides of branches, keep XLA from folding transposes into matrix
    products, and copy weights, gradients and Adam's moments in every step (costs: `benchmarks/steps.py`).
    """

    def each(*arguments: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(arguments)
        mapped = [x for x, axis in zip(arguments, axes, strict=True) if axis == 0]

        def one(mine: list[Any]) -> Any:
            rest = iter(mine)
            return function(*(next(rest) if axis == 0 else x for x, axis in zip(arguments, axes, strict=True)))

        if jax.tree.leaves(mapped)[0].shape[0] == 1:
            out = one(jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), mapped))
            return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), out)
        if in_turn(jax.sharding.get_abstract_mesh().shape.get(SEED, 1)):
            return jax.lax.map(one, mapped)
        return jax.vmap(one, spmd_axis_name=SEED)(mapped)

    return each


@jax.jit
def of_seed(tree: Any, place: int) -> Any:
    """One seed's part of arrays [K, ...], as one compiled program instead of one per slice."""
    return jax.tree.map(lambda x: x[place], tree)


def in_turn(devices: int) -> bool:
    """Whether seeds are computed one after the other: only on a CPU with one device along `seed`.

    There, the caches hold one seed's networks, and no seed waits for the longest fit (`benchmarks/NOTES.md` has the
    gain and the memory needed). An accelerator would be mostly idle with one seed.
    """
    return devices == 1 and jax.default_backend() == "cpu"


def side_by_side(config: RolloutConfig) -> int:
    """The number of rollout groups computed in parallel: as set, or one on a CPU and all elsewhere."""
    return min(config.groups, config.parallel_groups or (1 if jax.default_backend() == "cpu" else config.groups))


def over_batch(tree: Any, axis: int = 0) -> Any:
    """Spreads a common axis of the arrays in `tree` over the mesh axis `batch`.

    This changes where rows are computed, not their values. Without a mesh, or with one device along `batch`, it returns
    `tree` and does not change the program. The axis size must be divisible (`checks.check`).
    """
    return _constrained(tree, PartitionSpec(*[None] * axis, BATCH))


def whole(tree: Any) -> Any:
    """Puts all of `tree` on each device along `batch`: for rows drawn at random places, before each device takes its
    part."""
    return _constrained(tree, PartitionSpec())


def _constrained(tree: Any, spec: PartitionSpec) -> Any:
    if jax.sharding.get_abstract_mesh().shape.get(BATCH, 1) == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)
