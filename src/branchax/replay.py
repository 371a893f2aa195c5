"""A ring buffer over any pytree, as pure functions; with donated state, writes are in place.

A row's slot decides whether models train on it: slots form blocks of `holdout_every`, and a fixed hash selects one
holdout slot per block. So a row stays in the training set or the holdout set for as long as it is stored, and both sets
can be sampled with static shapes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from branchax.types import Key


class Ring(NamedTuple):
    """The last `C` rows written."""

    data: Any  # pytree of [C, ...]
    cursor: jax.Array  # [] int32, the next slot to write
    size: jax.Array  # [] int32, number of valid rows: the latest ones, before the cursor


def init(row: Any, capacity: int) -> Ring:
    """An empty ring for rows like `row` (arrays or `ShapeDtypeStruct`s), with the same dtypes."""
    data = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return Ring(data, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def capacity(ring: Ring) -> int:
    """C."""
    return jax.tree.leaves(ring.data)[0].shape[0]


def add(ring: Ring, rows: Any, mask: jax.Array | None = None) -> Ring:
    """Appends the rows [N, ...] where mask [N] is true, in order; they replace the oldest ones.

    Raises:
      ValueError: when N exceeds the capacity (two rows would claim one slot).
    """
    count, slots = jax.tree.leaves(rows)[0].shape[0], capacity(ring)
    if count > slots:
        raise ValueError(f"{count} rows do not fit into a ring of {slots}")
    mask = jnp.ones(count, bool) if mask is None else mask
    offset = jnp.cumsum(mask, dtype=jnp.int32)
    # Masked rows get slots past the end, which scatter drops.
    slot = jnp.where(mask, (ring.cursor + offset - 1) % slots, slots + jnp.arange(count))
    data = jax.tree.map(
        lambda d, r: d.at[slot].set(r.astype(d.dtype), mode="drop", unique_indices=True), ring.data, rows
    )
    return Ring(data, (ring.cursor + offset[-1]) % slots, jnp.minimum(ring.size + offset[-1], slots))


def take(ring: Ring, slot: jax.Array) -> Any:
    """The rows in the given slots: [...] int -> pytree of [..., *row]."""
    return jax.tree.map(lambda d: d[slot], ring.data)


def sample(key: Key, ring: Ring, count: int) -> Any:
    """`count` rows drawn uniformly with replacement from the latest `size` > 0; pytree of [count, ...]."""
    age = jax.random.randint(key, (count,), 0, ring.size)
    return take(ring, (ring.cursor - 1 - age) % capacity(ring))


def keep_latest(ring: Ring, count: jax.Array) -> Ring:
    """The ring with only the latest `count` [] rows (or all, if there are fewer)."""
    return ring._replace(size=jnp.minimum(ring.size, count.astype(jnp.int32)))


def fill_if_empty(ring: Ring, rows: Any) -> Ring:
    """The ring, or if it is empty, one with the rows [N, ...]: `sample` needs at least one row."""
    room = jax.tree.map(lambda x: x[: capacity(ring)], rows)
    return add(ring, room, jnp.broadcast_to(ring.size == 0, jax.tree.leaves(room)[0].shape[:1]))


def sample_mixed(key: Key, real: Ring, imagined: Ring, real_count: int, count: int) -> Any:
    """`count` rows, exactly `real_count` of them real. The rows of both rings must have the same structure."""
    key_real, key_imagined = jax.random.split(key)
    parts = sample(key_real, real, real_count), sample(key_imagined, imagined, count - real_count)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


# --- train and holdout ---


def split_sizes(ring: Ring, every: int) -> tuple[jax.Array, jax.Array]:
    """The numbers of training and holdout rows, [] int32 each. Only full blocks count."""
    blocks = ring.size // every
    return blocks * (every - 1), blocks


def holdout_slot(block: jax.Array, every: int) -> jax.Array:
    """The holdout slot of each block [...] -> [...] int32: a hash, so that it matches no period of the data."""
    mixed = block.astype(jnp.uint32) * jnp.uint32(2654435761)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2246822519)
    return block * every + ((mixed >> 16) % every).astype(jnp.int32)


def train_slot(index: jax.Array, every: int) -> jax.Array:
    """The slot of the `index`-th training row [...] -> [...] int32, skipping each block's holdout slot."""
    block, rank = index // (every - 1), index % (every - 1)
    slot = block * every + rank
    return slot + (slot >= holdout_slot(block, every))
