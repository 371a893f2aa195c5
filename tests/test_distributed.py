"""Several processes, one run: the options, and two processes of which one dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from branchax.devices import distributed
from branchax.devices.distributed import Processes
from branchax.errors import ConfigError

ARGUMENTS = [
    *("train", "mbpo", "--world", "classic/pendulum", "--env-steps", "120", "--explore-steps", "40"),
    *("--epoch-steps", "20", "--checkpoint-every", "1", "--eval-episodes", "2", "--updates-per-step", "1"),
    *("--batch-size", "16", "--model.batch-size", "16", "--model.hidden", "8", "--model.members", "3"),
    *("--model.elites", "2", "--model.max-rounds", "3", "--rollout.per-step", "8", "--rollout.groups", "4"),
    *("--rollout.horizon", "1", "--agent.hidden", "8", "--mesh", "batch=2"),
]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Processes(coordinator="localhost:1"), "process-id: missing"),
        (Processes(coordinator="localhost:1", process_id=0), "processes: missing"),
        (Processes(coordinator="localhost", process_id=0, processes=2), "host:port"),
        (Processes(coordinator="localhost:1", process_id=2, processes=2), "process-id: 2 .* 0 to 1"),
        (Processes(distributed="auto", processes=2), "auto already sets processes"),
    ],
)
def test_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        distributed.check(options, named=True)


def test_several_processes_need_a_directory():
    distributed.check(Processes(), named=False)
    with pytest.raises(ConfigError, match="--run DIR"):
        distributed.check(Processes(distributed="auto"), named=False)


def test_one_process_leads_and_waits_for_nobody():
    assert distributed.count() == 1 and distributed.leads()
    distributed.wait_for_all("here")
    assert distributed.any_of(True) is True and distributed.any_of(False) is False


def test_a_lost_peer_is_known_by_what_the_runtime_raised(monkeypatch):
    import jax

    said = "UNKNOWN: Gloo AllGather failed"
    orbax = TimeoutError("Timed out while waiting")
    orbax.__cause__ = jax.errors.JaxRuntimeError(said)
    every = [jax.errors.JaxRuntimeError(said), ValueError(said), orbax]  # a `ValueError` where an array is read

    def lose(error):
        with distributed.together(), distributed.together():
            raise error

    with pytest.raises(TimeoutError):
        lose(orbax)
    monkeypatch.setattr(distributed, "count", lambda: 2)
    for error in every:
        with pytest.raises(distributed.PeerLost, match=f"without the others: {said}. Start all"):
            lose(error)
    for error in (KeyError("x"), ValueError("a shape: is wrong")):
        with pytest.raises(type(error)):
            lose(error)


def start(directory, *more):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    both = []
    for i in range(2):
        who = ["--coordinator", f"localhost:{port}", "--process-id", str(i), "--processes", "2"]
        command = [sys.executable, "-m", "branchax", *ARGUMENTS, "--run", str(directory), *who, *more]
        with (directory.parent / f"{directory.name}.{i}.log").open("w") as log:
            both.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env))
    return both


def said(directory, i):
    return (directory.parent / f"{directory.name}.{i}.log").read_text()


def ends(process, seconds):
    try:
        return process.wait(seconds)
    finally:
        process.kill()


def state_of(directory):
    """The rows without clocks, and the bytes of each leaf of the last checkpoint."""
    from branchax.runs.restoring import restore
    from tests.on_eight_devices import leaves

    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    found = {name: x.tobytes() for name, x in leaves(restore(directory)[1]).items()}
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows], found


@pytest.mark.slow
def test_one_of_two_processes_dies(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    codes = [ends(process, 600) for process in start(whole)]
    assert codes == [0, 0], said(whole, 0) + said(whole, 1)
    assert "training" not in said(whole, 1) and "return" not in said(whole, 1)  # the second process is silent

    first, second = start(cut)
    try:
        while not (cut / "checkpoints" / "80").exists():
            assert first.poll() is None, said(cut, 0)
            time.sleep(0.2)
        second.send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert ends(first, 120) != 0  # within two minutes ...
        assert time.monotonic() - began < 120
    finally:
        second.kill()
        second.wait()
    assert "cannot go on without the others" in said(cut, 0)  # ... and it says why

    codes = [ends(process, 600) for process in start(cut)]
    assert codes == [0, 0], said(cut, 0) + said(cut, 1)
    assert state_of(cut) == state_of(whole)  # bit for bit
