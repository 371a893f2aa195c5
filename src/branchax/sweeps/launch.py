"""Where the processes of a sweep run: on this machine, or as jobs of a cluster's scheduler.

Each command is a group of runs, each in a directory of its own, and the same command again goes on where they stopped.
So nothing is kept about jobs: a sweep whose launcher was stopped, or whose jobs were preempted, is launched again. A
launcher that is stopped stops what it has started, and waits until that has saved.
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
POLL = 0.5  # seconds between two looks at what runs
AGAIN = 5.0  # seconds after which what was asked to end, and still runs, is asked again: it may not have listened yet
PATIENCE = 120.0  # seconds that jobs have to end in


class Launcher(NamedTuple):
    """Who runs commands: what he does, with what `start` returns."""

    start: Callable[[Command], Any]
    over: Callable[[Any], bool]
    end: Callable[[Any], Any]  # asks it to end well
    code: Callable[[Any], int]  # the exit code of one that is over
    patience: float = math.inf  # seconds that it has to end in


@dataclass
class Command:
    """A command as submitit wants it: something to call, and what to do when the job is preempted or timed out."""

    words: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = field(default=None, compare=False)

    def __call__(self) -> int:
        """Runs the command and returns its exit code. SIGTERM and Ctrl-C are passed on, and its end is waited for."""
        stop = Stop(math.inf)
        with stop.handled(), stop.deferred():
            _all([self], 1, HERE, stop)
        return Preempted.exit_code if self.process is None else self.process.returncode

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the command."""
        self.process = subprocess.Popen(self.words)
        return self.process

    def checkpoint(self) -> Any:
        """The same command again, once its run has saved what it needs to go on."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        return DelayedSubmission(Command(self.words))


HERE = Launcher(Command.start, lambda x: x.poll() is not None, subprocess.Popen.terminate, subprocess.Popen.wait)


def check(launcher: str, settings: dict[str, str]) -> None:
    """Raises `ConfigError` for a launcher that is unknown or not installed, or settings that it does not take."""
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
      commands: what to run, word by word.
      jobs: how many may run at once.
      launcher: one of `LAUNCHERS`; submitit uses Slurm where there is one, else processes of this machine.
      folder: where submitit keeps what it submits and what the jobs print.
      settings: of submitit's executor, such as `{"timeout_min": "240", "gpus_per_node": "1"}`.

    Raises:
      ConfigError: as `check` does, and for settings that the executor refuses.
      Preempted: when SIGTERM or Ctrl-C asked it to end, once what it had started is over. The second Ctrl-C ends it at
        once.
    """
    settings = settings or {}
    check(launcher, settings)
    there = HERE if launcher == "local" else _submitit(folder, settings)
    stop = Stop(math.inf)
    with stop.handled(), stop.deferred():
        started = _all([Command(tuple(words)) for words in commands], jobs, there, stop)
    if not stop.asked:
        return [there.code(x) for x in started]
    left = [str(x.job_id) for x in started if not there.over(x)]  # jobs: processes were waited for
    still = f"; these jobs were cancelled and still run: {', '.join(left)}" if left else ""
    raise Preempted(f"stopped by {stop.asked}{still}")


def _all(commands: Sequence[Command], jobs: int, there: Launcher, stop: Stop) -> list[Any]:
    """Starts all commands, no more at a time than `jobs`, and returns when they are over.

    Once `stop` was asked, no more are started, and those that run are ended.
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
    """Jobs of the cluster's scheduler. Raises `ConfigError` for settings that the executor refuses."""
    import submitit  # pyright: ignore[reportMissingImports]  # an extra

    settings = dict(settings)
    executor = submitit.AutoExecutor(folder=folder, cluster=settings.pop("cluster", None))
    numbers = {name: int(value) if value.isdecimal() else value for name, value in settings.items()}
    try:
        executor.update_parameters(**({"name": "branchax", "timeout_min": 24 * 60} | numbers))
    except (NameError, TypeError, ValueError) as error:  # whatever the executor makes of them
        raise ConfigError(f"launch: {str(error).strip()}") from error

    def end(job: Any) -> None:
        if executor.cluster == "local":  # whose own way kills what has not ended within a second
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        else:
            job.cancel(check=False)

    return Launcher(executor.submit, lambda job: job.done(), end, _code, PATIENCE)


def _code(job: Any) -> int:
    """The exit code of a job's command; 1 when the job itself came to nothing, which it then says."""
    error = job.exception()
    if error is None:
        return job.result()
    print(f"job {job.job_id}: {type(error).__name__}: see {job.paths.stderr}", flush=True)
    return 1
