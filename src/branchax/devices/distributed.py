"""One run with several processes, on one host or many, over `jax.distributed`.

Every process runs the same command, computes its part of the same programs, and sees the same file system. All write
checkpoints, through Orbax; only the first writes other files and prints. If one dies, the others cannot continue: they
stop within two minutes with a message, and the whole run must be started again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from branchax.errors import ConfigError, RunError

SILENCE = 60  # seconds without a heartbeat after which a process counts as dead
START = 300  # seconds in which all processes must have joined


class PeerLost(RunError):
    """A computation shared by all processes failed, because one of them is gone."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run; by default only this one."""

    distributed: Literal["off", "auto"] = "off"
    """`auto`: use the processes of Slurm, Open MPI or a TPU pod. Without these, give the next three options."""
    coordinator: str | None = None
    """`host:port` of the first process; the others must be able to reach it."""
    process_id: int | None = None
    """Number of this process, from 0."""
    processes: int | None = None
    """Number of processes."""


def check(options: Processes, named: bool) -> None:
    """Raises `ConfigError` for options that cannot work; `named` says whether a run directory was given."""
    explicit = {"coordinator": options.coordinator, "process-id": options.process_id, "processes": options.processes}
    given = [name for name, value in explicit.items() if value is not None]
    if options.distributed == "auto" and given:
        raise ConfigError(f"distributed: auto already sets {given[0]}; give only one of them")
    if not given and options.distributed == "off":
        return
    if not named:
        raise ConfigError("run: missing; several processes need a directory that all of them can see: --run DIR")
    if options.distributed == "auto":
        return
    if missing := sorted(explicit.keys() - set(given)):
        raise ConfigError(f"{missing[0]}: missing; --coordinator, --process-id and --processes are needed together")
    host, _, port = str(options.coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"coordinator: {options.coordinator!r} is not possible; allowed: host:port")
    assert options.processes is not None and options.process_id is not None
    if options.processes < 1:
        raise ConfigError(f"processes: {options.processes} is not possible; allowed: >= 1")
    if not 0 <= options.process_id < options.processes:
        last = options.processes - 1
        raise ConfigError(f"process-id: {options.process_id} is not possible; allowed: 0 to {last}")


def start(options: Processes) -> None:
    """Joins the other processes, before JAX looks for devices.

    Raises:
      ConfigError: when `auto` finds no scheduler.
      RunError: when the others do not join in time.
    """
    if options.distributed == "off" and options.coordinator is None:
        return
    import jax  # not above: the command line refuses bad settings before it loads JAX

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process_id,
            cluster_detection_method=None if options.distributed == "auto" else "deactivate",
            initialization_timeout=START,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=SILENCE,
        )
    except ValueError as error:
        raise ConfigError(f"distributed: auto found no scheduler (Slurm, Open MPI or TPU pod): {error}") from error
    except RuntimeError as error:
        raise RunError(f"cannot join the other processes within {START} s: {_first_line(error)}") from error


def count() -> int:
    """The number of processes."""
    import jax

    return jax.process_count()


def leads() -> bool:
    """Whether this is the first process, which writes files and prints for all."""
    import jax

    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Waits until every process has reached the same place, `where`. Raises `PeerLost` if one is gone."""
    if count() > 1:
        from jax.experimental import multihost_utils

        with together():
            multihost_utils.sync_global_devices(where)


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process. The answer is the same in all, so that all stop after the same epoch."""
    if count() == 1:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    with together():
        return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_first(number: int | None) -> int | None:
    """The first process's `number`, returned in all processes."""
    if count() == 1:
        return number
    import numpy as np
    from jax.experimental import multihost_utils

    with together():
        found = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if number is None else number)))
    return None if found < 0 else found


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turns the runtime's errors about a lost process into `PeerLost`."""
    import jax

    try:
        yield
    except Exception as error:
        cause: BaseException | None = error  # Orbax raises its own error from the runtime's
        while cause is not None and not _of_runtime(cause):
            cause = cause.__cause__
        if count() == 1 or cause is None or isinstance(error, PeerLost):
            raise
        raise PeerLost(
            f"process {jax.process_index()} of {count()} cannot go on without the others: {_first_line(cause)}."
            " Start all of them again: they resume from the last checkpoint"
        ) from error


def _of_runtime(error: BaseException) -> bool:
    """Whether the runtime lost a process. Reading an array then raises a `ValueError` that begins with a status."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):  # these two statuses do not mean a lost process
        return not str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
    return (
        isinstance(error, ValueError) and re.match("(UNKNOWN|UNAVAILABLE|ABORTED|INTERNAL): ", str(error)) is not None
    )


def leave(code: int) -> None:
    """Ends a failed process, at once if there are others: they might never reach the shutdown barrier."""
    jax = sys.modules.get("jax")
    if code and jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
