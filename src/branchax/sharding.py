"""Where a program's arrays lie, said from inside the program; `host/mesh.py` makes the mesh.

A seed never meets another: the host spreads seeds over the mesh axis `seed`, and nothing in a program knows of it. The
axis `batch` splits the work of one seed, so a program says what is spread over it, and the compiler does the rest.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import PartitionSpec

from branchax.config import MESH_AXES

SEED, BATCH = MESH_AXES


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
