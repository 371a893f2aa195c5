"""What interrupts a run: kill -9, signals, another process in its directory, a full disk, damaged files."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import jax
import pytest
from conftest import replace, toy_program

from branchax.config import Config, to_dict
from branchax.errors import ConfigError
from branchax.runs import checkpoint, lock, loop, restoring, rundir, runlog
from branchax.runs import train as host
from branchax.runs.checkpoint import CheckpointError
from branchax.runs.faults import NonFinite
from branchax.runs.signals import Preempted, Stop

HERE = Path(__file__).parent
TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import toy_program
from branchax import build, cli
build.build = toy_program
arguments = "train sac --world classic/lqr --explore-steps 20 --epoch-steps 10 --batch-size 4 --checkpoint-every 1"
cli.entry.__globals__["sys"].argv[1:] = [*arguments.split(), "--no-tensorboard", "--eval-every", "9", *sys.argv[2:]]
cli.entry()
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr("branchax.build.build", toy_program)


def started(directory, steps):
    command = [sys.executable, "-c", TRAIN, str(HERE), "--env-steps", str(steps), "--run", str(directory)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def outcome(directory):
    """The bits of the last state, and the rows without the clock."""
    _, state = restoring.restore(directory)
    is_key = lambda x: jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    bits = [jax.device_get(jax.random.key_data(x) if is_key(x) else x).tobytes() for x in jax.tree.leaves(state)]
    rows = runlog.read(directory / rundir.METRICS)
    return bits, [{k: v for k, v in row.items() if k != "wall_s"} for row in rows]


def until(true, process, seconds=60):
    end = time.monotonic() + seconds
    while process.poll() is None and not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]


def rows(directory):
    path = directory / rundir.METRICS
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_three_times_killed_it_ends_where_it_would_have(tmp_path):
    """kill -9 at random moments, once while a checkpoint is being written; always the same command.

    `make faults` kills fifty times.
    """
    rng, killed, straight = random.Random(0), tmp_path / "killed", tmp_path / "straight"
    for number in range(3):
        process = started(killed, 320)
        before = rows(killed)
        until(lambda: rows(killed) > before, process)  # noqa: B023
        if number % 2:
            until(lambda: list(killed.glob("checkpoints/*tmp*")), process)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert rundir.status(killed)["state"] == "running"
    last = started(killed, 320)
    said = last.communicate()[1]
    assert last.returncode == 0, said
    host.train(dataclasses.replace(rundir.load_config(killed), checkpoint_every=9), straight)
    assert outcome(killed) == outcome(straight)
    assert [row["epoch"] for row in outcome(killed)[1]] == list(range(31))
    assert not [
        p.name for p in killed.rglob("*") if "tmp" in p.name or "deleted" in p.name or p.name in (lock.FILE, lock.OWNER)
    ]


def test_sigterm_saves_and_says_so_and_a_second_process_is_refused(tmp_path):
    directory = tmp_path / "run"
    process = started(directory, 100_000)
    until(lambda: rows(directory) > 2, process)
    second = started(directory, 100_000)
    _, said = second.communicate()
    assert second.returncode == 2 and f"in use by process {process.pid} on " in said
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75 and "stopped by SIGTERM; saved after" in said and "Traceback" not in said
    status, saved = rundir.status(directory), checkpoint.steps(directory / rundir.CHECKPOINTS)
    assert (status["state"], status["last_good_step"], status["pid"]) == ("preempted", saved[-1], process.pid)
    assert runlog.read(directory / rundir.METRICS)[-1]["env_steps"] == saved[-1]


@pytest.mark.parametrize(("number", "large"), [(1, False), pytest.param(3, False, marks=pytest.mark.slow), (3, True)])
def test_an_epoch_that_outlasts_a_signal_is_left_and_what_was_is_saved(
    tmp_path, toy_config, monkeypatch, number, large
):
    finished, epochs, left, run = loop.finish, [], threading.Event(), tmp_path / "run"

    def slow(function, *arguments):
        out = finished(function, *arguments)  # what it was given is gone now
        epochs.append(len(arguments) == 3)  # the floats, a state and a horizon
        if epochs[-1] and sum(epochs) == number:
            os.kill(os.getpid(), signal.SIGTERM)
            left.wait(60)
        return out

    monkeypatch.setattr(loop, "finish", slow)
    monkeypatch.setattr(loop, "COPIED", 0 if large else loop.COPIED)
    monkeypatch.setattr(host, "GRACE", 0.2)
    monkeypatch.setattr(loop, "GRACE_WITH_COPY", 0.1)
    at = 10 * (number + 1)  # 20 steps are explored, and an epoch has 10
    said = "did not end within 0.2 s$" if large else f"within 0.1 s; saved as it was after {at} env steps"
    with pytest.raises(Preempted, match=said):
        host.train(toy_config, run)
    left.set()
    assert checkpoint.steps(run / rundir.CHECKPOINTS) == ([] if large else [at])
    if not large:  # again, right after it was resumed: the step is there, and nothing is written over it
        before, number = [p.stat().st_mtime_ns for p in sorted(run.glob("checkpoints/*/*"))], number + 1
        left.clear()
        with pytest.raises(Preempted, match=f"saved as it was after {at} env steps"):
            host.train(toy_config, run)
        left.set()
        assert before == [p.stat().st_mtime_ns for p in sorted(run.glob("checkpoints/*/*"))]
    monkeypatch.undo()
    monkeypatch.setattr("branchax.build.build", toy_program)
    for name in ("run", "straight"):
        host.train(toy_config, tmp_path / name)
    assert outcome(run) == outcome(tmp_path / "straight") and rundir.is_done(run)


def test_signals_wait_or_raise_as_asked():
    stop = Stop(grace=0.0)
    with stop.handled(), stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        with pytest.raises(Preempted, match="the epoch did not end within 0 s"):
            stop.wait(Future())
    stop = Stop(grace=1.0)
    with stop.handled(), pytest.raises(Preempted, match="before there was anything new"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_terminal_that_closes_and_a_scheduler_s_warning_ask_as_sigterm_does(name):
    number = getattr(signal, name)
    stop = Stop(grace=1.0)
    with stop.handled(), stop.deferred():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    assert stop.asked == name and signal.getsignal(number) == signal.SIG_DFL
    before = signal.signal(number, signal.SIG_IGN)  # as `nohup` has it
    try:
        ignoring = Stop(grace=1.0)
        with ignoring.handled():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        assert not ignoring.asked
    finally:
        signal.signal(number, before)


def test_runs_that_start_together_have_a_directory_each(tmp_path):
    with contextlib.ExitStack() as held:
        stem, barrier, made = tmp_path / "runs" / "classic-lqr_sac_s0", threading.Barrier(8), []

        def claim():
            barrier.wait()
            made.append(held.enter_context(rundir.claimed(stem)))

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {path.name for path in made} == {f"{stem.name}_{n}" for n in range(1, 9)}
        (made[0] / "file").write_text("")
    assert list((tmp_path / "runs").iterdir()) == [made[0]]  # what stays empty goes
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^run: "), rundir.claimed(tmp_path / "file" / "x"):
        pass


def test_a_dead_owners_lock_is_taken_over(tmp_path):
    code = f"""
import pathlib, time
from branchax.runs import lock
with lock.held(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    assert f"process {owner.pid} on " in lock.owner(tmp_path)
    with pytest.raises(ConfigError, match=f"in use by process {owner.pid} on .*, since 20"), lock.held(tmp_path):
        pass
    owner.kill()
    owner.communicate()  # which closes its pipe
    assert (tmp_path / lock.FILE).exists() and lock.owner(tmp_path) is None
    with lock.held(tmp_path):
        assert f"process {os.getpid()} on" in lock.owner(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_before_anything_is_compiled(toy_config, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(ConfigError, match=r"has 100 bytes free; 3 checkpoints of [\d,]+ bytes need [\d,]+ more"):
        host.train(toy_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_save_that_fails_leaves_the_older_ones(toy_config, tmp_path):
    """The system refuses to write more than 2 MB into a file: no tmpfs, no mocks."""
    code = f"""
import resource
from branchax.runs import checkpoint
from pathlib import Path
import jax
folder = Path({str(tmp_path)!r})
for step, size in ((1, 1000), (2, 2000), (3, 4_000_000)):
    if step == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    checkpoint.save(folder, step, {{"x": jax.random.normal(jax.random.key(0), (size,))}}, {{}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"cannot save 16,000,000 bytes to {tmp_path}/3" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    assert checkpoint.newest(tmp_path, print) == 2


def test_a_damaged_checkpoint_is_passed_over(toy_config, tmp_path, capsys):
    config = replace(toy_config, checkpoint_every=1)
    host.train(config, tmp_path / "straight")
    host.train(config, tmp_path / "run")
    newest = tmp_path / "run" / rundir.CHECKPOINTS / "60"
    file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    capsys.readouterr()
    host.train(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert f"checkpoint {newest} is passed over: {file.relative_to(newest)} is not what was written" in said
    assert "goes on after 50 env steps" in said
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")
    for step in (50, 60):
        (tmp_path / "run" / rundir.CHECKPOINTS / str(step) / checkpoint.MANIFEST).write_text("{}")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints in .* is sound"):
        host.train(config, tmp_path / "run")


def test_the_best_checkpoint_is_kept(toy_config, tmp_path):
    config = replace(toy_config, env_steps=120, checkpoint_every=1, keep_best=True, checkpoints_kept=1)
    host.train(config, tmp_path)
    returns = {row["env_steps"]: row[runlog.RETURN] for row in runlog.read(tmp_path / rundir.METRICS) if row["epoch"]}
    best = max(returns, key=returns.__getitem__)
    assert checkpoint.steps(tmp_path / rundir.CHECKPOINTS) == sorted({best, 120})


def test_a_checkpoint_whose_buffer_had_another_size_goes_on_to_the_same_bits(toy_config, tmp_path, monkeypatch):
    """Buffers were of just the size of the run once."""
    longer = replace(toy_config, env_steps=90)
    host.train(longer, tmp_path / "straight")
    with monkeypatch.context() as before:
        before.setattr(Config, "real_capacity", Config.real_kept)
        host.train(toy_config, tmp_path / "run")
    shapes = checkpoint.shapes_of(tmp_path / "run" / rundir.CHECKPOINTS, 60)
    assert shapes["real.data.transition.reward"].shape[1] == toy_config.real_kept < longer.real_capacity
    host.train(longer, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")


@pytest.mark.parametrize("name", ["exp[1]", "[a-z]* Ünïcode ☃", "link/a run"])
def test_any_path_holds_a_run(toy_config, tmp_path, monkeypatch, name):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    host.train(replace(toy_config, env_steps=40), name)
    host.train(toy_config, name)
    state = restoring.restore(Path(name))[1]
    assert int(state.counts.env_steps[0]) == 60
    if name == "exp[1]":
        Path(name).rename("exp1")
        assert int(restoring.restore(Path("exp1"))[1].counts.env_steps[0]) == 60


def test_force_goes_on_with_other_settings(toy_config, tmp_path, capsys):
    host.train(toy_config, tmp_path)
    other = replace(toy_config, env_steps=70, agent__tau=0.5)
    with pytest.raises(ConfigError, match=r"agent.tau 0.02 -> 0.5"):
        host.train(other, tmp_path)
    host.train(other, tmp_path, force=True)
    assert "changed: agent.tau 0.02 -> 0.5" in capsys.readouterr().out
    assert rundir.load_config(tmp_path) == other
    with pytest.raises(ConfigError, match="replay_capacity: None -> 90 is not possible"):
        host.train(replace(other, env_steps=80, replay_capacity=90), tmp_path, force=True)


def test_the_policy_for_worlds(monkeypatch, toy_config, tmp_path, capsys):
    monkeypatch.setattr("branchax.build.build", lambda config, world=None: toy_program(config, world, fault_at=33))
    config = replace(toy_config, checkpoint_every=1)
    with pytest.raises(NonFinite, match="returned a non-finite reward at env step 33 of seed 0"):
        host.train(config, tmp_path)
    status = rundir.status(tmp_path)
    assert (status["state"], status["last_good_step"]) == ("failed", 30) and "env step 33" in status["reason"]
    dumped = json.loads((tmp_path / rundir.FAULTS / "world_40_seed0.json").read_text())
    assert (dumped["kind"], dumped["epoch"], dumped["seed"]) == ("world", 2, 0)
    host.train(replace(config, faults__world="drop"), tmp_path)  # a policy may change
    assert "changed: faults.world stop -> drop" in capsys.readouterr().out
    assert rundir.status(tmp_path)["state"] == "done"


def test_a_configuration_survives_its_file(toy_config, tmp_path):
    from branchax.checks import read

    config = replace(toy_config, model__hidden=(3, 4), rollout__ramp=(0, 5), faults__agent="stop", grace=1)
    (tmp_path / "c.json").write_text(json.dumps(to_dict(config)))
    assert read(tmp_path / "c.json") == config
