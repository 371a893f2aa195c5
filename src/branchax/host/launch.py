"""Where the processes of a sweep run: on this machine, or as jobs of a cluster's scheduler.

Each command is a run in a directory of its own, and the same command again goes on where that run stopped. So nothing
is kept about jobs: a sweep whose launcher was stopped, or whose jobs were preempted, is launched again.
"""

from __future__ import annotations

import importlib.util
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from branchax.config import ConfigError, nearest

LAUNCHERS = ("local", "submitit")
POLL = 1.0  # seconds between two looks at jobs


class Command(NamedTuple):
    """A command as submitit wants it: something to call, and what to do when the job is preempted or timed out."""

    words: tuple[str, ...]

    def __call__(self) -> int:
        """Runs the command and returns its exit code."""
        return subprocess.run(self.words, check=False).returncode

    def checkpoint(self) -> Any:
        """The same command again: its run has saved what it needs to go on."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        return DelayedSubmission(self)


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
    """
    settings = settings or {}
    check(launcher, settings)
    if launcher == "local":
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(lambda words: Command(tuple(words))(), commands))
    return _by_submitit([Command(tuple(words)) for words in commands], jobs, folder, settings)


def _by_submitit(commands: list[Command], jobs: int, folder: Path, settings: dict[str, str]) -> list[int]:
    import submitit  # pyright: ignore[reportMissingImports]  # an extra

    settings = dict(settings)
    executor = submitit.AutoExecutor(folder=folder, cluster=settings.pop("cluster", None))
    numbers = {name: int(value) if value.isdecimal() else value for name, value in settings.items()}
    try:
        executor.update_parameters(**({"name": "branchax", "timeout_min": 24 * 60} | numbers))
    except (NameError, TypeError, ValueError) as error:  # whatever the executor makes of them
        raise ConfigError(f"launch: {str(error).strip()}") from error
    submitted: list[Any] = []
    try:
        while len(submitted) < len(commands) or not all(job.done() for job in submitted):
            running = sum(not job.done() for job in submitted)
            if len(submitted) < len(commands) and running < jobs:
                submitted.append(executor.submit(commands[len(submitted)]))
            else:
                time.sleep(POLL)
    except BaseException:
        for job in submitted:
            job.cancel()
        raise
    return [_code(job) for job in submitted]


def _code(job: Any) -> int:
    """The exit code of a job's command; 1 when the job itself came to nothing, which it then says."""
    error = job.exception()
    if error is None:
        return job.result()
    print(f"job {job.job_id}: {type(error).__name__}: see {job.paths.stderr}", flush=True)
    return 1
