"""A lock that lets one process at a time use a run's directory.

It is a lock of the operating system, so it is released whenever its owner ends, even by a crash: the directory of a
dead owner is simply taken over. A file next to it names the owner, for messages only.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from branchax.errors import ConfigError

FILE, OWNER = "run.lock", "lock.json"


def owner(directory: Path) -> str | None:
    """The process that uses the directory, such as `process 12 on host, since ...`; `None` if there is none."""
    from filelock import FileLock, Timeout  # not above: slow to import, and `--help` loads this module

    if not (directory / FILE).exists():
        return None
    try:
        with FileLock(directory / FILE, timeout=0):
            return None
    except Timeout:
        return _said(directory / OWNER)
    except OSError:
        return None


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory that exists. Raises `ConfigError`, which names the owner, when another has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(directory / FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        said = _said(directory / OWNER)
        raise ConfigError(f"run: {directory} is in use by {said}; name another directory") from None
    try:
        mine = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        (directory / OWNER).write_text(json.dumps(mine), encoding="utf-8")
        yield
    finally:
        for name in (OWNER, FILE):  # while the lock is held, so that no other process's files are removed
            with contextlib.suppress(OSError):  # Windows removes the lock's own file once it is released
                (directory / name).unlink()
        lock.release()


def _said(path: Path) -> str:
    """The owner in words, from its file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
