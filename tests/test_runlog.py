"""Rows are valid JSON, on disk at once, and a resume leaves neither gap nor double."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from branchax.errors import RunError
from branchax.runs.runlog import Log, plain, read, rows_of


def row(epoch, seed=0):
    return {"seed": seed, "epoch": epoch, "env_steps": 10 * epoch}


@pytest.mark.parametrize(
    ("value", "written"),
    [(np.float32(0.5), "0.5"), (np.int32(3), "3"), (3, "3"), (np.bool_(True), "true"), (1e300, "1e+300")]
    + [(x, "null") for x in (np.nan, np.inf, -np.inf, np.float32("nan"))],
)
def test_plain(value, written):
    assert json.dumps(plain(value), allow_nan=False) == written


def test_plain_goes_to_any_depth_and_rounds():
    data = {"a": np.float32(1 / 3), "b": [np.nan, np.inf, np.int64(3)], "c": np.array([[True]]), "d": (None, "text")}
    assert plain(data, digits=5) == {"a": 0.33333, "b": [None, None, 3], "c": [[True]], "d": [None, "text"]}
    assert plain(jnp.array([1.5, -jnp.inf, jnp.nan]), infinity=True) == [1.5, "-inf", None]


def test_one_row_per_seed():
    rows = rows_of([4, 5], {"epoch": np.array([1, 1])}, {"wall_s": 2.5}, {"a/b": np.array([0.25, np.nan], np.float32)})
    assert rows == [
        {"seed": 4, "epoch": 1, "wall_s": 2.5, "a/b": 0.25},
        {"seed": 5, "epoch": 1, "wall_s": 2.5, "a/b": None},
    ]


def test_rows_are_on_disk_at_once(tmp_path):
    log = Log(tmp_path / "m.jsonl")
    log.write([row(1), row(1, seed=1)])
    assert read(tmp_path / "m.jsonl") == [row(1), row(1, seed=1)]
    log.close()


def test_resume_cuts_what_comes_after_the_checkpoint(tmp_path):
    path = tmp_path / "m.jsonl"
    log = Log(path)
    log.write([row(epoch, seed) for epoch in range(5) for seed in range(2)])
    log.close()
    with path.open("a") as file:
        file.write('{"seed": 0, "epo')  # killed while it wrote
    log = Log(path, keep=2)
    assert log.kept == [row(epoch, seed) for epoch in range(3) for seed in range(2)]
    log.write([row(3)])
    log.close()
    assert [r["epoch"] for r in read(path)] == [0, 0, 1, 1, 2, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_the_processes_that_follow_read_what_is_kept_and_write_nothing(tmp_path):
    path = tmp_path / "m.jsonl"
    log = Log(path)
    log.write([row(epoch) for epoch in range(5)])
    log.close()
    log = Log(path, keep=2, writes=False)
    log.write([row(9)])
    log.sync()
    log.close()
    assert log.kept == [row(epoch) for epoch in range(3)] and read(path) == [row(epoch) for epoch in range(5)]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(RunError, match="line 2: not a JSON object"):
        read(path)


def test_no_file_has_no_rows(tmp_path):
    assert read(tmp_path / "m.jsonl") == []
