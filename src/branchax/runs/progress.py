"""The terminal output of a run: plain lines that stay, and in a terminal two live lines below, up to 80 columns wide.

    ⠋ training ━━━━╌╌╌╌╌╌ 1,750/4,000 env steps · 1:32 left · 24 steps/s
      return 812.3 ▁▁▂▅▇█▇ · model error 0.0123 · horizon 5

The first line shows the progress, the second the results. The bars next to the return are the latest evaluations,
scaled from the lowest to the highest of them.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from branchax.config import Config
from branchax.runs.runlog import LENGTH, MODEL_ERROR, RETURN, RETURN_SPREAD, Row, clock

RECENT = 3  # the speed is measured over so many epochs
BAR = 10  # cells
TREND = 12  # number of evaluations to draw
LEVELS = "▁▂▃▄▅▆▇█"


class Progress:
    """The display of one run; a context manager. Its methods receive facts, and it only decides how to show them."""

    def __init__(
        self, config: Config, console: Console | None = None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._config = config
        self._now = now
        self._console = console or _console()
        self._steps = "offline" if config.dataset else "env steps"
        self._phase = "starting"
        self._since = now()
        self._env_steps = 0
        self._compiling: list[str] = []
        self._name = ""  # of the run that spoke last, among several
        self._returns: dict[str, list[float]] = {}  # lists are replaced, not changed: another thread draws them
        self._model_error: float | None = None
        self._horizon = 0
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT + 1)  # empty until training begins
        self._headed = False
        self._live = Live(get_renderable=self._lines, console=self._console, refresh_per_second=6, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Prints a line that stays."""
        self._console.print(text, style=style, markup=False)
        self._console.file.flush()

    def phase(self, name: str) -> None:
        """Sets the name of the current phase."""
        self._phase = name
        if not self._compiling:
            self._since = self._now()

    def finished(self, what: str, seconds: float) -> None:
        """Reports that a step before training has ended, and how long it took."""
        self.say(f"  {what} in {seconds:.1f} s", style="dim")

    def compiling(self, what: str) -> None:
        """Starts to show that a function is being compiled, until `compiled` is called."""
        if not self._compiling:
            self._since = self._now()
        self._compiling.append(what)

    def compiled(self, what: str, seconds: float) -> None:
        """Reports that a function is compiled."""
        self._compiling.remove(what)
        self.finished(f"compiled {what}", seconds)

    def began(self, env_steps: int) -> None:
        """Marks the start of training (again); the speed is measured from now on."""
        self._env_steps = env_steps
        self._recent = deque([(env_steps, self._now())], maxlen=RECENT + 1)

    def advanced(self, rows: list[Row], name: str = "") -> None:
        """Reports the end of an epoch for all seeds of a run. `name` is the run's, if there are several runs.

        Prints a line if the epoch was evaluated.
        """
        self._env_steps, self._name, self._horizon = clock(rows[0]), name, rows[0]["horizon"]
        if self._recent and self._env_steps > self._recent[-1][0]:  # only the first run to report
            self._recent.append((self._env_steps, self._now()))
        self._model_error = _mean(rows, MODEL_ERROR)
        if RETURN not in rows[0]:
            return
        mean = _mean(rows, RETURN)
        self._returns[name] = [*self._returns.get(name, []), np.nan if mean is None else mean][-TREND:]
        if not self._headed:
            self._headed = True
            spread = "seeds" if len(rows) > 1 else "episodes"
            scores = f"return ± SD of {spread:<8}  length  model error  elapsed"
            self.say(f"\n  {self._steps:>9}  horizon      {scores}", "bold")
        self.say(f"{self._row(rows, mean)}  {name}".rstrip())

    def _row(self, rows: list[Row], mean: float | None) -> str:
        spread = (
            rows[0][RETURN_SPREAD]
            if len(rows) == 1
            else float(np.std([np.nan if r[RETURN] is None else r[RETURN] for r in rows]))
        )
        return (
            f"  {self._env_steps:9,d}  {self._horizon:7d}  {number(mean):>10} ± {number(spread):<14}"
            f"  {number(_mean(rows, LENGTH)):>6}  {number(self._model_error):>11}  {elapsed(rows[0]['wall_s']):>7}"
        )

    def _lines(self) -> Table:
        """The live lines. In each, the least important part is last, because a narrow terminal cuts it off."""
        lines = Table.grid(padding=(0, 1))
        lines.add_row(Spinner("dots", style="cyan"), _joined(self._work()))
        if found := self._found():
            lines.add_row("", _joined(found))
        return lines

    def _work(self) -> list[str]:
        """The current phase, the progress, and the time left."""
        now, total = self._now(), self._config.env_steps
        doing = f"compiling {', '.join(self._compiling)}" if self._compiling else self._phase
        if self._compiling or not self._env_steps:
            doing = f"{doing} {elapsed(now - self._since)}"
        if not self._env_steps:
            return [doing]
        full = round(min(self._env_steps / total, 1.0) * BAR)
        parts = [f"{doing} {'━' * full}{'╌' * (BAR - full)} {self._env_steps:,}/{total:,} {self._steps}"]
        if len(self._recent) > 1:
            (first, begun), (last, ended) = self._recent[0], self._recent[-1]
            rate = (last - first) / (ended - begun)
            speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            parts += [f"{elapsed(max(0.0, (total - last) / rate - (now - ended)))} left", f"{speed} steps/s"]
        return parts

    def _found(self) -> list[str]:
        """The results so far: the return and its trend, the model's error, the horizon of rollouts."""
        parts, returns = [], self._returns.get(self._name)
        if returns:
            trend = f" {sparkline(returns)}" if len(returns) > 1 else ""
            parts.append(f"return {number(returns[-1])}{trend}")
        if self._model_error is not None:
            parts.append(f"model error {number(self._model_error)}")
        return [*parts, f"horizon {self._horizon}"] if self._horizon else parts


def _console() -> Console:
    """The terminal, or in a notebook plain text: rich would make a separate output of each line there."""
    found = Console(highlight=False, soft_wrap=True)
    if not found.is_jupyter:
        return found
    return Console(highlight=False, soft_wrap=True, force_jupyter=False, force_terminal=False)


def called() -> str:
    """How to call this command line, so that suggested commands can be pasted: `branchax` if it is on the PATH,
    otherwise the path by which it was called, such as `.venv/bin/branchax`."""
    if shutil.which("branchax"):
        return "branchax"
    this = Path(sys.argv[0])
    if this.name == "__main__.py":
        return f"{sys.executable} -m branchax"
    return str(this) if this.stem == "branchax" else "branchax"


def advised(*words: str | Path) -> str:
    """A command of this library that can be pasted into a shell, whatever is in its words."""
    return f"{called()} {shlex.join(map(str, words))}"


def fallen(means: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """The best evaluation (env steps, return), the latest of equal ones, if the last is much worse: by a tenth of
    what lies between the best and the worst."""
    finite = [mean for mean in means if np.isfinite(mean[1])]
    if not finite:
        return None
    best = max(finite, key=lambda mean: (mean[1], mean[0]))
    worst = min(value for _, value in finite)
    return best if best[1] - means[-1][1] > 0.1 * (best[1] - worst) else None


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, from the lowest to the highest of them; a cross where it is not finite."""
    finite = [value for value in values if np.isfinite(value)]
    low = min(finite, default=0.0)
    scale = (len(LEVELS) - 1) / (max(finite, default=0.0) - low or 1.0)
    return "".join(LEVELS[round((value - low) * scale)] if np.isfinite(value) else "×" for value in values)


def _joined(parts: list[str]) -> Text:
    return Text(" · ".join(parts), overflow="ellipsis", no_wrap=True)


def _mean(rows: list[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def number(value: float | None) -> str:
    """A number as text, rounded to the digits that matter."""
    if value is None or not np.isfinite(value):
        return "-" if value is None else "nan"
    if abs(value) >= 1e6:
        return f"{value:.5g}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def elapsed(seconds: float) -> str:
    """Minutes and seconds, with hours if needed: `1:05`."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
