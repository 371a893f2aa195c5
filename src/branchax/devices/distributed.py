"""One run by several processes, on one host or many, over `jax.distributed`.

Every process runs the same command and computes its share of the same programs; all of them see one file system. All
write checkpoints, through Orbax; the first alone writes everything else and talks. When one dies the others cannot go
on: they stop within two minutes and say why, and the whole run is started again.
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

SILENCE = 60  # seconds without a sign of life after which a process counts as dead
START = 300  # seconds in which all processes have to have come up


class PeerLost(RunError):
    """A computation that all processes share could not be finished: one of them is gone."""


@dataclass(frozen=True)
class Processes:
    """Which processes take part in a run; by default this one alone."""

    distributed: Literal["off", "auto"] = "off"
    """`auto`: several processes, as Slurm, Open MPI or a TPU pod says. Elsewhere, give the next three."""
    coordinator: str | None = None
    """`host:port` of the first process, which the others can reach."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    processes: int | None = None
    """How many there are."""


def check(options: Processes, named: bool) -> None:
    """Raises `ConfigError` for options that cannot work; `named` says whether a run directory was given."""
    explicit = {"coordinator": options.coordinator, "process-id": options.process_id, "processes": options.processes}
    given = [name for name, value in explicit.items() if value is not None]
    if options.distributed == "auto" and given:
        raise ConfigError(f"distributed: auto finds out {given[0]} by itself; give one of the two")
    if not given and options.distributed == "off":
        return
    if not named:
        raise ConfigError("run: missing; several processes need one directory that all of them see: --run DIR")
    if options.distributed == "auto":
        return
    if missing := sorted(explicit.keys() - set(given)):
        raise ConfigError(f"{missing[0]}: missing; --coordinator, --process-id and --processes go together")
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
      RunError: when the others do not come up in time.
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
        raise ConfigError(f"distributed: no scheduler says how many processes there are ({error})") from error
    except RuntimeError as error:
        raise RunError(f"cannot join the other processes within {START} s: {_first_line(error)}") from error


def count() -> int:
    """How many processes take part."""
    import jax

    return jax.process_count()


def leads() -> bool:
    """Whether this is the process that writes and talks for all."""
    import jax

    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns once every process is at the same place, `where`. Raises `PeerLost` when one never will be."""
    if count() > 1:
        from jax.experimental import multihost_utils

        with together():
            multihost_utils.sync_global_devices(where)


def any_of(flag: bool) -> bool:
    """Whether `flag` holds in any process, the same answer in all: so that all stop after the same epoch."""
    if count() == 1:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    with together():
        return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_first(number: int | None) -> int | None:
    """What the first process has found, in all of them."""
    if count() == 1:
        return number
    import numpy as np
    from jax.experimental import multihost_utils

    with together():
        found = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if number is None else number)))
    return None if found < 0 else found


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around what processes compute together: what the runtime raises when one of them is gone becomes `PeerLost`."""
    import jax

    try:
        yield
    except Exception as error:
        cause: BaseException | None = error  # Orbax raises its own from the runtime's
        while cause is not None and not _of_runtime(cause):
            cause = cause.__cause__
        if count() == 1 or cause is None or isinstance(error, PeerLost):
            raise
        raise PeerLost(
            f"process {jax.process_index()} of {count()} cannot go on without the others: {_first_line(cause)}."
            " Start all of them again: they go on from the last checkpoint"
        ) from error


def _of_runtime(error: BaseException) -> bool:
    """Whether the runtime lost a process: where an array is read, that is a `ValueError` that begins with a status."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):  # these two are a process' own
        return not str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
    return (
        isinstance(error, ValueError) and re.match("(UNKNOWN|UNAVAILABLE|ABORTED|INTERNAL): ", str(error)) is not None
    )


def leave(code: int) -> None:
    """Ends a process whose run failed, at once when there are others: they may never come to a common goodbye."""
    jax = sys.modules.get("jax")
    if code and jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
