"""Where a program's arrays lie, said from inside the program; `devices/mesh.py` makes the mesh.

A seed never meets another: the host spreads seeds over the mesh axis `seed`, and nothing in a program knows of it. The
axis `batch` splits the work of one seed, so a program says what is spread over it, and the compiler does the rest.
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
    """`function` of each seed, over the leading axis [K]: in turn or, by `jax.vmap`, at once (`in_turn`).

    `in_axes` has a 0 or a `None` (the same for all) for each argument. A seed alone is taken out of its axis and put
    back instead. Under a `vmap` of size one each operation would be traced twice and branches would compute both sides;
    XLA would no longer fold transposes into matrix products, and copy weights, gradients and Adam's moments to and fro
    in every step (`benchmarks/steps.py` has what that costs).
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
    """What belongs to one seed in arrays [K, ...]; as one program, where slices one by one would be one each."""
    return jax.tree.map(lambda x: x[place], tree)


def in_turn(devices: int) -> bool:
    """Whether seeds on a mesh with so many devices along `seed` are computed one after the other: on a CPU alone.

    Its caches hold the networks of one seed, and no seed waits for the longest fit (`benchmarks/NOTES.md` has what that
    brings, and what memory it takes). An accelerator is idle with one seed.
    """
    return devices == 1 and jax.default_backend() == "cpu"


def side_by_side(config: RolloutConfig) -> int:
    """How many groups of rollouts are computed at once: as set, or one on a CPU and all of them elsewhere."""
    return min(config.groups, config.parallel_groups or (1 if jax.default_backend() == "cpu" else config.groups))


def over_batch(tree: Any, axis: int = 0) -> Any:
    """`tree`, of arrays with one axis in common, laid out with that axis spread over the mesh axis `batch`.

    It changes where rows are computed and not what they are. Outside a mesh, or on one without a second device along
    `batch`, it is the tree itself, and the program the same as without it. The size must divide (`config.check`).
    """
    return _constrained(tree, PartitionSpec(*[None] * axis, BATCH))


def whole(tree: Any) -> Any:
    """`tree` laid out with all of it on each device along `batch`: rows that are drawn at random places, before each
    device takes its share of them."""
    return _constrained(tree, PartitionSpec())


def _constrained(tree: Any, spec: PartitionSpec) -> Any:
    if jax.sharding.get_abstract_mesh().shape.get(BATCH, 1) == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)
