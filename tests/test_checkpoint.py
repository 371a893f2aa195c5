"""What is saved comes back bit for bit, counts once it is on disk, and never goes before its successor is there."""

import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from branchax.runs import checkpoint
from branchax.runs.checkpoint import CheckpointError


class Tree(NamedTuple):
    key: jax.Array
    arrays: dict
    nothing: None = None
    empty: tuple = ()


def make(seed=0):
    key = jax.random.key(seed)
    return Tree(
        jax.random.split(key, 3),
        {
            "float": jax.random.normal(key, (4, 2)).at[0, 0].set(jnp.nan).at[0, 1].set(-0.0),
            "half": jnp.arange(3, dtype=jnp.bfloat16) / 7,
            "int": (jnp.array(7, jnp.int32), jnp.array([200], jnp.uint8)),
            "flag": jnp.array([True, False]),
            "none stored": jnp.zeros((0, 5)),
        },
    )


def bits(tree):
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return [(x.shape, str(x.dtype), np.asarray(x).tobytes()) for x in leaves]


def test_round_trip_is_bit_exact(tmp_path):
    tree = make()
    checkpoint.save(tmp_path, 12, tree, {"config": {"a": 1}})
    back = checkpoint.restore(tmp_path, 12, jax.eval_shape(lambda: tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert bits(back) == bits(tree)
    assert back.key.dtype == tree.key.dtype
    assert jax.tree.leaves(back)[0].devices() == {jax.devices()[0]}
    assert checkpoint.note(tmp_path, 12)["config"] == {"a": 1}


def test_keeps_the_last_two(tmp_path):
    for step in (5, 10, 100):
        checkpoint.save(tmp_path, step, make(step), {})
    assert checkpoint.steps(tmp_path) == [10, 100]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "100"]
    assert bits(checkpoint.restore(tmp_path, 10, make())) == bits(make(10))


def test_older_steps_stay_until_the_newer_is_there(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, make(step), {})

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.StandardCheckpointer, "wait_until_finished", full)
    with pytest.raises(CheckpointError, match=r"cannot save [\d,]+ bytes to .*/3: .*No space left"):
        checkpoint.save(tmp_path, 3, make(3), {})
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    assert bits(checkpoint.restore(tmp_path, 2, make())) == bits(make(2))


def test_unfinished_and_foreign_entries_do_not_count(tmp_path):
    checkpoint.save(tmp_path, 3, make(), {})
    (tmp_path / "9").mkdir()  # half a copy
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes.txt").touch()
    assert checkpoint.steps(tmp_path) == [3]
    checkpoint.save(tmp_path, 9, make(), {})
    assert checkpoint.steps(tmp_path) == [3, 9]
    assert not list(tmp_path.glob("*tmp*"))
    assert checkpoint.steps(tmp_path / "missing") == []


def test_refuses_what_does_not_fit(tmp_path):
    tree = make()
    checkpoint.save(tmp_path, 1, tree, {})
    other = tree._replace(arrays=tree.arrays | {"half": jnp.zeros(3, jnp.float32), "more": jnp.zeros(2)})
    with pytest.raises(CheckpointError) as refusal:
        checkpoint.restore(tmp_path, 1, other)
    assert "arrays.half was saved as bfloat16[3], expected float32[3]" in str(refusal.value)
    assert "arrays.more" in str(refusal.value)
    with pytest.raises(CheckpointError, match=r"arrays.flag was saved as bool\[2\], expected bool\[3\]"):
        checkpoint.restore(tmp_path, 1, tree._replace(arrays=tree.arrays | {"flag": jnp.zeros(3, bool)}))


def test_names_the_path_that_cannot_be_read(tmp_path):
    checkpoint.save(tmp_path, 1, make(), {})
    (tmp_path / "1" / "_METADATA").write_text("")
    with pytest.raises(CheckpointError, match=f"cannot read {tmp_path}/1"):
        checkpoint.restore(tmp_path, 1, make())


def test_refuses_another_format(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, make(), {})
    monkeypatch.setattr(checkpoint, "SCHEMA", 3)
    with pytest.raises(CheckpointError, match="has format 2; this version of branchax reads 3"):
        checkpoint.note(tmp_path, 1)


def test_restores_in_a_process_with_other_devices(tmp_path):
    """Saved on the second of two devices, read where there is one."""
    code = (
        "import jax, jax.numpy as jnp, pathlib, sys; from branchax.runs import checkpoint;"
        "tree = {'x': jax.device_put(jnp.arange(3.0), jax.devices()[1])};"
        "checkpoint.save(pathlib.Path(sys.argv[1]), 5, tree, {})"
    )
    two = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=two, check=True)
    found = checkpoint.restore(tmp_path, 5, {"x": jax.ShapeDtypeStruct((3,), jnp.float32)})
    np.testing.assert_array_equal(found["x"], [0.0, 1.0, 2.0])


def test_a_flipped_byte_is_found_by_the_sum_alone(tmp_path):
    """Of the same size, in an array's data and so far from every header: nothing else sees it."""
    checkpoint.save(tmp_path, 1, {"x": jnp.arange(4_096.0)}, {})
    assert checkpoint.problem(tmp_path, 1) == ""
    largest = max((p for p in (tmp_path / "1").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    name = str(largest.relative_to(tmp_path / "1"))
    assert checkpoint.problem(tmp_path, 1) == f"{name} is not what was written (its SHA-256 sum differs)"


def test_a_manifest_that_was_changed_is_damaged(tmp_path):
    """Still JSON, and of the right format: its own sum says so."""
    checkpoint.save(tmp_path, 1, {"x": jnp.zeros(2)}, {"score": 1.0})
    manifest = tmp_path / "1" / checkpoint.MANIFEST
    manifest.write_text(manifest.read_text().replace('"score": 1.0', '"score": 9.0'))
    assert checkpoint.problem(tmp_path, 1) == f"its {checkpoint.MANIFEST} is damaged"
