"""Checkpoints of a whole pytree, by Orbax, behind four functions.

A tree is saved as a flat dictionary `{path of the leaf: array}`, so that messages can name a leaf and nothing on disk
depends on a class of this library. A step counts once Orbax has committed it; the older ones go only after that.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from branchax.host import RunError, distributed

KEPT = 2  # newest steps that stay on disk
SCHEMA = 1  # of what is written beside the arrays
COMMITTED = "commit_success.txt"  # Orbax writes it last

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each save there


class CheckpointError(RunError):
    """A checkpoint that cannot be written or read; the message names its path."""


def steps(directory: Path) -> list[int]:
    """The steps that are safely on disk, oldest first. Unfinished and half-deleted ones do not count."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and (p / COMMITTED).is_file())


def save(directory: Path, step: int, tree: Any, note: dict[str, Any]) -> None:
    """Writes `tree` and the JSON-ready `note` as `directory/<step>`, durably, then removes all but the last two steps.

    Of several processes, each calls this and writes what lies on its devices.

    Raises:
      CheckpointError: when it cannot be written. The steps saved before are left as they were.
    """
    path = directory.absolute() / str(step)
    directory.mkdir(parents=True, exist_ok=True)
    if distributed.leads():
        _sweep(directory)
    distributed.wait_for_all("nothing is left of earlier saves")
    arrays = {name: _raw(leaf) for name, leaf in _named(tree).items() if leaf.size}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, arrays, force=True, custom_metadata={"schema": SCHEMA, **note})
            checkpointer.wait_until_finished()
    except Exception as error:  # Orbax raises whatever its layers raise
        size = sum(leaf.nbytes for leaf in arrays.values())
        _sweep(directory)
        raise CheckpointError(f"cannot save {size:,} bytes to {path}: {error}") from error
    for old in steps(directory)[:-KEPT] if distributed.leads() else ():
        gone = (directory / str(old)).rename(
            directory / f"{old}.deleted"
        )  # at once, so that no half step is ever listed
        shutil.rmtree(gone)


def note(directory: Path, step: int) -> dict[str, Any]:
    """What was noted beside a step. Raises `CheckpointError` when it was written by another version of this format."""
    _, found = _metadata(directory.absolute() / str(step))
    if found.get("schema") != SCHEMA:
        written = found.get("schema", "none")
        raise CheckpointError(f"{directory / str(step)} has format {written}; this version of branchax reads {SCHEMA}")
    return found


def restore(directory: Path, step: int, template: Any) -> Any:
    """The tree saved as `directory/<step>`, on however many devices it was saved from.

    Args:
      directory: the folder that holds the steps.
      step: one of `steps(directory)`.
      template: a tree of arrays or `ShapeDtypeStruct`s (`jax.eval_shape`), of the shapes and dtypes that were saved.
        A leaf comes to lie where the template's has its `sharding`, or on the first device.

    Raises:
      CheckpointError: when the files cannot be read, or leaves are missing, left over, or of another shape or dtype.
    """
    path = directory.absolute() / str(step)
    leaves = _named(template)
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # else Orbax wants the devices that saved it
    where = {name: leaf.sharding or first for name, leaf in leaves.items()}
    shapes = {name: jax.eval_shape(_raw, leaf) for name, leaf in leaves.items() if leaf.size}
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[name]) for name, x in shapes.items()}
    saved, _ = _metadata(path)
    wrong = sorted(f"{name} is in one of both only" for name in wanted.keys() ^ saved.keys())
    for name in wanted.keys() & saved.keys():
        kinds = [f"{x.dtype}{list(x.shape)}" for x in (saved[name], wanted[name])]
        if kinds[0] != kinds[1]:  # Orbax itself would cast in silence
            wrong.append(f"{name} was saved as {kinds[0]}, expected {kinds[1]}")
    if wrong:
        raise CheckpointError(f"{path} does not fit this run: {'; '.join(wrong[:8])}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(path, wanted)
    except Exception as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    blank = lambda name, x: jnp.zeros(x.shape, x.dtype, device=where[name])  # noqa: E731
    values = [_typed(arrays[name], x) if x.size else blank(name, x) for name, x in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(template), values)


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _raw(leaf: Any) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _typed(array: jax.Array, like: Any) -> jax.Array:
    if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return array
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(jnp.empty_like(like)))


def _metadata(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shape and dtype of each saved leaf by its name, and the note."""
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.metadata(path)
            return dict(found.item_metadata.tree), dict(found.custom_metadata)
    except Exception as error:  # whatever the layers of Orbax make of broken files
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _sweep(directory: Path) -> None:
    """Removes what an interrupted save or deletion left behind."""
    for pattern in ("*.orbax-checkpoint-tmp*", "*.deleted"):
        for left in directory.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
