"""What a run shows: plain lines that stay, and on a terminal one live line below them."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from branchax.config import Config
from branchax.host.runlog import LENGTH, MODEL_ERROR, RETURN, RETURN_SPREAD, Row, clock

RECENT = 3  # epochs that the speed is measured over
BAR = 16  # cells


class Progress:
    """The display of one run; a context manager. Everything it is told is a fact, it decides only how to show it."""

    def __init__(self, config: Config, console: Console | None = None) -> None:
        self._config = config
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._steps = "offline" if config.dataset else "env steps"
        self._phase = "starting"
        self._since = self._start = time.perf_counter()
        self._env_steps = 0
        self._compiling: list[str] = []
        self._latest: tuple[float | None, float | None] = (None, None)  # return, model error
        self._recent: deque[tuple[int, float]] = deque([(0, self._start)], maxlen=RECENT + 1)
        self._headed = False
        self._live = Live(get_renderable=self._line, console=self._console, refresh_per_second=6, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._console.print(text, style=style, markup=False)
        self._console.file.flush()

    def phase(self, name: str) -> None:
        """Names what is being done from now on."""
        self._phase = name
        if not self._compiling:
            self._since = time.perf_counter()

    def finished(self, what: str, seconds: float) -> None:
        """Something that comes before training is over, and how long it took."""
        self.say(f"  {what} in {seconds:.1f} s", style="dim")

    def compiling(self, what: str) -> None:
        """A function is being compiled, beside whatever else goes on, until `compiled` says otherwise."""
        if not self._compiling:
            self._since = time.perf_counter()
        self._compiling.append(what)

    def compiled(self, what: str, seconds: float) -> None:
        """The function is ready."""
        self._compiling.remove(what)
        self.finished(f"compiled {what}", seconds)

    def began(self, env_steps: int) -> None:
        """Training starts (again) here; the speed is measured from now on."""
        self._env_steps = env_steps
        self._recent = deque([(env_steps, time.perf_counter())], maxlen=RECENT + 1)

    def advanced(self, rows: list[Row], name: str = "") -> None:
        """One epoch is over, for all seeds of the run, `name` among several. Prints a line if it was evaluated."""
        self._env_steps = clock(rows[0])
        if self._env_steps > self._recent[-1][0]:  # the first run to say so
            self._recent.append((self._env_steps, time.perf_counter()))
        error = _mean(rows, MODEL_ERROR)
        self._latest = (self._latest[0], error)
        if RETURN not in rows[0]:
            return
        self._latest = (_mean(rows, RETURN), error)
        if not self._headed:
            self._headed = True
            spread = "seeds" if len(rows) > 1 else "episodes"
            scores = f"return ± SD of {spread:<8}  length   model error   elapsed"
            self.say(f"\n  {self._steps:>9}   horizon        {scores}", "bold")
        self.say(f"{self._row(rows)}   {name}".rstrip())

    def _row(self, rows: list[Row]) -> str:
        mean, error = self._latest
        spread = (
            rows[0][RETURN_SPREAD]
            if len(rows) == 1
            else float(np.std([np.nan if r[RETURN] is None else r[RETURN] for r in rows]))
        )
        return (
            f"  {self._env_steps:9,d}   {rows[0]['horizon']:7d}   {_number(mean):>12} ± {_number(spread):<14}"
            f"  {_number(_mean(rows, LENGTH)):>7}   {_number(error):>11}   {_clock(rows[0]['wall_s']):>7}"
        )

    def _line(self) -> Any:
        """The live line; what matters least comes last, where a narrow terminal cuts it off."""
        now, total = time.perf_counter(), self._config.env_steps
        doing = f"compiling {', '.join(self._compiling)}" if self._compiling else self._phase
        parts = [f"{doing} {_clock(now - self._since)}"]
        if self._env_steps:
            full = round(min(self._env_steps / total, 1.0) * BAR)
            parts = [f"{doing} {'━' * full}{'╌' * (BAR - full)} {self._env_steps:,}/{total:,} {self._steps}"]
            (first, begun), (last, ended) = self._recent[0], self._recent[-1]
            if last > first:
                rate = (last - first) / (ended - begun)
                parts += [f"{_clock(max(0.0, (total - last) / rate - (now - ended)))} left", f"{rate:,.0f} steps/s"]
            names = ("return", "model error")
            parts += [f"{name} {_number(x)}" for name, x in zip(names, self._latest, strict=True) if x is not None]
        line = Table.grid(padding=(0, 1))
        line.add_row(Spinner("dots", style="cyan"), Text(" · ".join(parts), overflow="ellipsis", no_wrap=True))
        return line


def _mean(rows: list[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def _number(value: float | None) -> str:
    """At most four digits that matter."""
    if value is None or not np.isfinite(value):
        return "-" if value is None else "nan"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
