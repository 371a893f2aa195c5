"""`metrics.jsonl`: one JSON object a row, one row per epoch and seed, flushed as it is written.

Every row has `seed`, `env_steps`, `model_steps`, `updates`, `epoch`, `wall_s`, `horizon` and the epoch's metrics
("part/what"); after an evaluation it also has `eval/return_mean`, `eval/return_std` and `eval/length_mean`. Numbers
that are not finite are written as `null`. Offline, `env_steps` is 0 and `offline_steps` is how far the schedule is.
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
OFFLINE = "offline_steps"  # of a run that takes no env steps: how far its schedule is
SKIPPED = ("seed", "env_steps", OFFLINE)  # what curves are drawn over or by, so that they are none themselves

Row = dict[str, Any]


def clock(row: Row) -> int:
    """How far a run was when it wrote a row: its env steps, or what stands for them offline."""
    return row.get(OFFLINE, row["env_steps"])


def plain(data: Any, digits: int | None = None, infinity: bool = False) -> Any:
    """Makes data JSON-ready: arrays and NumPy's numbers become lists and Python's numbers, at any depth.

    Args:
      data: numbers, arrays, text, `None`, and dictionaries and lists of these.
      digits: so many significant ones stay of each float; by default all.
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
    """All rows. A last line that was cut off by a crash is left out.

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
    """Appends rows to a file. With `keep`, the rows of later epochs are cut off first (they will be written again).

    Of several processes one `writes`; the others only read what is kept.
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
        """Appends the rows and hands them to the system at once."""
        self._file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self._file.flush()

    def sync(self) -> None:
        """Returns once the rows are on the disk, where no loss of power reaches them."""
        if self._writes:  # the null device cannot be synchronised
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
