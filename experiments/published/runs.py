"""Running seeds: a process for each on a CPU, side by side in one program on an accelerator; with a limit if wanted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from branchax.runs.signals import Preempted
from experiments.published.curves import DONE, RUNNING, Found
from experiments.published.plan import RUNS, SAVED_EVERY, Arm, config_of, directory_of


def take_core(folder: Path = RUNS) -> Any:
    """Keeps this process, and what it starts, to one core that no other run has taken; before JAX has a device.

    Returns what must be kept for as long as the core is; None when all are taken or the system has no such thing.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for core in sorted(os.sched_getaffinity(0)):
        file = (folder / f".core{core}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        os.sched_setaffinity(0, {core})
        return file
    return None


def train_seeds(
    arm: Arm,
    first: int,
    count: int = 1,
    every: int | None = None,
    folder: Path = RUNS,
    saved: int = SAVED_EVERY,
    workers: int = 0,
) -> Path:
    """Trains seeds in one program in this process, or goes on with them; the arguments are those of `config_of`.

    `workers` processes step the environments, with the same numbers as this one (0).

    Raises as `branchax.runs.train.train` does.
    """
    from branchax.runs.train import train  # JAX

    command = f"python -m experiments.published --task {arm.task} --preset {arm.method} --steps {arm.env_steps}"
    config = replace(config_of(arm, first, count, every, saved), env_workers=workers)
    return train(config, directory_of(arm, first, count, folder), f"{command} --seed {first}")


def missing(states: dict[int, str], runs: list[Found], side_by_side: bool) -> list[tuple[int, int]]:
    """What is left to run, as (first seed, seeds in one program): runs that were begun as they are, then the others.

    Args:
      states: how each wanted seed is doing.
      runs: the directories that there are.
      side_by_side: whether seeds that were not begun share a program.
    """
    left = [seed for seed, state in states.items() if state not in (DONE, RUNNING)]
    begun = [run for run in runs if any(run.first <= seed < run.first + run.count for seed in left)]
    taken = {seed for run in begun for seed in range(run.first, run.first + run.count)}
    parts: list[tuple[int, int]] = []
    for seed in (seed for seed in left if seed not in taken):
        if side_by_side and parts and sum(parts[-1]) == seed:
            parts[-1] = (parts[-1][0], parts[-1][1] + 1)
        else:
            parts.append((seed, 1))
    return [(run.first, run.count) for run in begun] + parts


def run_processes(arm: Arm, parts: list[tuple[int, int]], jobs: int, every: int | None) -> int:
    """Runs the parts, a process for each, at most `jobs` at once; returns the worst exit code.

    Raises `Preempted` when it was asked to end, once all have saved.
    """
    from branchax.sweeps.launch import launch

    base = [sys.executable, "-m", "experiments.published", "--task", arm.task, "--preset", arm.method]
    base += ["--steps", str(arm.env_steps), *(["--every", str(every)] if every else [])]
    commands = [[*base, "--seed", str(first), "--together", str(count)] for first, count in parts]
    return max((code if code >= 0 else 1 for code in launch(commands, jobs)), default=0)  # below 0: killed


@contextlib.contextmanager
def limited(minutes: float) -> Iterator[None]:
    """Asks what runs within to end well after so many minutes, as SIGTERM would: a run saves, and goes on next time.

    Raises `Preempted` where nothing else hears the signal.
    """

    def over(number: int, frame: Any) -> None:
        raise Preempted("the time is up")

    before = signal.signal(signal.SIGTERM, over)
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
