"""Checkpoints of a whole pytree: Orbax writes the arrays, a manifest of SHA-256 sums shows that they are complete.

A tree is saved as a flat dictionary `{path of the leaf: array}`, so that messages can name a leaf and nothing on disk
depends on a class of this library. A step is valid once its manifest is on disk. The manifest is written last, after
all other files have reached the disk; older steps are deleted only after that. Reading a checkpoint never executes
code: the manifest is JSON, and the arrays are restored into a template.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from branchax.devices import distributed, memory
from branchax.errors import ConfigError, RunError
from branchax.runs import rundir

SCHEMA = 2  # version of the manifest and of the layout of the arrays next to it
MANIFEST = "branchax.json"  # {"sha256": of "body", "body": {"schema", "files": {path: [bytes, sha256]}, **note}}
SCORE = "score"  # a note's field that `keep_best` compares, larger is better; absent or None if not evaluated

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each save there


class CheckpointError(RunError):
    """A checkpoint that cannot be written or read; the message names its path."""


def steps(directory: Path) -> list[int]:
    """The steps that were saved completely, oldest first. Unfinished and half-deleted ones do not count."""
    return [step for step in _present(directory) if (directory / str(step) / MANIFEST).is_file()]


def newest(directory: Path, say: Callable[[str], Any], last: int | None = None) -> int | None:
    """The newest step, up to `last`, with intact files; `say` is told what is wrong with newer ones.

    Raises:
      CheckpointError: when steps were saved but none of them is intact, or one has the format of another version.
    """
    for step in reversed(_present(directory)):
        if last is not None and step > last:
            continue
        wrong = problem(directory, step)
        if not wrong:
            return step
        say(f"checkpoint {directory / str(step)} is passed over: {wrong}")
    if any(last is None or step <= last for step in steps(directory)):
        raise CheckpointError(f"none of the checkpoints in {directory} is sound")
    return None


def problem(directory: Path, step: int) -> str:
    """What is wrong with a step's files, by their sizes and sums; `""` when nothing is. Raises as `note` does."""
    try:
        files = _manifest(directory / str(step))["files"]
    except _Broken as error:
        return str(error)
    path = directory / str(step)
    for name, (size, digest) in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if (has := file.stat().st_size) != size:
            return f"{name} has {has:,} bytes instead of {size:,}"
        if _sum_of(file) != digest:
            return f"{name} is not what was written (its SHA-256 sum differs)"
    return ""


def save(
    directory: Path,
    step: int,
    tree: Any,
    note: dict[str, Any],
    kept: int = 2,
    keep_best: bool = False,
    beside: dict[str, Any] | None = None,
) -> None:
    """Writes `tree` and the JSON-ready `note` as `directory/<step>`, durably, then removes what is not kept.

    Args:
      directory: the folder that holds the steps.
      step: its number. Later steps in the folder come from an abandoned continuation and are deleted.
      tree: arrays.
      note: the function `note` returns it; its `SCORE` decides which step is the best.
      kept: how many of the newest steps to keep.
      keep_best: keep the step with the highest score, too.
      beside: further data to keep, as file name -> JSON; the function `beside` reads it.

    With several processes, each calls this and writes the data on its own devices.

    Raises:
      CheckpointError: when it cannot be written. Earlier steps are left unchanged.
    """
    path = directory.absolute() / str(step)
    directory.mkdir(parents=True, exist_ok=True)
    if distributed.leads():
        sweep(directory)
    distributed.wait_for_all("nothing is left of earlier saves")
    arrays = {name: _raw(leaf) for name, leaf in _named(tree).items() if leaf.size}
    try:
        with distributed.together(), _plain(path) as plain, ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(plain, arrays, force=True)
            checkpointer.wait_until_finished()
        if distributed.leads():
            for name, content in (beside or {}).items():
                (path / name).write_text(json.dumps(content), encoding="utf-8")
            _seal(path, note)
        distributed.wait_for_all("the checkpoint counts")
    except distributed.PeerLost:
        raise
    except Exception as error:  # Orbax raises many kinds of errors
        if distributed.leads():
            sweep(directory)
        if distributed.leads() and not (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)
        raise CheckpointError(
            f"cannot save {memory.bytes_of(tree, per_device=False):,} bytes to {path}: {error}"
        ) from error
    if not distributed.leads():
        return
    whole = [s for s in steps(directory) if s <= step]
    keep = {*whole[-kept:], *([_best(directory, whole)] if keep_best else [])}
    for old in set(_present(directory)) - keep:
        gone = (directory / str(old)).rename(directory / f"{old}.deleted")  # atomic: a half step is never listed
        shutil.rmtree(gone)


def note(directory: Path, step: int) -> dict[str, Any]:
    """The note that was saved with a step.

    Raises:
      CheckpointError: when there is no intact manifest, or one of another version of this format.
    """
    try:
        return _manifest(directory / str(step))
    except _Broken as error:
        raise CheckpointError(f"cannot read {directory / str(step)}: {error}") from error


def beside(directory: Path, step: int, name: str) -> Any:
    """The content of the file `name` next to an intact step's arrays; None if there is no such file."""
    path = directory / str(step) / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def restore(directory: Path, step: int, template: Any) -> Any:
    """The tree saved as `directory/<step>`. It may have been saved from any number of devices.

    Args:
      directory: the folder that holds the steps.
      step: one of `steps(directory)`.
      template: a tree of arrays or `ShapeDtypeStruct`s (`jax.eval_shape`), of the shapes and dtypes that were saved.
        A leaf is placed by the `sharding` of the template's leaf, or on the first device if that has none.

    Raises:
      CheckpointError: when the files cannot be read, or leaves are missing, left over, or of another shape or dtype.
    """
    path = directory.absolute() / str(step)
    leaves = _named(template)
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # otherwise Orbax asks for the devices that saved it
    where = {name: leaf.sharding or first for name, leaf in leaves.items()}
    shapes = {name: jax.eval_shape(_raw, leaf) for name, leaf in leaves.items() if leaf.size}
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[name]) for name, x in shapes.items()}
    saved = shapes_of(directory, step)
    wrong = sorted(f"{name} is only in one of the two" for name in wanted.keys() ^ saved.keys())
    for name in wanted.keys() & saved.keys():
        kinds = [f"{x.dtype}{list(x.shape)}" for x in (saved[name], wanted[name])]
        if kinds[0] != kinds[1]:  # Orbax itself would cast silently
            wrong.append(f"{name} was saved as {kinds[0]}, expected {kinds[1]}")
    if wrong:
        raise CheckpointError(f"{path} does not fit this run: {'; '.join(wrong[:8])}")
    try:
        with distributed.together(), _plain(path) as plain, ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(plain, wanted)
    except distributed.PeerLost:
        raise
    except Exception as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    blank = lambda name, x: jnp.zeros(x.shape, x.dtype, device=where[name])  # noqa: E731
    values = [_typed(arrays[name], x) if x.size else blank(name, x) for name, x in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(template), values)


def check_space(directory: Path, template: Any, count: int) -> None:
    """Raises `ConfigError` unless the disk of `directory` has room for `count` checkpoints of `template` in all."""
    size = memory.bytes_of(template, per_device=False)  # before Orbax compresses them
    there = len(steps(directory))
    needed = size * max(count - there, 1)
    on_disk = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    free = shutil.disk_usage(on_disk).free
    if free < needed:
        raise ConfigError(
            f"run: {directory} has {free:,} bytes free; {count} checkpoints of {size:,} bytes need {needed:,} more"
        )


class _Broken(Exception):
    """A step whose manifest is missing or damaged."""


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of a step. Raises `_Broken`, or `CheckpointError` for one of another version."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        body, schema = manifest["body"], manifest["body"]["schema"]
        sound = manifest["sha256"] == _sum_of(body)
    except FileNotFoundError:
        if _older_format(path):
            raise CheckpointError(f"{path} has format 1; this version of branchax reads {SCHEMA}") from None
        raise _Broken("it was not saved or copied completely") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _Broken(f"its {MANIFEST} is damaged") from None
    if not sound:
        raise _Broken(f"its {MANIFEST} is damaged")
    if schema != SCHEMA:
        raise CheckpointError(f"{path} has format {schema}; this version of branchax reads {SCHEMA}")
    return body


def _present(directory: Path) -> list[int]:
    """Every folder with the name of a step, oldest first, regardless of its content."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())


def _best(directory: Path, whole: list[int]) -> int:
    """The step with the highest score, the latest of equal ones; the last step if there are no scores."""

    def score(step: int) -> tuple[float, int]:
        try:
            found = note(directory, step).get(SCORE)
        except CheckpointError:
            found = None
        return (-float("inf") if found is None else found, step)

    return max(whole, key=score)


def _seal(path: Path, note: dict[str, Any]) -> None:
    """Flushes every file and folder of a step to the disk, then writes its manifest, which makes it valid."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        rundir.sync(file)
    sums = {str(p.relative_to(path)): [p.stat().st_size, _sum_of(p)] for p in files}
    for folder in (*(p for p in path.rglob("*") if p.is_dir()), path):
        rundir.sync(folder)
    body = {**note, "schema": SCHEMA, "files": sums}
    draft = path / f"{MANIFEST}.tmp"
    draft.write_text(json.dumps({"sha256": _sum_of(body), "body": body}), encoding="utf-8")
    rundir.sync(draft)
    draft.rename(path / MANIFEST)
    for folder in (path, path.parent):
        rundir.sync(folder)


def _sum_of(what: Path | dict[str, Any]) -> str:
    """The SHA-256 sum of a file, or of JSON-ready data (independent of the order of its keys)."""
    if isinstance(what, Path):
        with what.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


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


def shapes_of(directory: Path, step: int) -> dict[str, Any]:
    """The shape and dtype of each saved leaf by its name. Raises `CheckpointError` when they cannot be read."""
    path = directory.absolute() / str(step)
    try:
        with _plain(path) as plain, ocp.StandardCheckpointer() as checkpointer:
            return dict(checkpointer.metadata(plain).item_metadata.tree)
    except Exception as error:  # Orbax raises different errors for broken files
        raise CheckpointError(f"cannot read {path}: {error}") from error


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path to a step's folder without brackets, through a link if needed: Orbax reads a path as a glob pattern."""
    if not {"[", "]"} & set(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoints"
        link.symlink_to(path.parent, target_is_directory=True)
        yield link / path.name


def _older_format(path: Path) -> bool:
    """Whether a step was written before there were manifests. Its format number was then in Orbax's metadata."""
    try:
        metadata = json.loads((path / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
        return metadata["custom_metadata"]["schema"] == 1
    except (OSError, ValueError, KeyError, TypeError):
        return False


def sweep(directory: Path) -> None:
    """Removes what an interrupted save or deletion left behind."""
    for pattern in ("*.orbax-checkpoint-tmp*", "*.deleted"):
        for left in directory.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
