"""Runs the processes of a sweep, on this machine or as jobs of a cluster's scheduler.

A command trains a group of runs; the same command again resumes them. So no state of jobs is stored: if the launcher is
stopped or jobs are preempted, launch the sweep again. A launcher that is stopped also stops its processes, and waits
until they have saved.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from branchax.errors import ConfigError, nearest
from branchax.runs.signals import Preempted, Stop

LAUNCHERS = ("local", "submitit")
POLL = 0.5  # seconds between checks for finished processes
AGAIN = 5.0  # seconds until a process that still runs is asked to end again (it may have started just now)
PATIENCE = 120.0  # seconds in which cancelled jobs must end


class Launcher(NamedTuple):
    """How commands are run. `over`, `end` and `code` take the handle that `start` returns."""

    start: Callable[[Command], Any]
    over: Callable[[Any], bool]
    end: Callable[[Any], Any]  # asks the command to save and exit
    code: Callable[[Any], int]  # the exit code after the end
    patience: float = math.inf  # seconds to wait for the end


@dataclass
class Command:
    """A command in the form that submitit needs: `__call__` runs it, `checkpoint` handles preemption and timeouts."""

    words: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = field(default=None, compare=False)

    def __call__(self) -> int:
        """Runs the command and returns its exit code. Passes SIGTERM and Ctrl-C on to it, and waits for its end."""
        stop = Stop(math.inf)
        with stop.handled(), stop.deferred():
            _all([self], 1, HERE, stop)
        return Preempted.exit_code if self.process is None else self.process.returncode

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the command."""
        self.process = subprocess.Popen(self.words)
        return self.process

    def checkpoint(self) -> Any:
        """Stops the command, waits until its run has saved, and submits the command again."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        return DelayedSubmission(Command(self.words))


HERE = Launcher(Command.start, lambda x: x.poll() is not None, subprocess.Popen.terminate, subprocess.Popen.wait)


def check(launcher: str, settings: dict[str, str]) -> None:
    """Raises `ConfigError` if the launcher is unknown or not installed, or does not take these settings."""
    if launcher not in LAUNCHERS:
        known = ", ".join(LAUNCHERS)
        raise ConfigError(f"launcher: {launcher!r} is unknown{nearest(launcher, LAUNCHERS)}; allowed: {known}")
    if launcher == "local" and settings:
        raise ConfigError(f"launch: {next(iter(settings))} is not possible; allowed: with --launcher submitit only")
    if launcher == "submitit" and importlib.util.find_spec("submitit") is None:
        raise ConfigError("launcher: submitit is not installed: pip install 'branchax[cluster]'")


def launch(
    commands: Sequence[Sequence[str]],
    jobs: int,
    launcher: str = "local",
    folder: Path = Path("jobs"),
    settings: dict[str, str] | None = None,
) -> list[int]:
    """Runs the commands, at most `jobs` at a time, and returns their exit codes.

    Args:
      commands: the commands, each as a list of words.
      jobs: largest number of commands running at once.
      launcher: one of `LAUNCHERS`; submitit uses Slurm if available, else processes of this machine.
      folder: submitit's folder for submissions and output of the jobs.
      settings: of submitit's executor, such as `{"timeout_min": "240", "gpus_per_node": "1"}`.

    Raises:
      ConfigError: as `check` does, and for settings that the executor refuses.
      Preempted: after SIGTERM or Ctrl-C, when the started commands have ended. A second Ctrl-C stops at once.
    """
    settings = settings or {}
    check(launcher, settings)
    there = HERE if launcher == "local" else _submitit(folder, settings)
    stop = Stop(math.inf)
    with stop.handled(), stop.deferred():
        started = _all([Command(tuple(words)) for words in commands], jobs, there, stop)
    if not stop.asked:
        return [there.code(x) for x in started]
    left = [str(x.job_id) for x in started if not there.over(x)]  # only jobs: processes have ended
    still = f"; these jobs were cancelled and still run: {', '.join(left)}" if left else ""
    raise Preempted(f"stopped by {stop.asked}{still}")


def _all(commands: Sequence[Command], jobs: int, there: Launcher, stop: Stop) -> list[Any]:
    """Runs all commands, at most `jobs` at a time, and returns their handles.

    When `stop` is asked, it starts no more commands and ends those that run.
    """
    waiting, started = list(commands), []
    again, deadline = -math.inf, math.inf
    try:
        while True:
            running, now = [x for x in started if not there.over(x)], time.monotonic()
            waiting = [] if stop.asked else waiting
            if not (running or waiting) or now > deadline:
                return started
            if waiting and len(running) < jobs:
                started.append(there.start(waiting.pop(0)))
                continue
            if stop.asked and now > again:
                again, deadline = now + AGAIN, min(deadline, now + there.patience)
                for x in running:
                    there.end(x)
            time.sleep(POLL)
    except BaseException:
        for x in started:
            if not there.over(x):
                there.end(x)
        raise


def _submitit(folder: Path, settings: dict[str, str]) -> Launcher:
    """A launcher for jobs of the cluster's scheduler. Raises `ConfigError` for settings that the executor refuses."""
    import submitit  # pyright: ignore[reportMissingImports]  # an extra

    settings = dict(settings)
    executor = submitit.AutoExecutor(folder=folder, cluster=settings.pop("cluster", None))
    numbers = {name: int(value) if value.isdecimal() else value for name, value in settings.items()}
    try:
        executor.update_parameters(**({"name": "branchax", "timeout_min": 24 * 60} | numbers))
    except (NameError, TypeError, ValueError) as error:  # the executor's ways of refusing settings
        raise ConfigError(f"launch: {str(error).strip()}") from error

    def end(job: Any) -> None:
        if executor.cluster == "local":  # its own `cancel` kills the process after one second
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        else:
            job.cancel(check=False)

    return Launcher(executor.submit, lambda job: job.done(), end, _code, PATIENCE)


def _code(job: Any) -> int:
    """The exit code of a job's command; if the job itself failed, prints why and returns 1."""
    error = job.exception()
    if error is None:
        return job.result()
    print(f"job {job.job_id}: {type(error).__name__}: see {job.paths.stderr}", flush=True)
    return 1
