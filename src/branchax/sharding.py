"""Where a program's arrays lie, said from inside the program; `host/mesh.py` makes the mesh.

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
    """`function` of each seed: `jax.vmap` over the leading axis [K], spread over the mesh axis `seed`.

    `in_axes` has a 0 or a `None` (the same for all) for each argument. A seed alone is taken out of its axis and put
    back instead. Under a `vmap` of size one each operation would be traced twice and branches would compute both sides;
    XLA would no longer fold transposes into matrix products, and copy weights, gradients and Adam's moments to and fro
    in every step (`benchmarks/steps.py` has what that costs).
    """

    def each(*arguments: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(arguments)
        over = [axis == 0 for axis in axes]
        count = jax.tree.leaves([x for x, is_over in zip(arguments, over, strict=True) if is_over])[0].shape[0]
        if count > 1:
            return jax.vmap(function, axes, spmd_axis_name=SEED)(*arguments)
        one = lambda x: jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), x)  # noqa: E731
        out = function(*(one(x) if is_over else x for x, is_over in zip(arguments, over, strict=True)))
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), out)

    return each


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
