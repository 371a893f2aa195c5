"""The ring buffer against a NumPy reference, and the holdout split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import replay

ROW = {"x": jax.ShapeDtypeStruct((3,), jnp.float32), "n": jax.ShapeDtypeStruct((), jnp.int32)}


def rows(first, count):
    n = np.arange(first, first + count, dtype=np.int32)
    return {"x": np.stack([n, 2 * n, -n], -1).astype(np.float32), "n": n}


add = jax.jit(lambda *arguments: replay.add(*arguments))  # one program where each operation alone would be one
sample = jax.jit(lambda *arguments: replay.sample(*arguments), static_argnums=2)


def test_equals_a_numpy_ring_over_random_masked_writes():
    rng = np.random.default_rng(0)
    capacity, batch = 23, 7
    ring = replay.init(ROW, capacity)
    add = jax.jit(lambda *arguments: replay.add(*arguments))  # a cache of its own
    kept: list[int] = []
    for write in range(60):
        mask = rng.random(batch) < rng.choice([0.0, 0.3, 1.0])
        ring = add(ring, rows(write * batch, batch), jnp.asarray(mask))
        kept += [write * batch + i for i in range(batch) if mask[i]]
        expected = {k % capacity: value for k, value in enumerate(kept)}  # slot -> the last value written there
        assert int(ring.size) == min(len(kept), capacity)
        assert int(ring.cursor) == len(kept) % capacity
        for slot, value in expected.items():
            assert int(ring.data["n"][slot]) == value
            np.testing.assert_array_equal(ring.data["x"][slot], [value, 2 * value, -value])
    assert add._cache_size() == 1


def test_leaves_keep_their_dtypes_and_shapes():
    ring = add(replay.init(ROW, 5), rows(0, 3))
    assert ring.data["n"].dtype == jnp.int32 and ring.data["x"].dtype == jnp.float32
    assert replay.capacity(ring) == 5 and ring.data["x"].shape == (5, 3)


def test_samples_only_rows_that_were_written_and_all_of_them():
    ring = add(replay.init(ROW, 100), rows(1, 10))
    drawn = np.asarray(sample(jax.random.key(0), ring, 2_000)["n"])
    counts = np.bincount(drawn, minlength=11)
    assert counts[0] == 0 and len(counts) == 11  # nothing unwritten
    assert abs(counts[1:] - 200).max() < 5 * np.sqrt(200)  # uniform to five deviations


def test_mixed_batches_hold_exact_counts():
    real, imagined = (add(replay.init(ROW, 50), rows(first, 50)) for first in (0, 1_000))
    draw = jax.jit(lambda key: replay.sample_mixed(key, real, imagined, 13, 256))
    for seed in range(5):
        batch = draw(jax.random.key(seed))
        assert int((batch["n"] < 1_000).sum()) == 13 and batch["n"].shape == (256,)


def test_keeping_the_latest_rows_only():
    ring = replay.init(ROW, 10)
    for first in (0, 6):
        ring = add(ring, rows(first, 6))  # 12 rows into 10 slots: 2 to 11 are stored
    ring = replay.keep_latest(ring, jnp.int32(4))
    drawn = sample(jax.random.key(0), ring, 500)["n"]
    assert set(drawn.tolist()) == {8, 9, 10, 11}
    ring = add(replay.keep_latest(ring, jnp.int32(0)), rows(20, 3))
    assert set(sample(jax.random.key(0), ring, 500)["n"].tolist()) == {20, 21, 22}


def test_a_ring_without_rows_takes_others():
    fill = jax.jit(lambda ring: replay.fill_if_empty(ring, rows(100, 12)))
    full = add(replay.init(ROW, 10), rows(0, 6))
    empty = replay.keep_latest(full, jnp.int32(0))
    assert set(sample(jax.random.key(0), fill(full), 500)["n"].tolist()) == set(range(6))
    assert set(sample(jax.random.key(0), fill(empty), 500)["n"].tolist()) == set(range(100, 110))  # as many as fit


def test_more_rows_than_slots_are_refused():
    with pytest.raises(ValueError, match="9 rows do not fit into a ring of 8"):
        replay.add(replay.init(ROW, 8), rows(0, 9))


@pytest.mark.parametrize("every", [2, 5, 7])
def test_split_is_a_partition_with_one_holdout_row_per_block(every):
    blocks = 400
    held = np.asarray(replay.holdout_slot(jnp.arange(blocks), every))
    trained = np.asarray(replay.train_slot(jnp.arange(blocks * (every - 1)), every))
    assert (held // every == np.arange(blocks)).all()
    assert sorted([*held, *trained]) == list(range(blocks * every))
    # Not periodic: every place within the block is used about equally often.
    share = np.bincount(held % every, minlength=every) / blocks
    assert abs(share - 1 / every).max() < 5 * np.sqrt(0.25 / blocks)


def test_a_row_is_train_or_holdout_for_as_long_as_it_is_stored():
    every, capacity = 5, 20
    ring = replay.init(ROW, capacity)
    fate: dict[int, str] = {}

    @jax.jit
    def write(ring, rows):
        ring, slot = replay.add(ring, rows), jnp.arange(capacity)
        sets = [replay.take(ring, place(slot, every))["n"] for place in (replay.train_slot, replay.holdout_slot)]
        return ring, sets, replay.split_sizes(ring, every)

    for i in range(12):
        ring, sets, sizes = write(ring, rows(i * 3, 3))
        for name, values, size in zip(("train", "held"), sets, sizes, strict=True):
            for value in np.asarray(values)[: int(size)]:
                assert fate.setdefault(int(value), name) == name
    assert {"train", "held"} == set(fate.values())


def test_donated_writes_are_in_place():
    ring = replay.init({"x": jax.ShapeDtypeStruct((64,), jnp.float32)}, 10_000)
    batch = {"x": jnp.ones((8, 64))}
    add = jax.jit(replay.add, donate_argnums=0).lower(ring, batch).compile()
    text = add.as_text()
    assert "input_output_alias" in text
    copies = [line for line in text.splitlines() if " copy(" in line and "10000,64" in line]
    assert not copies, copies
