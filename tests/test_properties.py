"""Properties, on programs and numbers that hypothesis makes up: buffers, statistics, returns, and refusals."""

import random
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.faults import bad_arguments
from branchax import cli, normalize, replay
from branchax.returns import gae, rewards_to_go
from branchax.runs import train as host
from branchax.types import Trajectory, Transition

quick = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
CAPACITY, CHUNK = 7, 5
ADD = jax.jit(replay.add)
SAMPLE = jax.jit(replay.sample, static_argnums=2)


@quick
@given(st.lists(st.one_of(st.lists(st.booleans(), min_size=CHUNK, max_size=CHUNK), st.integers(0, 8)), max_size=12))
def test_replay_is_a_list_of_the_latest_rows(program):
    """A program of masked adds (lists of bool) and of keeping the latest so many (numbers)."""
    ring, rows, written = replay.init(jnp.zeros(()), CAPACITY), [], 0
    for step in program:
        if isinstance(step, int):
            ring, rows = replay.keep_latest(ring, jnp.int32(step)), rows[len(rows) - min(step, len(rows)) :]
        else:
            values = written + np.arange(CHUNK, dtype=np.float32)
            written += CHUNK
            ring = ADD(ring, jnp.asarray(values), jnp.asarray(step))
            rows = [*rows, *values[np.array(step)]][-CAPACITY:]
        assert int(ring.size) == len(rows)
        slots = (int(ring.cursor) - len(rows) + np.arange(len(rows))) % CAPACITY
        np.testing.assert_array_equal(np.asarray(ring.data)[slots], rows)
        if rows:
            drawn = np.asarray(SAMPLE(jax.random.key(written), ring, 200))
            assert set(drawn) <= set(rows) and (len(set(drawn)) == len(set(rows)))


MEASURE = jax.jit(normalize.measure)


@quick
@given(
    st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=2, max_size=40),
    st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    st.integers(0, 600),
)
def test_statistics_are_numpys_however_the_rows_are_spread(values, shift, blanks):
    """All at once, or strewn over a buffer with unused rows that hold anything."""
    data = np.float32(values) + np.float32(shift)
    full = np.full((640, 1), np.nan, np.float32)
    mask = np.zeros(640, bool)
    place = np.sort(np.random.default_rng(blanks).permutation(640)[: len(data)])
    full[place, 0], mask[place] = data, True
    stats = MEASURE(jnp.asarray(full), jnp.asarray(mask))
    exact = data.astype(np.float64)
    scale = max(1.0, np.abs(exact).max())
    np.testing.assert_allclose(stats.mean[0], exact.mean(), atol=1e-5 * scale)
    np.testing.assert_array_equal([stats.low[0], stats.high[0]], [data.min(), data.max()])
    if exact.std() > 1e-4 * scale:
        np.testing.assert_allclose(stats.std[0], exact.std(), rtol=1e-2)


H = 6
GAE = jax.jit(lambda trajectory, value, after: gae(trajectory, value, after, 0.9, 0.8))
TO_GO = jax.jit(lambda trajectory: rewards_to_go(trajectory, 0.9))


@quick
@given(
    st.lists(st.sampled_from(["on", "terminated", "truncated", "blank"]), min_size=H, max_size=H), st.integers(0, 99)
)
def test_returns_end_where_episodes_do(ends, seed):
    """Every mix of terminations, truncations and invalid rows, against loops over pieces."""
    rng = np.random.default_rng(seed)
    reward, value, after = rng.normal(size=(3, H)).astype(np.float32)
    column = lambda x: jnp.asarray(x)[:, None]  # noqa: E731
    terminated, truncated, valid = (
        np.array([e == name for e in ends]) for name in ("terminated", "truncated", "blank")
    )
    valid = ~valid
    obs = jnp.zeros((H, 1, 1))
    t = Transition(obs, obs, column(reward), obs, column(terminated), column(truncated))
    trajectory = Trajectory(t, column(valid), None, None)
    advantage, to_go = np.zeros(H), np.zeros(H)
    for i in range(H):
        weight, rate = 1.0, 1.0
        for j in range(i, H):
            if not valid[j]:
                break
            delta = reward[j] + 0.9 * after[j] * (not terminated[j]) - value[j]
            advantage[i] += weight * delta
            to_go[i] += rate * reward[j]
            weight, rate = weight * 0.9 * 0.8, rate * 0.9
            if terminated[j] or truncated[j]:
                break
    np.testing.assert_allclose(GAE(trajectory, column(value), column(after))[:, 0], advantage, atol=1e-5)
    np.testing.assert_allclose(TO_GO(trajectory)[:, 0], to_go, atol=1e-5)


@settings(quick, max_examples=20)  # `make faults` has 200 of them, a process each
@given(seed=st.integers(0, 10**9))
def test_bad_settings_are_refused_at_once(seed, tmp_path_factory, capsys):
    """In this process, so that there can be many; `make faults` gives each a process of its own."""
    files, empty = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(empty)
        patch.setattr(host, "train", lambda *_: pytest.fail(f"{seed} is not refused"))
        arguments, seconds, tries = bad_arguments(random.Random(seed), files), float("inf"), 0
        while seconds >= 1.0 and tries < 3:  # a busy machine makes any one of them slow
            began = time.process_time()
            code = cli.main(arguments)
            seconds, tries = time.process_time() - began, tries + 1
    said = capsys.readouterr()
    assert code == 2, (arguments, said.out[-500:])
    assert "Traceback" not in said.err and said.err.strip()
    assert not list(empty.iterdir())
    assert seconds < 1.0, arguments


def test_a_bad_setting_ends_a_process_well(tmp_path):
    for seed in range(3):
        arguments = bad_arguments(random.Random(seed), tmp_path)
        done = subprocess.run(
            [sys.executable, "-m", "branchax", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, arguments
    assert {path.name for path in tmp_path.iterdir()} <= {"settings.json"}
