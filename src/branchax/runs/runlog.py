"""`metrics.jsonl`: one JSON object per line, one row per epoch and seed, flushed after each write.

Every row has `seed`, `env_steps`, `model_steps`, `updates`, `epoch`, `wall_s`, `horizon` and the epoch's metrics
("part/what"); after an evaluation it also has `eval/return_mean`, `eval/return_std` and `eval/length_mean`. Numbers
that are not finite are written as `null`. Offline, `env_steps` is 0 and `offline_steps` is the step in the schedule.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from branchax.errors import RunError
from branchax.runs import rundir

RETURN = "eval/return_mean"
RETURN_SPREAD = "eval/return_std"
LENGTH = "eval/length_mean"
MODEL_ERROR = "model/holdout_error"
OFFLINE = "offline_steps"  # the position in the schedule of a run without env steps
SKIPPED = ("seed", "env_steps", OFFLINE)  # axes and labels of curves, not curves themselves

Row = dict[str, Any]


def clock(row: Row) -> int:
    """How far a run was when it wrote a row: its env steps, or `offline_steps` in an offline run."""
    return row.get(OFFLINE, row["env_steps"])


def plain(data: Any, digits: int | None = None, infinity: bool = False) -> Any:
    """Makes data JSON-ready: arrays and NumPy numbers become lists and Python numbers, at any depth.

    Args:
      data: numbers, arrays, text, `None`, and dictionaries and lists of these.
      digits: number of significant digits to keep of each float; by default all.
      infinity: writes infinities as "inf" and "-inf". By default they are null, as NaN always is.
    """
    if isinstance(data, dict):
        return {name: plain(value, digits, infinity) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value, digits, infinity) for value in data]
    if hasattr(data, "tolist"):  # of NumPy or JAX
        return plain(data.tolist(), digits, infinity)
    if not isinstance(data, float):
        return data
    if math.isfinite(data):
        return data if digits is None else float(f"{data:.{digits}g}")
    return str(data) if infinity and not math.isnan(data) else None


def rows_of(
    seeds: Iterable[int], counts: Mapping[str, Any], shared: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[Row]:
    """One row per seed: `shared` numbers are in every row, `counts` and `metrics` are arrays [K], one entry each."""
    counts, metrics = ({name: np.asarray(x) for name, x in arrays.items()} for arrays in (counts, metrics))
    return [
        {"seed": seed}
        | {name: plain(x[i]) for name, x in counts.items()}
        | {name: plain(x) for name, x in shared.items()}
        | {name: plain(x[i]) for name, x in metrics.items()}
        for i, seed in enumerate(seeds)
    ]


def read(path: Path) -> list[Row]:
    """All rows. If a crash cut off the last line, it is left out.

    Raises:
      RunError: for a broken line before the last, with its number.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise RunError(f"{path}, line {number}: not a JSON object: {line[:60]!r}") from error
    return rows


class Log:
    """Appends rows to a file. With `keep`, the rows of epochs after `keep` are removed first (they are written again).

    With several processes, only one `writes`; the others only read the kept rows.
    """

    def __init__(self, path: Path, keep: int | None = None, writes: bool = True) -> None:
        self.kept = [] if keep is None else [row for row in read(path) if row["epoch"] <= keep]
        self._writes = writes
        if writes and keep is not None:
            draft = path.with_suffix(".tmp")
            try:
                draft.write_text("".join(json.dumps(row) + "\n" for row in self.kept), encoding="utf-8")
                rundir.sync(draft)
                draft.replace(path)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
        self._file: TextIO = (path if writes else Path(os.devnull)).open("a", encoding="utf-8")

    def write(self, rows: Iterable[Row]) -> None:
        """Appends the rows and flushes them to the operating system."""
        self._file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self._file.flush()

    def sync(self) -> None:
        """Waits until the rows are on the disk, safe from a power failure."""
        if self._writes:  # the null device cannot be synchronised
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
