"""One process at a time in a run's directory.

The lock is the system's (`flock`), so that it is gone when its owner is, however that ended: a dead owner's directory
is simply taken over. The file says who the owner is, for messages only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from branchax.errors import ConfigError

FILE = "lock.json"


def owner(directory: Path) -> str | None:
    """Who is at work in the directory, such as `process 12 on host, since ...`; `None` when nobody is."""
    try:
        descriptor = os.open(directory / FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except OSError:
        return _said(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory that exists. Raises `ConfigError`, which names the owner, when another has it."""
    descriptor = _locked(directory / FILE)
    mine = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps(mine).encode())
    try:
        yield
    finally:
        (directory / FILE).unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock of the file at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = _said(descriptor)
            os.close(descriptor)
            raise ConfigError(f"run: {path.parent} is in use by {said}; name another directory") from None
        except OSError:
            return descriptor  # a file system without locks
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)  # its owner left, and took the file with it, between our two calls


def _said(descriptor: int) -> str:
    """What a lock's file says of its owner."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
