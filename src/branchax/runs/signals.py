"""SIGTERM, Ctrl-C and similar signals: the first one asks a run to save and stop, a second Ctrl-C stops it immediately.

SIGHUP means that the terminal is closed, and schedulers send SIGUSR1 as a warning. A signal that is ignored (`nohup`)
stays ignored.

Python runs signal handlers only between two steps of the main thread. So the main thread must never wait in compiled
code: it waits for futures (`wait`), in short naps.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from branchax.errors import RunError

NAP = 0.2  # seconds
NAMES = {
    getattr(signal, name): "Ctrl-C" if name == "SIGINT" else name
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # Windows lacks the last two
}


class Preempted(RunError):
    """A run was asked to stop before it was done; the same command continues it."""

    exit_code = 75  # EX_TEMPFAIL: try again


class Stop:
    """Keeps track of signals. Outside `deferred`, the first one raises `Preempted` in the main thread."""

    def __init__(self, grace: float) -> None:
        self.asked = ""  # the name of the first signal
        self.grace = grace  # seconds
        self.say: Callable[[str], Any] = lambda text: None  # called once, with a message about the first signal
        self._said = False
        self._since = 0.0
        self._deferring = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals. In another thread than the main one it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in NAMES if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal only sets `asked`; the caller has to check it."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def wait(self, future: concurrent.futures.Future) -> Any:
        """Waits for the result of a future. Raises `Preempted` if the grace period after a signal ends before that."""
        while not concurrent.futures.wait([future], NAP).done:
            if self.asked and not self._said:
                self._said = True
                within = f" (within {self.grace:g} s)" if math.isfinite(self.grace) else ""
                self.say(f"  {self.asked}: stopping after this epoch{within}; Ctrl-C again stops at once")
            if self.asked and time.monotonic() - self._since > self.grace:
                raise Preempted(f"stopped by {self.asked}: the epoch did not end within {self.grace:g} s")
        return future.result()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked, self._since = NAMES[signal.Signals(number)], time.monotonic()
        if not self._deferring:
            raise Preempted(f"stopped by {self.asked} before there was anything new to save")
