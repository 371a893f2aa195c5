"""One process at a time in a run's directory.

The lock is the system's, so that it is gone when its owner is, however that ended: a dead owner's directory is simply
taken over. A file beside it says who the owner is, for messages only.
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
    """Who is at work in the directory, such as `process 12 on host, since ...`; `None` when nobody is."""
    from filelock import FileLock, Timeout  # not above: `--help` loads this module, and they take a while

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
        for name in (OWNER, FILE):  # while it is held: nobody else's is removed
            with contextlib.suppress(OSError):  # Windows removes the lock's own file once it is released
                (directory / name).unlink()
        lock.release()


def _said(path: Path) -> str:
    """What the owner's file says."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
