"""SIGTERM, Ctrl-C and the like: the first asks a run to end well, a second Ctrl-C ends it at once.

SIGHUP says that the terminal is gone, SIGUSR1 is how schedulers warn; one that is ignored (`nohup`) stays so.

Python runs a handler between two steps of the main thread only, so that thread must never wait in compiled code: it
waits for futures (`wait`), which it does in short naps.
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
    """A run was asked to end before it was done; the same command goes on with it."""

    exit_code = 75  # EX_TEMPFAIL: try again


class Stop:
    """What the signals ask for. Outside of `deferred` the first one raises `Preempted` where the main thread is."""

    def __init__(self, grace: float) -> None:
        self.asked = ""  # the name of the first signal
        self.grace = grace  # seconds
        self.say: Callable[[str], Any] = lambda text: None  # hears, once, that a signal was heard and what follows
        self._said = False
        self._since = 0.0
        self._deferring = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals, in the main thread; elsewhere they stay with whoever owns that thread."""
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
        """The first signal only sets `asked`, and whoever runs this looks at it."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def wait(self, future: concurrent.futures.Future) -> Any:
        """The result of a future. Raises `Preempted` when a signal came and it is not there within the grace period."""
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
